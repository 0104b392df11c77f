//! PostgreSQL: several instances of the service, one memory.
//!
//! - Whoever changes a caller or the caller's queue locks the caller's row in
//!   `caller_locks` first, and several callers in the order of their ids, so
//!   that changes take turns across instances and no two wait for each other.
//! - Of a caller's calls one at a time is being learned, by one instance: a
//!   partial unique index says so even if the code forgets.
//! - What an instance has claimed is its own while it lives, by the database's
//!   clock. Each claim raises a fence number: an instance that was paused and
//!   wakes up settles and learns nothing that was taken over meanwhile.
//! - What is acknowledged, learned or greeted is on disk. That an event is settled
//!   need not be: should the database crash, it is found done, and settled again.
//! - A ring is one statement, on any instance, so it shows what any instance
//!   has committed.

/// This moment by the database's clock, in milliseconds.
macro_rules! clock {
    () => {
        "(extract(epoch FROM clock_timestamp()) * 1000)::bigint"
    };
}

mod acceptor;
mod adopt;
mod connections;
mod instance;
mod ledger;
mod memory;
mod migrations;
mod register;
mod rows;
mod vectors;

use std::io::ErrorKind;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use sha2::{Digest, Sha256};
use tokio::time::timeout;

pub use adopt::move_ledger;
pub use ledger::PostgresLedger;
pub use memory::PostgresMemoryStore;
pub use register::PostgresRegister;
pub use vectors::PostgresVectorStore;

use super::{Result, StoreError};
use crate::domain::caller_id::CallerId;
use acceptor::Acceptor;
use connections::{Connections, Server, Transaction};
use instance::Instance;

/// Connections for rings and searches, on which a caller waits.
const RING_CONNECTIONS: u32 = 8;
/// Longest wait for the end of the connections.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);
/// Longest wait for the tables: another instance may be making them.
const OPEN_TIMEOUT: Duration = Duration::from_secs(30);
/// Connections for everything else.
const WORK_CONNECTIONS: u32 = 16;
/// Connections for taking events in, which must not wait for those that learn.
const ACCEPT_CONNECTIONS: u32 = acceptor::WRITERS as u32;

/// An open database. Cheap to clone.
#[derive(Clone)]
pub struct PostgresDatabase {
    rings: Connections,
    work: Connections,
    instance: Arc<Instance>,
    acceptor: Acceptor,
    clock: Clock,
}

/// Whose time the queue goes by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Clock {
    /// The database's: instances need not agree.
    Database,
    /// That of whoever asks: for tests that tell the time.
    Given,
}

impl From<sqlx::Error> for StoreError {
    fn from(error: sqlx::Error) -> Self {
        use sqlx::Error as E;
        match error {
            // The message of these may quote a value, which may be a caller's.
            E::ColumnDecode { index, .. } => {
                Self::Corrupt(format!("column {index} has an unexpected value"))
            }
            E::Database(error) => {
                let code = error.code().unwrap_or_default().into_owned();
                Self::Unavailable(match code.as_str() {
                    "3D000" => "PostgreSQL has no such database".into(),
                    "08P01" | "42P05" | "26000" => {
                        "PostgreSQL, or a pooler before it, refuses how it is spoken to (a pooler needs \
                         pool_mode=transaction in the URL)"
                            .into()
                    }
                    "28000" | "28P01" => "PostgreSQL refuses the user or the password".into(),
                    _ => format!("PostgreSQL refused a statement (SQLSTATE {code})"),
                })
            }
            E::Io(error) if error.kind() == ErrorKind::InvalidData => Self::Unavailable(
                "PostgreSQL's TLS certificate is not accepted (see sslmode and sslrootcert in the URL)".into(),
            ),
            E::Io(error) => {
                Self::Unavailable(format!("PostgreSQL does not answer ({})", error.kind()))
            }
            E::PoolTimedOut => Self::Unavailable(
                "PostgreSQL gives no connection in time: it does not answer, or all are in use"
                    .into(),
            ),
            E::PoolClosed => Self::Unavailable("the connections to PostgreSQL are closed".into()),
            E::Tls(_) => Self::Unavailable("PostgreSQL: TLS failed".into()),
            other => Self::Unavailable(format!("PostgreSQL: {}", kind(&other))),
        }
    }
}

/// What went wrong, without anything that was stored or configured.
fn kind(error: &sqlx::Error) -> &'static str {
    use sqlx::Error as E;
    match error {
        E::Protocol(_) => "its answer is not understood",
        E::RowNotFound => "a row is missing",
        E::ColumnNotFound(_) | E::ColumnIndexOutOfBounds { .. } => "a column is missing",
        E::Configuration(_) => {
            "the URL cannot be used (in a password, write %40 for @ and %2F for /)"
        }
        _ => "it failed",
    }
}

impl PostgresDatabase {
    /// Connects to the database, and migrates it as needed: safe with several
    /// instances starting at once. In a URL with `pool_mode=transaction` the
    /// server is a pooler that lends connections for a transaction at a time.
    ///
    /// # Errors
    /// If it does not answer, or was made by a newer version.
    pub async fn open(url: &str) -> Result<Self> {
        Self::open_with(url, Clock::Database).await
    }

    /// As [`Self::open`], for commands that work on what a service keeps.
    ///
    /// # Errors
    /// If no service ever used the database, or as [`Self::open`].
    pub async fn open_existing(url: &str) -> Result<Self> {
        let connections = Server::parse(url)?.connections(1);
        let is_there = migrations::any(&connections).await;
        connections.close().await;
        if is_there? {
            Self::open(url).await
        } else {
            Err(StoreError::File(
                "there are no tables of ELAOMS in the database (DATABASE_URL); the service makes them at its \
                 first start"
                    .into(),
            ))
        }
    }

    /// As [`Self::open`], by another clock.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub async fn open_with(url: &str, clock: Clock) -> Result<Self> {
        let server = Server::parse(url)?;
        let rings = server.connections(RING_CONNECTIONS);
        let work = server.connections(WORK_CONNECTIONS);
        let ready = timeout(OPEN_TIMEOUT, migrations::run(&work)).await;
        ready.unwrap_or_else(|_| {
            Err(StoreError::Unavailable(
                "PostgreSQL, or a pooler before it, does not answer in time".into(),
            ))
        })?;
        // What it says must not wait for anything else.
        let instance = Instance::start(server.connections(1), work.clone()).await?;
        Ok(Self {
            acceptor: Acceptor::start(server.connections(ACCEPT_CONNECTIONS)),
            rings,
            work,
            instance: Arc::new(instance),
            clock,
        })
    }

    /// Gives back what is claimed, and closes the connections, within a few
    /// seconds or not at all.
    pub async fn close(&self) {
        let close = async {
            self.instance.leave().await;
            self.acceptor.close().await;
            self.rings.close().await;
            self.work.close().await;
        };
        if timeout(CLOSE_TIMEOUT, close).await.is_err() {
            tracing::warn!("PostgreSQL does not answer; its connections are dropped");
        }
    }

    async fn begin(&self) -> Result<Transaction> {
        Ok(self.work.begin().await?)
    }

    /// See [`Connections::begin_unflushed`].
    async fn begin_unflushed(&self) -> Result<Transaction> {
        Ok(self.work.begin_unflushed().await?)
    }

    /// The time of the queue, as a parameter: NULL for the database's own.
    fn now(&self, given: Timestamp) -> Option<i64> {
        match self.clock {
            Clock::Database => None,
            Clock::Given => Some(given.as_millisecond()),
        }
    }

    /// A time that was told by our clock, as milliseconds from now on by the
    /// database's; by a given clock as it is.
    fn later(&self, at: Timestamp) -> (Option<i64>, i64) {
        match self.clock {
            Clock::Database => {
                let delay = at.duration_since(Timestamp::now()).as_millis();
                (None, i64::try_from(delay).unwrap_or(i64::MAX / 4).max(0))
            }
            Clock::Given => (Some(at.as_millisecond()), 0),
        }
    }

    async fn check_writable(&self) -> Result<()> {
        sqlx::query(
            "INSERT INTO heartbeat (id, at) VALUES (1, clock_timestamp())
             ON CONFLICT (id) DO UPDATE SET at = excluded.at",
        )
        .execute(&self.work)
        .await?;
        Ok(())
    }
}

/// Locks callers until the transaction ends.
async fn lock_callers(db: &mut Transaction, callers: &[&str]) -> sqlx::Result<()> {
    let slots: Vec<i32> = callers.iter().map(|caller| slot(caller)).collect();
    lock_slots(db, &slots).await
}

async fn lock_slots(db: &mut Transaction, slots: &[i32]) -> sqlx::Result<()> {
    // In one order, so that no two transactions wait for each other.
    sqlx::query("SELECT slot FROM caller_locks WHERE slot = ANY($1) ORDER BY slot FOR UPDATE")
        .bind(slots)
        .execute(db)
        .await?;
    Ok(())
}

async fn lock_caller(db: &mut Transaction, caller: &CallerId) -> sqlx::Result<()> {
    lock_callers(db, &[caller.as_str()]).await
}

/// The lock of a caller: two that share one wait for each other, and nothing
/// else. The same in every version of the program.
fn slot(caller: &str) -> i32 {
    let hash = Sha256::digest(caller);
    i32::from(u16::from_be_bytes([hash[0], hash[1]]))
}
