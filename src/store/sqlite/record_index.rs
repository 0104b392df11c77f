//! The index of records in SQLite.

use async_trait::async_trait;
use jiff::Timestamp;
use rusqlite::params;

use super::SqliteDatabase;
use super::rows::{self, first, millis, query};
use crate::store::{RecordIndex, Result};

/// Stands for "everything was indexed once".
const COMPLETE: &str = "";

/// [`RecordIndex`] on SQLite.
#[derive(Clone)]
pub struct SqliteRecordIndex(SqliteDatabase);

impl SqliteRecordIndex {
    /// The index in this database.
    #[must_use]
    pub fn new(database: SqliteDatabase) -> Self {
        Self(database)
    }

    async fn note(&self, caller: &str, now: Timestamp) -> Result<()> {
        let caller = caller.to_owned();
        self.0
            .write(move |db| {
                let sql = "INSERT INTO record_index_state (caller, since) VALUES (?1, ?2) ON CONFLICT DO NOTHING";
                db.prepare_cached(sql)?.execute(params![caller, millis(now)])?;
                Ok(())
            })
            .await
    }
}

#[async_trait]
impl RecordIndex for SqliteRecordIndex {
    async fn ids(&self, key: &str, limit: usize) -> Result<Vec<String>> {
        let key = key.to_owned();
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        self.0
            .read(move |db| {
                let sql =
                    "SELECT id FROM record_index WHERE key = ?1 ORDER BY position DESC LIMIT ?2";
                query(db, sql, params![key, limit], |row| Ok(row.get("id")?))
            })
            .await
    }

    async fn insert(&self, key: &str, caller: &str, id: &str) -> Result<()> {
        let (key, caller, id) = (key.to_owned(), caller.to_owned(), id.to_owned());
        self.0
            .write(move |db| {
                let sql = "INSERT INTO record_index (key, caller, id) VALUES (?1, ?2, ?3) ON CONFLICT DO NOTHING";
                db.prepare_cached(sql)?.execute([key, caller, id])?;
                Ok(())
            })
            .await
    }

    async fn is_complete(&self) -> Result<bool> {
        Ok(self.uncertain_since(COMPLETE).await?.is_some())
    }

    async fn set_complete(&self) -> Result<()> {
        self.note(COMPLETE, Timestamp::now()).await
    }

    async fn note_uncertain(&self, caller: &str, now: Timestamp) -> Result<()> {
        self.note(caller, now).await
    }

    async fn uncertain_since(&self, caller: &str) -> Result<Option<Timestamp>> {
        let caller = caller.to_owned();
        self.0
            .read(move |db| {
                let sql = "SELECT since FROM record_index_state WHERE caller = ?1";
                first(db, sql, [caller], |row| rows::time(row, "since"))
            })
            .await
    }

    async fn forget_uncertain(&self, caller: &str) -> Result<()> {
        let caller = caller.to_owned();
        self.0
            .write(move |db| {
                db.prepare_cached("DELETE FROM record_index_state WHERE caller = ?1")?
                    .execute([caller])?;
                Ok(())
            })
            .await
    }
}
