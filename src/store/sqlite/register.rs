//! The register in SQLite.

use async_trait::async_trait;
use jiff::Timestamp;
use rusqlite::{Connection, Row, params};

use super::SqliteDatabase;
use super::rows::{self, first, millis, query, unreadable};
use crate::domain::caller_id::CallerId;
use crate::domain::ids::ConversationId;
use crate::domain::standing::Standings;
use crate::store::{
    AuditEntry, Decision, PendingErasure, Register, Result, StoreError, call_mark, caller_mark,
};

/// [`Register`] on SQLite.
#[derive(Clone)]
pub struct SqliteRegister(SqliteDatabase);

impl SqliteRegister {
    /// The register in this database.
    #[must_use]
    pub fn new(database: SqliteDatabase) -> Self {
        Self(database)
    }
}

#[async_trait]
impl Register for SqliteRegister {
    async fn standings(&self) -> Result<Standings> {
        self.0
            .read(|db| {
                let callers = |table: &str| {
                    query(db, &format!("SELECT caller FROM {table}"), [], rows::caller)
                };
                let links = "SELECT alias, caller FROM caller_links";
                let aliases = query(db, links, [], |row| {
                    let alias: String = row.get("alias")?;
                    let alias = CallerId::from_stored(&alias).ok_or_else(|| unreadable("alias"))?;
                    Ok((alias, rows::caller(row)?))
                })?;
                Ok(Standings {
                    opted_out: callers("opted_out_callers")?.into_iter().collect(),
                    shared: callers("shared_callers")?.into_iter().collect(),
                    aliases: aliases.into_iter().collect(),
                    version: 0,
                })
            })
            .await
    }

    async fn decide(&self, decision: Decision, now: Timestamp) -> Result<()> {
        self.0.write(move |db| decide(db, &decision, now)).await
    }

    async fn bury(&self, conversations: Vec<ConversationId>, now: Timestamp) -> Result<()> {
        self.0.write(move |db| bury(db, &conversations, now)).await
    }

    async fn is_erased(&self, conversation: &ConversationId) -> Result<bool> {
        let conversation = conversation.clone();
        self.0.read(move |db| is_erased(db, &conversation)).await
    }

    async fn pending_erasures(&self) -> Result<Vec<PendingErasure>> {
        self.0
            .read(|db| {
                let sql = "SELECT * FROM pending_erasures ORDER BY begun_at";
                query(db, sql, [], |row| {
                    Ok(PendingErasure {
                        caller: rows::caller(row)?,
                        conversations: conversations(row)?,
                        forgotten: row.get("forgotten")?,
                    })
                })
            })
            .await
    }

    async fn note_forgotten(&self, caller: &CallerId) -> Result<()> {
        let caller = caller.clone();
        self.0
            .write(move |db| {
                let sql = "UPDATE pending_erasures SET forgotten = 1 WHERE caller = ?1";
                db.prepare_cached(sql)?.execute([caller.as_str()])?;
                Ok(())
            })
            .await
    }

    async fn end_erasure(&self, caller: &CallerId, removed: Vec<ConversationId>) -> Result<()> {
        let caller = caller.clone();
        self.0
            .write(move |db| end_erasure(db, &caller, &removed))
            .await?;
        // What was erased is overwritten in the database file (secure_delete);
        // this removes it from the log beside it.
        self.0.checkpoint().await
    }

    async fn erased_at(&self, caller: &CallerId) -> Result<Option<Timestamp>> {
        let mark = caller_mark(caller);
        self.0
            .read(move |db| {
                let sql = "SELECT at FROM erased_calls WHERE mark = ?1";
                first(db, sql, [mark], |row| rows::time(row, "at"))
            })
            .await
    }

    async fn audit(&self, entry: AuditEntry) -> Result<()> {
        self.0
            .write(move |db| {
                db.prepare_cached(
                    "INSERT INTO audit_log (at, who, action, subject, outcome) VALUES (?1, ?2, ?3, ?4, ?5)",
                )?
                .execute(params![
                    millis(entry.at),
                    entry.who,
                    entry.action,
                    entry.subject,
                    entry.outcome
                ])?;
                Ok(())
            })
            .await
    }

    async fn audit_log(&self, limit: usize) -> Result<Vec<AuditEntry>> {
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        self.0
            .read(move |db| {
                let sql = "SELECT * FROM audit_log ORDER BY id DESC LIMIT ?1";
                query(db, sql, [limit], |row| {
                    Ok(AuditEntry {
                        at: rows::time(row, "at")?,
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

fn conversations(row: &Row<'_>) -> Result<Vec<ConversationId>> {
    let listed: String = row.get("conversations")?;
    serde_json::from_str(&listed).map_err(|_| unreadable("conversations"))
}

/// Of an erasure that has not ended: whose files are left, and whether the
/// stores have forgotten the caller.
pub(super) fn pending_erasure(
    db: &Connection,
    caller: &CallerId,
) -> Result<(Vec<ConversationId>, bool)> {
    let sql = "SELECT conversations, forgotten FROM pending_erasures WHERE caller = ?1";
    let pending = first(db, sql, [caller.as_str()], |row| {
        Ok((conversations(row)?, row.get("forgotten")?))
    })?;
    Ok(pending.unwrap_or_default())
}

/// Notes what an erasure has still to do. Once the stores have to forget the
/// caller, one of files alone does not change that.
pub(super) fn begin_erasure(
    db: &Connection,
    caller: &CallerId,
    conversations: &[ConversationId],
    forgotten: bool,
    now: Timestamp,
) -> Result<()> {
    db.prepare_cached(
        "INSERT INTO pending_erasures (caller, conversations, begun_at, forgotten)
             VALUES (?1, ?2, ?3, ?4)
         ON CONFLICT (caller) DO UPDATE SET conversations = excluded.conversations,
             begun_at = excluded.begun_at, forgotten = min(forgotten, excluded.forgotten)",
    )?
    .execute(params![
        caller.as_str(),
        list(conversations)?,
        millis(now),
        forgotten
    ])?;
    Ok(())
}

fn list(conversations: &[ConversationId]) -> Result<String> {
    serde_json::to_string(conversations).map_err(|e| StoreError::Corrupt(e.to_string()))
}

/// Further conversations may have been added by another erasure meanwhile.
fn end_erasure(db: &Connection, caller: &CallerId, removed: &[ConversationId]) -> Result<()> {
    let (listed, forgotten) = pending_erasure(db, caller)?;
    let left: Vec<ConversationId> = listed
        .into_iter()
        .filter(|c| !removed.contains(c))
        .collect();
    if left.is_empty() && forgotten {
        let sql = "DELETE FROM pending_erasures WHERE caller = ?1";
        db.prepare_cached(sql)?.execute([caller.as_str()])?;
    } else {
        let sql = "UPDATE pending_erasures SET conversations = ?2 WHERE caller = ?1";
        db.prepare_cached(sql)?
            .execute([caller.as_str(), &list(&left)?])?;
    }
    Ok(())
}

fn decide(db: &Connection, decision: &Decision, now: Timestamp) -> Result<()> {
    let now = millis(now);
    let listed = |table: &str, caller: &CallerId, listed: bool| -> Result<()> {
        if listed {
            let sql = format!(
                "INSERT INTO {table} (caller, since) VALUES (?1, ?2) ON CONFLICT DO NOTHING"
            );
            db.execute(&sql, params![caller.as_str(), now])?;
        } else {
            let sql = format!("DELETE FROM {table} WHERE caller = ?1");
            db.execute(&sql, [caller.as_str()])?;
        }
        Ok(())
    };
    match decision {
        Decision::OptOut(caller, out) => listed("opted_out_callers", caller, *out),
        Decision::Share(caller, shared) => listed("shared_callers", caller, *shared),
        Decision::Link(alias, Some(caller)) => {
            let sql = "INSERT INTO caller_links (alias, caller, since) VALUES (?1, ?2, ?3)
                       ON CONFLICT (alias) DO UPDATE SET caller = excluded.caller";
            db.execute(sql, params![alias.as_str(), caller.as_str(), now])?;
            // Whoever was linked to the alias is linked to the caller now.
            let sql = "UPDATE caller_links SET caller = ?2 WHERE caller = ?1";
            db.execute(sql, [alias.as_str(), caller.as_str()])?;
            Ok(())
        }
        Decision::Link(alias, None) => {
            let sql = "DELETE FROM caller_links WHERE alias = ?1";
            db.execute(sql, [alias.as_str()])?;
            Ok(())
        }
    }
}

/// Notes calls as erased.
pub(super) fn bury(
    db: &Connection,
    conversations: &[ConversationId],
    now: Timestamp,
) -> Result<()> {
    for conversation in conversations {
        bury_mark(db, &call_mark(conversation), now)?;
    }
    Ok(())
}

pub(super) fn bury_mark(db: &Connection, mark: &str, now: Timestamp) -> Result<()> {
    db.prepare_cached(
        "INSERT INTO erased_calls (mark, at) VALUES (?1, ?2) ON CONFLICT DO NOTHING",
    )?
    .execute(params![mark, millis(now)])?;
    Ok(())
}

/// Notes when a caller was erased.
pub(super) fn bury_caller(db: &Connection, caller: &CallerId, now: Timestamp) -> Result<()> {
    db.prepare_cached(
        "INSERT INTO erased_calls (mark, at) VALUES (?1, ?2)
         ON CONFLICT (mark) DO UPDATE SET at = max(at, excluded.at)",
    )?
    .execute(params![caller_mark(caller), millis(now)])?;
    Ok(())
}

/// Whether a call was erased: then no store takes anything of it any more.
pub(super) fn is_erased(db: &Connection, conversation: &ConversationId) -> Result<bool> {
    is_buried(db, &call_mark(conversation))
}

pub(super) fn is_buried(db: &Connection, mark: &str) -> Result<bool> {
    let sql = "SELECT 1 FROM erased_calls WHERE mark = ?1";
    Ok(first(db, sql, [mark], |_| Ok(()))?.is_some())
}
