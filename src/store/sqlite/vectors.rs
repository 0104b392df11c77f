//! Vectors of memories in SQLite.

use async_trait::async_trait;
use jiff::Timestamp;
use rusqlite::{Connection, Row, params};

use super::SqliteDatabase;
use super::rows::{self, first, millis, query};
use crate::domain::caller_id::CallerId;
use crate::domain::ids::ConversationId;
use crate::domain::memory::MemoryVector;
use crate::domain::vector::Vector;
use crate::store::{Result, Urgency, VectorStore, WantingCaller};

/// [`VectorStore`] on SQLite.
#[derive(Clone)]
pub struct SqliteVectorStore(SqliteDatabase);

impl SqliteVectorStore {
    /// The vector store in this database.
    #[must_use]
    pub fn new(database: SqliteDatabase) -> Self {
        Self(database)
    }
}

#[async_trait]
impl VectorStore for SqliteVectorStore {
    async fn vectors(
        &self,
        caller: &CallerId,
        kind: &str,
        limit: usize,
    ) -> Result<Vec<MemoryVector>> {
        let (caller, kind) = (caller.clone(), kind.to_owned());
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        self.0
            .read(move |db| {
                let sql = "SELECT * FROM memory_vectors WHERE caller = ?1 AND model = ?2
                           ORDER BY said_at DESC LIMIT ?3";
                let found = query(db, sql, params![caller.as_str(), kind, limit], vector)?;
                Ok(found.into_iter().flatten().collect())
            })
            .await
    }

    async fn embedded(&self, caller: &CallerId, kind: &str) -> Result<Vec<(ConversationId, u32)>> {
        let (caller, kind) = (caller.clone(), kind.to_owned());
        self.0
            .read(move |db| {
                let sql = "SELECT conversation_id, ordinal FROM memory_vectors
                           WHERE caller = ?1 AND model = ?2";
                query(db, sql, [caller.as_str(), &kind], |row| {
                    Ok((rows::conversation_id(row)?, row.get("ordinal")?))
                })
            })
            .await
    }

    async fn want(&self, callers: Vec<CallerId>, urgency: Urgency) -> Result<()> {
        self.0
            .write(move |db| {
                let mut want = db.prepare_cached(
                    "INSERT INTO embedding_queue (caller, not_before) VALUES (?1, ?2)
                     ON CONFLICT (caller) DO UPDATE SET
                         renewed = renewed + 1, not_before = min(not_before, excluded.not_before)",
                )?;
                for caller in callers {
                    want.execute(params![caller.as_str(), urgency.not_before()])?;
                }
                Ok(())
            })
            .await
    }

    async fn next(&self, now: Timestamp) -> Result<Option<WantingCaller>> {
        self.0
            .read(move |db| {
                let sql = "SELECT id, caller, renewed FROM embedding_queue
                           WHERE not_before <= ?1 ORDER BY not_before, id LIMIT 1";
                first(db, sql, [millis(now)], |row| {
                    Ok(WantingCaller {
                        caller: rows::caller(row)?,
                        id: row.get("id")?,
                        renewed: row.get("renewed")?,
                    })
                })
            })
            .await
    }

    async fn waiting(&self) -> Result<u64> {
        self.0
            .read(|db| {
                let sql = "SELECT count(*) AS waiting FROM embedding_queue";
                let count = first(db, sql, [], |row| Ok(row.get::<_, i64>("waiting")?))?;
                Ok(u64::try_from(count.unwrap_or_default()).unwrap_or_default())
            })
            .await
    }

    async fn keep(
        &self,
        wanting: &WantingCaller,
        kind: &str,
        vectors: Vec<MemoryVector>,
    ) -> Result<bool> {
        let (wanting, kind) = (wanting.clone(), kind.to_owned());
        self.0
            .write(move |db| {
                let sql = "SELECT 1 FROM embedding_queue WHERE id = ?1";
                if first(db, sql, [wanting.id], |_| Ok(()))?.is_none() {
                    return Ok(false);
                }
                for of in &vectors {
                    keep(db, &wanting.caller, &kind, of)?;
                }
                Ok(true)
            })
            .await
    }

    async fn done(&self, wanting: &WantingCaller) -> Result<()> {
        let (id, renewed) = (wanting.id, wanting.renewed);
        self.0
            .write(move |db| {
                let sql = "DELETE FROM embedding_queue WHERE id = ?1 AND renewed = ?2";
                db.prepare_cached(sql)?.execute([id, renewed])?;
                Ok(())
            })
            .await
    }

    async fn postpone(&self, wanting: &WantingCaller, until: Timestamp) -> Result<()> {
        let id = wanting.id;
        self.0
            .write(move |db| {
                let sql = "UPDATE embedding_queue SET not_before = ?2 WHERE id = ?1";
                db.prepare_cached(sql)?.execute([id, millis(until)])?;
                Ok(())
            })
            .await
    }

    async fn forget(&self, caller: &CallerId) -> Result<()> {
        let caller = caller.clone();
        self.0.write(move |db| forget(db, &caller)).await
    }

    async fn expire(&self, before: Timestamp) -> Result<()> {
        loop {
            let gone = self
                .0
                .write(move |db| {
                    // In portions: the writer is not to be held up for long.
                    let sql =
                        "DELETE FROM memory_vectors WHERE (caller, conversation_id, ordinal) IN
                        (SELECT caller, conversation_id, ordinal FROM memory_vectors
                         WHERE said_at < ?1 LIMIT 1000)";
                    Ok(db.prepare_cached(sql)?.execute([millis(before)])?)
                })
                .await?;
            if gone == 0 {
                return Ok(());
            }
        }
    }

    async fn kind(&self) -> Result<Option<String>> {
        self.0
            .read(|db| {
                let sql = "SELECT model FROM embedding_model";
                first(db, sql, [], |row| Ok(row.get("model")?))
            })
            .await
    }

    async fn forget_kind(&self) -> Result<()> {
        self.0
            .write(|db| {
                db.execute("DELETE FROM embedding_model", [])?;
                Ok(())
            })
            .await
    }

    async fn set_kind(&self, kind: &str) -> Result<()> {
        let kind = kind.to_owned();
        self.0
            .write(move |db| {
                let sql = "INSERT OR REPLACE INTO embedding_model (id, model) VALUES (1, ?1)";
                db.prepare_cached(sql)?.execute([kind])?;
                Ok(())
            })
            .await
    }
}

/// Removes a caller's vectors, and the caller from the queue.
pub(super) fn forget(db: &Connection, caller: &CallerId) -> Result<()> {
    for table in ["embedding_queue", "memory_vectors"] {
        let sql = format!("DELETE FROM {table} WHERE caller = ?1");
        db.prepare_cached(&sql)?.execute([caller.as_str()])?;
    }
    Ok(())
}

fn keep(db: &Connection, caller: &CallerId, kind: &str, of: &MemoryVector) -> Result<()> {
    db.prepare_cached(
        "INSERT OR REPLACE INTO memory_vectors
             (caller, conversation_id, ordinal, model, said_at, vector)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
    )?
    .execute(params![
        caller.as_str(),
        of.conversation_id.as_str(),
        of.ordinal,
        kind,
        millis(of.timestamp),
        of.vector.to_bytes(),
    ])?;
    Ok(())
}

/// `None` if it cannot be read: it is made anew.
fn vector(row: &Row<'_>) -> Result<Option<MemoryVector>> {
    let bytes: Vec<u8> = row.get("vector")?;
    let Ok(vector) = Vector::from_bytes(&bytes) else {
        return Ok(None);
    };
    Ok(Some(MemoryVector {
        conversation_id: rows::conversation_id(row)?,
        ordinal: row.get("ordinal")?,
        timestamp: rows::time(row, "said_at")?,
        vector,
    }))
}
