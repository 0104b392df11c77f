//! Vectors of memories in PostgreSQL.

use async_trait::async_trait;
use jiff::Timestamp;
use sqlx::Row;
use sqlx::postgres::PgRow;

use super::PostgresDatabase;
use super::connections::Transaction;
use super::rows::{self, millis, number};
use crate::domain::caller_id::CallerId;
use crate::domain::ids::ConversationId;
use crate::domain::memory::MemoryVector;
use crate::domain::vector::Vector;
use crate::store::{Result, Urgency, VectorStore, WantingCaller};

/// [`VectorStore`] on PostgreSQL.
#[derive(Clone)]
pub struct PostgresVectorStore(PostgresDatabase);

impl PostgresVectorStore {
    /// The vector store in this database.
    #[must_use]
    pub fn new(database: PostgresDatabase) -> Self {
        Self(database)
    }
}

#[async_trait]
impl VectorStore for PostgresVectorStore {
    async fn vectors(
        &self,
        caller: &CallerId,
        kind: &str,
        limit: usize,
    ) -> Result<Vec<MemoryVector>> {
        let found = sqlx::query(
            "SELECT conversation_id, ordinal, said_at, vector FROM memory_vectors
             WHERE caller = $1 AND model = $2 ORDER BY said_at DESC LIMIT $3",
        )
        .bind(caller.as_str())
        .bind(kind)
        .bind(i64::try_from(limit).unwrap_or(i64::MAX))
        .fetch_all(&self.0.work)
        .await?;
        let vectors: Result<Vec<_>> = found.iter().map(vector).collect();
        Ok(vectors?.into_iter().flatten().collect())
    }

    async fn embedded(&self, caller: &CallerId, kind: &str) -> Result<Vec<(ConversationId, u32)>> {
        let found = sqlx::query(
            "SELECT conversation_id, ordinal FROM memory_vectors WHERE caller = $1 AND model = $2",
        )
        .bind(caller.as_str())
        .bind(kind)
        .fetch_all(&self.0.work)
        .await?;
        found
            .iter()
            .map(|row| Ok((rows::conversation(row)?, number(row, "ordinal")?)))
            .collect()
    }

    async fn want(&self, callers: Vec<CallerId>, urgency: Urgency) -> Result<()> {
        let callers: Vec<&str> = callers.iter().map(CallerId::as_str).collect();
        sqlx::query(
            "INSERT INTO embedding_queue (caller, not_before)
             SELECT DISTINCT caller, $2::bigint FROM unnest($1::text[]) AS c (caller)
             ON CONFLICT (caller) DO UPDATE SET
                 renewed = embedding_queue.renewed + 1,
                 not_before = least(embedding_queue.not_before, excluded.not_before)",
        )
        .bind(callers)
        .bind(urgency.not_before())
        .execute(&self.0.work)
        .await?;
        Ok(())
    }

    async fn next(&self, now: Timestamp) -> Result<Option<WantingCaller>> {
        let next = sqlx::query(
            "SELECT id, caller, renewed FROM embedding_queue
             WHERE not_before <= $1 ORDER BY not_before, id LIMIT 1",
        )
        .bind(millis(now))
        .fetch_optional(&self.0.work)
        .await?;
        next.map(|row| {
            Ok(WantingCaller {
                caller: rows::caller(&row, "caller")?,
                id: row.try_get("id")?,
                renewed: row.try_get("renewed")?,
            })
        })
        .transpose()
    }

    async fn waiting(&self) -> Result<u64> {
        let row = sqlx::query("SELECT count(*) AS waiting FROM embedding_queue")
            .fetch_one(&self.0.work)
            .await?;
        number(&row, "waiting")
    }

    async fn keep(
        &self,
        wanting: &WantingCaller,
        kind: &str,
        vectors: Vec<MemoryVector>,
    ) -> Result<bool> {
        let mut transaction = self.0.begin().await?;
        // Locked, so that an erasure comes before or after.
        let place = sqlx::query("SELECT 1 FROM embedding_queue WHERE id = $1 FOR UPDATE")
            .bind(wanting.id)
            .fetch_optional(&mut transaction)
            .await?;
        if place.is_none() {
            return Ok(false);
        }
        let calls: Vec<&str> = vectors.iter().map(|v| v.conversation_id.as_str()).collect();
        sqlx::query(
            "INSERT INTO memory_vectors (caller, conversation_id, ordinal, model, said_at, vector)
             SELECT $1, conversation_id, ordinal, $2, said_at, vector
             FROM unnest($3::text[], $4::bigint[], $5::bigint[], $6::bytea[])
                 AS v (conversation_id, ordinal, said_at, vector)
             ON CONFLICT (caller, conversation_id, ordinal) DO UPDATE SET
                 model = excluded.model, said_at = excluded.said_at, vector = excluded.vector",
        )
        .bind(wanting.caller.as_str())
        .bind(kind)
        .bind(calls)
        .bind(
            vectors
                .iter()
                .map(|v| i64::from(v.ordinal))
                .collect::<Vec<_>>(),
        )
        .bind(
            vectors
                .iter()
                .map(|v| millis(v.timestamp))
                .collect::<Vec<_>>(),
        )
        .bind(
            vectors
                .iter()
                .map(|v| v.vector.to_bytes())
                .collect::<Vec<_>>(),
        )
        .execute(&mut transaction)
        .await?;
        transaction.commit().await?;
        Ok(true)
    }

    async fn done(&self, wanting: &WantingCaller) -> Result<()> {
        sqlx::query("DELETE FROM embedding_queue WHERE id = $1 AND renewed = $2")
            .bind(wanting.id)
            .bind(wanting.renewed)
            .execute(&self.0.work)
            .await?;
        Ok(())
    }

    async fn postpone(&self, wanting: &WantingCaller, until: Timestamp) -> Result<()> {
        sqlx::query("UPDATE embedding_queue SET not_before = $2 WHERE id = $1")
            .bind(wanting.id)
            .bind(millis(until))
            .execute(&self.0.work)
            .await?;
        Ok(())
    }

    async fn forget(&self, caller: &CallerId) -> Result<()> {
        let mut transaction = self.0.begin().await?;
        forget(&mut transaction, caller).await?;
        transaction.commit().await?;
        Ok(())
    }

    async fn expire(&self, before: Timestamp) -> Result<()> {
        loop {
            let gone = sqlx::query(
                "DELETE FROM memory_vectors WHERE (caller, conversation_id, ordinal) IN
                     (SELECT caller, conversation_id, ordinal FROM memory_vectors
                      WHERE said_at < $1 LIMIT 1000)",
            )
            .bind(millis(before))
            .execute(&self.0.work)
            .await?;
            if gone.rows_affected() == 0 {
                return Ok(());
            }
        }
    }

    async fn kind(&self) -> Result<Option<String>> {
        Ok(sqlx::query_scalar("SELECT model FROM embedding_model")
            .fetch_optional(&self.0.work)
            .await?)
    }

    async fn forget_kind(&self) -> Result<()> {
        sqlx::query("DELETE FROM embedding_model")
            .execute(&self.0.work)
            .await?;
        Ok(())
    }

    async fn set_kind(&self, kind: &str) -> Result<()> {
        sqlx::query(
            "INSERT INTO embedding_model (id, model) VALUES (1, $1)
             ON CONFLICT (id) DO UPDATE SET model = excluded.model",
        )
        .bind(kind)
        .execute(&self.0.work)
        .await?;
        Ok(())
    }
}

/// Removes a caller's vectors, and the caller from the queue: that first, so
/// that whoever is making some keeps none.
pub(super) async fn forget(db: &mut Transaction, caller: &CallerId) -> Result<()> {
    for sql in [
        "DELETE FROM embedding_queue WHERE caller = $1",
        "DELETE FROM memory_vectors WHERE caller = $1",
    ] {
        sqlx::query(sql)
            .bind(caller.as_str())
            .execute(&mut *db)
            .await?;
    }
    Ok(())
}

/// `None` if it cannot be read: it is made anew.
fn vector(row: &PgRow) -> Result<Option<MemoryVector>> {
    let bytes: &[u8] = row.try_get("vector")?;
    let Ok(vector) = Vector::from_bytes(bytes) else {
        return Ok(None);
    };
    Ok(Some(MemoryVector {
        conversation_id: rows::conversation(row)?,
        ordinal: number(row, "ordinal")?,
        timestamp: rows::time(row, "said_at")?,
        vector,
    }))
}
