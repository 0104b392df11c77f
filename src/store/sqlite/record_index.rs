//! The index of records in SQLite.

use async_trait::async_trait;
use jiff::Timestamp;
use rusqlite::params;

use super::SqliteDatabase;
use super::register;
use super::rows::{self, first, millis, query};
use crate::store::Result;
use crate::store::openmemory::{IndexedRecord, RecordIndex};

/// Stands for "everything was indexed once", with what the legacy system left.
/// No caller has this id. (The empty one stood for our own records alone.)
const COMPLETE: &str = "*";

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
    async fn records(&self, key: &str, limit: usize) -> Result<Vec<IndexedRecord>> {
        let key = key.to_owned();
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        self.0
            .read(move |db| {
                let sql = "SELECT * FROM record_index WHERE key = ?1
                           ORDER BY created_at DESC, position DESC LIMIT ?2";
                query(db, sql, params![key, limit], |row| {
                    Ok(IndexedRecord {
                        key: row.get("key")?,
                        caller: row.get("caller")?,
                        id: row.get("id")?,
                        created_at: row.get("created_at")?,
                        sector: row.get("sector")?,
                    })
                })
            })
            .await
    }

    async fn insert(&self, records: Vec<IndexedRecord>) -> Result<usize> {
        self.0
            .write(move |db| {
                let mut insert = db.prepare_cached(
                    "INSERT INTO record_index (key, caller, id, created_at, sector)
                     VALUES (?1, ?2, ?3, ?4, ?5) ON CONFLICT DO NOTHING",
                )?;
                let mut new = 0;
                for r in records {
                    new +=
                        insert.execute(params![r.key, r.caller, r.id, r.created_at, r.sector])?;
                }
                Ok(new)
            })
            .await
    }

    async fn remove(&self, key: &str, ids: Vec<String>) -> Result<()> {
        let key = key.to_owned();
        self.0
            .write(move |db| {
                let sql = "DELETE FROM record_index WHERE key = ?1 AND id = ?2";
                let mut delete = db.prepare_cached(sql)?;
                for id in ids {
                    delete.execute([&key, &id])?;
                }
                Ok(())
            })
            .await
    }

    async fn forget_caller(&self, caller: &str) -> Result<()> {
        let caller = caller.to_owned();
        self.0
            .write(move |db| {
                db.prepare_cached("DELETE FROM record_index WHERE caller = ?1")?
                    .execute([caller])?;
                Ok(())
            })
            .await
    }

    async fn is_erased(&self, mark: &str) -> Result<bool> {
        let mark = mark.to_owned();
        self.0.read(move |db| register::is_buried(db, &mark)).await
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
