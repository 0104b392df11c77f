//! Reading everything but the memories out, to be moved to another database.

use rusqlite::params;

use super::SqliteDatabase;
use super::rows::query;
use crate::store::Result;
use crate::store::transfer::{AuditRow, InboxRow, LearnedRow};

impl SqliteDatabase {
    /// Events of the inbox after the one with this number, in their order.
    pub(in crate::store) async fn inbox_after(
        &self,
        after: i64,
        limit: i64,
    ) -> Result<Vec<InboxRow>> {
        self.read(move |db| {
            let sql = "SELECT * FROM inbox WHERE id > ?1 ORDER BY id LIMIT ?2";
            query(db, sql, params![after, limit], |row| {
                Ok(InboxRow {
                    id: row.get("id")?,
                    event_key: row.get("event_key")?,
                    kind: row.get("kind")?,
                    conversation_id: row.get("conversation_id")?,
                    agent: row.get("agent")?,
                    caller: row.get("caller")?,
                    started_at: row.get("started_at")?,
                    greeting_wanted: row.get("greeting_wanted")?,
                    stage: row.get("stage")?,
                    state: row.get("state")?,
                    attempts: row.get("attempts")?,
                    crashes: row.get("crashes")?,
                    unusable: row.get("unusable")?,
                    run_at: row.get("run_at")?,
                    received_at: row.get("received_at")?,
                    greet_since: row.get("greet_since")?,
                    archived: row.get("archived")?,
                    archive_at: row.get("archive_at")?,
                    last_error: row.get("last_error")?,
                    payload: row.get("payload")?,
                })
            })
        })
        .await
    }

    /// Learned calls after this one, in the order of their ids.
    pub(in crate::store) async fn learned_after(
        &self,
        after: String,
        limit: i64,
    ) -> Result<Vec<LearnedRow>> {
        self.read(move |db| {
            let sql = "SELECT * FROM learned_calls WHERE conversation_id > ?1
                       ORDER BY conversation_id LIMIT ?2";
            query(db, sql, params![after, limit], |row| {
                Ok(LearnedRow {
                    conversation_id: row.get("conversation_id")?,
                    caller: row.get("caller")?,
                    agent: row.get("agent")?,
                    learned_at: row.get("learned_at")?,
                })
            })
        })
        .await
    }

    /// Marks of erased calls after this one, in their order.
    pub(in crate::store) async fn erased_after(
        &self,
        after: String,
        limit: i64,
    ) -> Result<Vec<(String, i64)>> {
        self.read(move |db| {
            let sql = "SELECT mark, at FROM erased_calls WHERE mark > ?1 ORDER BY mark LIMIT ?2";
            query(db, sql, params![after, limit], |row| {
                Ok((row.get("mark")?, row.get("at")?))
            })
        })
        .await
    }

    /// How many entries the audit log has.
    pub(in crate::store) async fn audit_entries(&self) -> Result<i64> {
        self.read(|db| Ok(db.query_row("SELECT count(*) FROM audit_log", [], |row| row.get(0))?))
            .await
    }

    /// Entries of the audit log after the one with this number, in their order.
    pub(in crate::store) async fn audit_after(
        &self,
        after: i64,
        limit: i64,
    ) -> Result<Vec<AuditRow>> {
        self.read(move |db| {
            let sql = "SELECT * FROM audit_log WHERE id > ?1 ORDER BY id LIMIT ?2";
            query(db, sql, params![after, limit], |row| {
                Ok(AuditRow {
                    id: row.get("id")?,
                    at: row.get("at")?,
                    who: row.get("who")?,
                    action: row.get("action")?,
                    subject: row.get("subject")?,
                    outcome: row.get("outcome")?,
                })
            })
        })
        .await
    }
}
