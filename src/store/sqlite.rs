//! SQLite, the embedded default: one file, one writer, a few readers.
//!
//! - One writer thread owns the only connection that writes. It commits what
//!   has queued up in one transaction (group commit), so that many calls that
//!   end at once share one flush to disk.
//! - `synchronous=FULL` in WAL mode: a commit survives a power loss. The 200 of
//!   a post-call webhook promises that; `NORMAL` would not keep it.
//! - Readers are separate connections that see the last commit and never wait
//!   for the writer.

mod backup;
mod dump;
mod integrity;
mod ledger;
mod memory;
mod readers;
mod record_index;
mod register;
mod rows;
mod vectors;
mod writer;

use std::fs::{DirBuilder, File, OpenOptions};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rusqlite::{Connection, OpenFlags};
use tokio::time::timeout;

pub use backup::{Progress as BackupProgress, Restored, back_up, restore};
pub use integrity::Contents;
pub use ledger::SqliteLedger;
pub use memory::SqliteMemoryStore;
pub use record_index::SqliteRecordIndex;
pub use register::SqliteRegister;
pub use vectors::SqliteVectorStore;

use super::{Result, StoreError, folder_of};
use readers::Readers;
use writer::{Turn, Writer};

/// Read connections: enough to keep a few cores busy.
const READERS: usize = 4;
/// Pages in the log before they are written to the database file. Pages that
/// change with every call are written there once in so many.
const CHECKPOINT_PAGES: u32 = 8_000;
/// Memory for pages of the writer, in KiB.
const WRITER_CACHE_KIB: i32 = 16 * 1024;
/// The same for each reader: enough for the inner pages of the trees of a
/// million callers, so that a cold ring reads little but the leaves.
const READER_CACHE_KIB: i32 = 8 * 1024;
/// How long a connection waits for another process's lock.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);
/// Longest wait for the end: a disk that hangs must not keep the process.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);
/// Longest wait for any single operation.
const OPERATION_TIMEOUT: Duration = Duration::from_secs(10);

/// Schema versions in order; `user_version` counts those applied.
const MIGRATIONS: &[&str] = &[
    include_str!("sqlite/migrations/0001_initial.sql"),
    include_str!("sqlite/migrations/0002_archive_lane.sql"),
    include_str!("sqlite/migrations/0003_memories.sql"),
    include_str!("sqlite/migrations/0004_sources.sql"),
    include_str!("sqlite/migrations/0005_privacy.sql"),
    include_str!("sqlite/migrations/0006_traces.sql"),
    include_str!("sqlite/migrations/0007_reconciliation.sql"),
    include_str!("sqlite/migrations/0008_search.sql"),
];

/// An open database. Cheap to clone.
#[derive(Clone)]
pub struct SqliteDatabase {
    inner: Arc<Inner>,
}

struct Inner {
    writer: Writer,
    readers: Readers,
    /// Held until the process ends: two services on one file would each hold
    /// sessions of the same callers.
    _lock: File,
}

impl From<rusqlite::Error> for StoreError {
    fn from(error: rusqlite::Error) -> Self {
        use rusqlite::Error as E;
        match error {
            // The message of these quotes the value, which may be a caller's.
            E::FromSqlConversionFailure(column, ..)
            | E::InvalidColumnType(column, ..)
            | E::IntegralValueOutOfRange(column, _) => {
                Self::Corrupt(format!("column {column} has an unexpected value"))
            }
            other => Self::Unavailable(other.to_string()),
        }
    }
}

impl SqliteDatabase {
    /// Opens the database at `path`, creating and migrating it as needed.
    ///
    /// # Errors
    /// If the file cannot be opened, is in use by another process, is damaged or
    /// no database, or was made by a newer version. Then it is left as it is.
    pub fn open(path: &Path) -> Result<Self> {
        let lock = lock(path)?;
        integrity::examine(path)?;
        // The log beside the database gets the database's permissions.
        private_file(path).map_err(|e| cannot_open(path, &e))?;

        let mut connection = connect(
            path,
            OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE,
        )?;
        connection.pragma_update(None, "journal_mode", "WAL")?;
        connection.pragma_update(None, "synchronous", "FULL")?;
        connection.pragma_update(None, "wal_autocheckpoint", CHECKPOINT_PAGES)?;
        connection.pragma_update(None, "cache_size", -WRITER_CACHE_KIB)?;
        // What is deleted is overwritten, so that nobody reads it in free pages.
        connection.pragma_update(None, "secure_delete", "ON")?;
        migrate(&mut connection)?;

        let readers = (0..READERS)
            .map(|_| {
                let reader = connect(path, OpenFlags::SQLITE_OPEN_READ_ONLY)?;
                reader.pragma_update(None, "cache_size", -READER_CACHE_KIB)?;
                Ok(reader)
            })
            .collect::<Result<Vec<_>>>()?;
        Ok(Self {
            inner: Arc::new(Inner {
                writer: Writer::start(connection)?,
                readers: Readers::start(readers)?,
                _lock: lock,
            }),
        })
    }

    /// As [`Self::open`], for commands that work on what a service keeps: none is
    /// made where there is none.
    ///
    /// # Errors
    /// If there is none, or as [`Self::open`].
    pub fn open_existing(path: &Path) -> Result<Self> {
        // What is missing where one was is refused there.
        if !path.exists() && !integrity::examine(path)? {
            return Err(StoreError::File(format!(
                "there is no database at {} (DATABASE_URL); the service makes one at its first start",
                path.display()
            )));
        }
        Self::open(path)
    }

    /// Runs `work` in the next transaction; returns once that is on disk.
    async fn write<T, F>(&self, work: F) -> Result<T>
    where
        T: Send + 'static,
        F: FnOnce(&Connection) -> Result<T> + Send + 'static,
    {
        self.write_in(Turn::Background, work).await
    }

    /// The same, before all that is only [written](Self::write): somebody waits.
    async fn write_first<T, F>(&self, work: F) -> Result<T>
    where
        T: Send + 'static,
        F: FnOnce(&Connection) -> Result<T> + Send + 'static,
    {
        self.write_in(Turn::First, work).await
    }

    async fn write_in<T, F>(&self, turn: Turn, work: F) -> Result<T>
    where
        T: Send + 'static,
        F: FnOnce(&Connection) -> Result<T> + Send + 'static,
    {
        timeout(OPERATION_TIMEOUT, self.inner.writer.run(turn, work))
            .await
            .unwrap_or_else(|_| Err(StoreError::Unavailable("writing took too long".into())))
    }

    /// Runs `work` on a read connection.
    async fn read<T, F>(&self, work: F) -> Result<T>
    where
        T: Send + 'static,
        F: FnOnce(&Connection) -> Result<T> + Send + 'static,
    {
        timeout(OPERATION_TIMEOUT, self.inner.readers.run(work))
            .await
            .unwrap_or_else(|_| Err(StoreError::Unavailable("reading took too long".into())))
    }

    /// Folds the log into the database file and empties it.
    async fn checkpoint(&self) -> Result<()> {
        self.inner.writer.checkpoint().await
    }

    /// Writes a row: proves that the disk takes it.
    async fn check_writable(&self) -> Result<()> {
        self.write(|connection| {
            connection
                .prepare_cached(
                    "INSERT OR REPLACE INTO heartbeat (id, at, ballast) VALUES (1, unixepoch(), zeroblob(131072))",
                )?
                .execute([])?;
            Ok(())
        })
        .await
    }

    /// Finishes what is queued, folds the log into the database file and
    /// stops the writer, within a few seconds or not at all. Later operations fail.
    pub async fn close(&self) {
        self.inner.readers.close();
        if timeout(CLOSE_TIMEOUT, self.inner.writer.close())
            .await
            .is_err()
        {
            tracing::warn!("The database did not close in time");
        }
    }
}

/// Holds the database at `path` for this process until the file is dropped.
/// Makes the folder if there is none.
fn lock(path: &Path) -> Result<File> {
    let folder = folder_of(path);
    // Callers' data: for the service's own user only.
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(folder)
        .map_err(|e| StoreError::File(format!("cannot create {}: {e}", folder.display())))?;
    let lock_path = sibling(path, ".lock");
    let lock = private_file(&lock_path).map_err(|e| cannot_open(&lock_path, &e))?;
    lock.try_lock()
        .map_err(|_| StoreError::InUse(path.display().to_string()))?;
    Ok(lock)
}

fn cannot_open(path: &Path, error: &dyn std::fmt::Display) -> StoreError {
    StoreError::File(format!(
        "cannot open {} for writing: {error}",
        path.display()
    ))
}

/// Opens or creates a file that nobody else may read.
fn private_file(path: &Path) -> std::io::Result<File> {
    OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .mode(0o600)
        .open(path)
}

fn sibling(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

fn connect(path: &Path, flags: OpenFlags) -> Result<Connection> {
    let connection = Connection::open_with_flags(path, flags | OpenFlags::SQLITE_OPEN_NO_MUTEX)
        .map_err(|e| StoreError::File(format!("cannot open {}: {e}", path.display())))?;
    connection.busy_timeout(BUSY_TIMEOUT)?;
    connection.set_prepared_statement_cache_capacity(64);
    Ok(connection)
}

fn migrate(connection: &mut Connection) -> Result<()> {
    let version = integrity::schema_version(connection)?;
    integrity::known(version)?;
    let applied = version as usize;
    for (version, script) in (1..).zip(MIGRATIONS).skip(applied) {
        let transaction = connection.transaction()?;
        transaction.execute_batch(script)?;
        transaction.pragma_update(None, "user_version", version)?;
        transaction.commit()?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_database_opens_once_migrates_and_refuses_the_future() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("new/elaoms.db");
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let database = SqliteDatabase::open(&path).unwrap();
        let second = SqliteDatabase::open(&path).err().unwrap();
        assert!(second.to_string().contains("in use"), "{second}");
        runtime.block_on(database.close());
        drop(database);

        let again = SqliteDatabase::open(&path).unwrap();
        runtime.block_on(async {
            again
                .write(|c| Ok(c.pragma_update(None, "user_version", 99)?))
                .await
                .unwrap();
            again.close().await;
        });
        drop(again);
        let newer = SqliteDatabase::open(&path).err().unwrap();
        assert!(newer.to_string().contains("schema version 99"), "{newer}");
    }

    #[test]
    fn a_backlog_of_the_first_version_is_archived_after_the_upgrade() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("elaoms.db");
        let old = Connection::open(&path).unwrap();
        old.execute_batch(MIGRATIONS[0]).unwrap();
        old.pragma_update(None, "user_version", 1).unwrap();
        for (key, kind, stage, state, payload) in [
            (
                "a",
                "post_call_transcription",
                "archive",
                "ready",
                Some("a"),
            ),
            ("b", "post_call_transcription", "learn", "ready", Some("b")),
            ("c", "post_call_transcription", "greet", "done", None),
            ("d", "unknown", "archive", "dead", Some("d")),
        ] {
            let sql =
                "INSERT INTO inbox (event_key, kind, conversation_id, started_at, greeting_wanted,
                    stage, state, run_at, received_at, payload)
                VALUES (?1, ?2, ?1, 0, 0, ?3, ?4, 0, 0, CAST(?5 AS BLOB))";
            old.execute(sql, rusqlite::params![key, kind, stage, state, payload])
                .unwrap();
        }
        drop(old);
        let runtime = tokio::runtime::Runtime::new().unwrap();
        runtime.block_on(async {
            use crate::store::Ledger;
            let database = SqliteDatabase::open(&path).unwrap();
            let ledger = SqliteLedger::new(database.clone());
            let now = jiff::Timestamp::now();
            let due = ledger.to_archive(now, 10, usize::MAX).await.unwrap();
            let keys: Vec<&str> = due.iter().map(|e| e.key.conversation_id.as_str()).collect();
            assert_eq!(keys, ["a", "b"]);
            let stats = ledger.stats().await.unwrap();
            assert_eq!((stats.pending, stats.dead_letters), (2, 1));
            database.close().await;
        });
    }
}
