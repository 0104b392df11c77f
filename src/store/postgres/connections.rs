//! Connections to the database: straight, or through a pooler that lends one
//! for a transaction at a time (pgbouncer's `pool_mode = transaction`).
//!
//! Such a pooler may run each transaction on another connection. So nothing is
//! left behind on one: no prepared statement, no setting, and each statement
//! is in a transaction, because the driver parses and runs it in two steps.

use std::str::FromStr;
use std::time::Duration;

use futures_util::future::BoxFuture;
use futures_util::stream::{self, BoxStream};
use futures_util::{FutureExt, StreamExt, TryFutureExt, TryStreamExt};
use sqlx::error::BoxDynError;
use sqlx::postgres::{
    PgArguments, PgConnectOptions, PgPool, PgPoolOptions, PgQueryResult, PgRow, PgStatement,
    PgTypeInfo,
};
use sqlx::{Either, Execute, Executor, Postgres, SqlStr};

use crate::store::Result;

/// Longest wait for a connection.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(3);
/// What a URL says in which a pooler is meant.
const THROUGH_A_POOLER: &str = "pool_mode=transaction";

/// The limits that the database itself keeps, in milliseconds, once for a
/// session and once for a transaction. An idle transaction lasts for less than
/// others wait for its locks, and an acknowledgement promises durability.
macro_rules! limits {
    ($of:ident) => {
        $of! {
            "statement_timeout" = "10000",
            "lock_timeout" = "5000",
            "idle_in_transaction_session_timeout" = "4000",
            "synchronous_commit" = "on",
        }
    };
}
macro_rules! of_a_session {
    ($($name:literal = $value:literal,)*) => { [$(($name, $value)),*] };
}
macro_rules! of_a_transaction {
    ($($name:literal = $value:literal,)*) => {
        concat!("BEGIN;", $("SET LOCAL ", $name, " = ", $value, ";"),*)
    };
}

macro_rules! unflushed {
    () => {
        "SET LOCAL synchronous_commit = off;"
    };
}

/// Where the database is.
#[derive(Clone)]
pub(super) struct Server {
    options: PgConnectOptions,
    through_a_pooler: bool,
}

impl Server {
    /// # Errors
    /// If the URL cannot be used.
    pub fn parse(url: &str) -> Result<Self> {
        let (address, parameters) = url.split_once('?').unwrap_or((url, ""));
        let (ours, others): (Vec<&str>, Vec<&str>) =
            parameters.split('&').partition(|p| *p == THROUGH_A_POOLER);
        let options = PgConnectOptions::from_str(&format!("{address}?{}", others.join("&")))?
            // Poolers know nothing of it, and it is PostgreSQL's own by now.
            .extra_float_digits(None)
            .application_name("elaoms");
        let through_a_pooler = !ours.is_empty();
        Ok(Self {
            options: if through_a_pooler {
                options
            } else {
                options.options(limits!(of_a_session))
            },
            through_a_pooler,
        })
    }

    /// At most so many connections, opened as needed.
    pub fn connections(&self, most: u32) -> Connections {
        let pool = PgPoolOptions::new()
            .max_connections(most)
            .acquire_timeout(ACQUIRE_TIMEOUT)
            .connect_lazy_with(self.options.clone());
        Connections {
            pool,
            through_a_pooler: self.through_a_pooler,
        }
    }
}

/// A pool of connections; a single statement may run on it. Cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct Connections {
    pool: PgPool,
    through_a_pooler: bool,
}

impl Connections {
    pub async fn begin(&self) -> sqlx::Result<Transaction> {
        let inner = if self.through_a_pooler {
            self.pool.begin_with(limits!(of_a_transaction)).await?
        } else {
            self.pool.begin().await?
        };
        Ok(self.transaction(inner))
    }

    /// A transaction whose commit does not wait for the disk: a crash of the
    /// database may undo it, though whoever committed it lives on. For what is
    /// found undone, and done again, then.
    pub async fn begin_unflushed(&self) -> sqlx::Result<Transaction> {
        let begin = if self.through_a_pooler {
            concat!(limits!(of_a_transaction), unflushed!())
        } else {
            concat!("BEGIN;", unflushed!())
        };
        let inner = self.pool.begin_with(begin).await?;
        Ok(self.transaction(inner))
    }

    fn transaction(&self, inner: sqlx::Transaction<'static, Postgres>) -> Transaction {
        Transaction {
            inner,
            through_a_pooler: self.through_a_pooler,
        }
    }

    /// How many are in use.
    pub fn busy(&self) -> u32 {
        let idle = u32::try_from(self.pool.num_idle()).unwrap_or(u32::MAX);
        self.pool.size().saturating_sub(idle)
    }

    pub async fn close(&self) {
        self.pool.close().await;
    }
}

/// A transaction; it is rolled back if it is dropped.
#[derive(Debug)]
pub(super) struct Transaction {
    inner: sqlx::Transaction<'static, Postgres>,
    through_a_pooler: bool,
}

impl Transaction {
    pub async fn commit(self) -> sqlx::Result<()> {
        self.inner.commit().await
    }
}

/// A statement that leaves no name behind on its connection.
struct Unnamed<E>(E);

impl<'q, E: Execute<'q, Postgres>> Execute<'q, Postgres> for Unnamed<E> {
    fn sql(self) -> SqlStr {
        self.0.sql()
    }

    fn statement(&self) -> Option<&PgStatement> {
        self.0.statement()
    }

    fn take_arguments(&mut self) -> std::result::Result<Option<PgArguments>, BoxDynError> {
        self.0.take_arguments()
    }

    fn persistent(&self) -> bool {
        false
    }
}

impl<'c> Executor<'c> for &'c mut Transaction {
    type Database = Postgres;

    fn fetch_many<'e, 'q: 'e, E>(
        self,
        query: E,
    ) -> BoxStream<'e, sqlx::Result<Either<PgQueryResult, PgRow>>>
    where
        'c: 'e,
        E: 'q + Execute<'q, Postgres>,
    {
        if self.through_a_pooler {
            self.inner.fetch_many(Unnamed(query))
        } else {
            self.inner.fetch_many(query)
        }
    }

    fn fetch_optional<'e, 'q: 'e, E>(self, query: E) -> BoxFuture<'e, sqlx::Result<Option<PgRow>>>
    where
        'c: 'e,
        E: 'q + Execute<'q, Postgres>,
    {
        if self.through_a_pooler {
            self.inner.fetch_optional(Unnamed(query))
        } else {
            self.inner.fetch_optional(query)
        }
    }

    fn prepare_with<'e>(
        self,
        sql: SqlStr,
        parameters: &'e [PgTypeInfo],
    ) -> BoxFuture<'e, sqlx::Result<PgStatement>>
    where
        'c: 'e,
    {
        self.inner.prepare_with(sql, parameters)
    }
}

impl<'p> Executor<'p> for &'_ Connections {
    type Database = Postgres;

    fn fetch_many<'e, 'q: 'e, E>(
        self,
        query: E,
    ) -> BoxStream<'e, sqlx::Result<Either<PgQueryResult, PgRow>>>
    where
        'p: 'e,
        E: 'q + Execute<'q, Postgres>,
    {
        if !self.through_a_pooler {
            return self.pool.fetch_many(query);
        }
        let connections = self.clone();
        let all = async move {
            let mut transaction = connections.begin().await?;
            let all: Vec<_> = transaction.fetch_many(query).try_collect().await?;
            transaction.commit().await?;
            Ok(stream::iter(all).map(Ok))
        };
        all.try_flatten_stream().boxed()
    }

    fn fetch_optional<'e, 'q: 'e, E>(self, query: E) -> BoxFuture<'e, sqlx::Result<Option<PgRow>>>
    where
        'p: 'e,
        E: 'q + Execute<'q, Postgres>,
    {
        if !self.through_a_pooler {
            return self.pool.fetch_optional(query);
        }
        let connections = self.clone();
        let row = async move {
            let mut transaction = connections.begin().await?;
            let row = transaction.fetch_optional(query).await?;
            transaction.commit().await?;
            Ok(row)
        };
        row.boxed()
    }

    fn prepare_with<'e>(
        self,
        sql: SqlStr,
        parameters: &'e [PgTypeInfo],
    ) -> BoxFuture<'e, sqlx::Result<PgStatement>>
    where
        'p: 'e,
    {
        self.pool.prepare_with(sql, parameters)
    }
}
