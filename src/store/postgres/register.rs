//! The register in PostgreSQL.

use async_trait::async_trait;
use jiff::Timestamp;
use sqlx::{PgExecutor, Row};

use super::connections::Transaction;
use super::rows::{self, millis, most, number, text, unreadable};
use super::{PostgresDatabase, lock_caller, lock_callers};
use crate::domain::caller_id::CallerId;
use crate::domain::ids::ConversationId;
use crate::domain::standing::Standings;
use crate::store::{
    AuditEntry, Decision, PendingErasure, Register, Result, StoreError, call_mark, caller_mark,
};

/// [`Register`] on PostgreSQL.
#[derive(Clone)]
pub struct PostgresRegister(PostgresDatabase);

impl PostgresRegister {
    /// The register in this database.
    #[must_use]
    pub fn new(database: PostgresDatabase) -> Self {
        Self(database)
    }
}

#[async_trait]
impl Register for PostgresRegister {
    /// One statement: all of one moment, with its version.
    async fn standings(&self) -> Result<Standings> {
        let found = sqlx::query(
            "SELECT 'version' AS what, '' AS caller, '' AS person, version FROM decisions
             UNION ALL SELECT 'opted out', caller, '', 0 FROM opted_out_callers
             UNION ALL SELECT 'shared', caller, '', 0 FROM shared_callers
             UNION ALL SELECT 'link', alias, caller, 0 FROM caller_links",
        )
        .fetch_all(&self.0.work)
        .await?;
        let mut standings = Standings::default();
        for row in &found {
            match row.try_get("what")? {
                "version" => standings.version = number(row, "version")?,
                "opted out" => drop(standings.opted_out.insert(rows::caller(row, "caller")?)),
                "shared" => drop(standings.shared.insert(rows::caller(row, "caller")?)),
                _ => {
                    let (alias, person) =
                        (rows::caller(row, "caller")?, rows::caller(row, "person")?);
                    standings.aliases.insert(alias, person);
                }
            }
        }
        Ok(standings)
    }

    async fn version(&self) -> Result<u64> {
        let row = sqlx::query("SELECT version FROM decisions")
            .fetch_one(&self.0.work)
            .await?;
        number(&row, "version")
    }

    async fn decide(&self, decision: Decision, now: Timestamp) -> Result<()> {
        let mut transaction = self.0.begin().await?;
        let db = &mut transaction;
        decide(db, &decision, millis(now)).await?;
        sqlx::query("UPDATE decisions SET version = version + 1")
            .execute(&mut *db)
            .await?;
        transaction.commit().await?;
        Ok(())
    }

    async fn bury(&self, conversations: Vec<ConversationId>, now: Timestamp) -> Result<()> {
        let marks = conversations.iter().map(call_mark).collect();
        bury_marks(&self.0.work, marks, now).await
    }

    async fn erased_at(&self, caller: &CallerId) -> Result<Option<Timestamp>> {
        let found = sqlx::query("SELECT at FROM erased_calls WHERE mark = $1")
            .bind(caller_mark(caller))
            .fetch_optional(&self.0.work)
            .await?;
        found.map(|row| rows::time(&row, "at")).transpose()
    }

    async fn is_erased(&self, conversation: &ConversationId) -> Result<bool> {
        is_erased(&self.0.work, conversation).await
    }

    async fn pending_erasures(&self) -> Result<Vec<PendingErasure>> {
        let found = sqlx::query(
            "SELECT caller, conversations, forgotten FROM pending_erasures ORDER BY begun_at",
        )
        .fetch_all(&self.0.work)
        .await?;
        found
            .iter()
            .map(|row| {
                Ok(PendingErasure {
                    caller: rows::caller(row, "caller")?,
                    conversations: conversations(row.try_get("conversations")?)?,
                    forgotten: row.try_get("forgotten")?,
                })
            })
            .collect()
    }

    async fn note_forgotten(&self, caller: &CallerId) -> Result<()> {
        sqlx::query("UPDATE pending_erasures SET forgotten = TRUE WHERE caller = $1")
            .bind(caller.as_str())
            .execute(&self.0.work)
            .await?;
        Ok(())
    }

    async fn end_erasure(&self, caller: &CallerId, removed: Vec<ConversationId>) -> Result<()> {
        let mut transaction = self.0.begin().await?;
        let db = &mut transaction;
        lock_caller(db, caller).await?;
        // Further conversations may have been added by another erasure meanwhile.
        let (mut left, forgotten) = pending_erasure(db, caller).await?;
        left.retain(|conversation| !removed.contains(conversation));
        if left.is_empty() && forgotten {
            sqlx::query("DELETE FROM pending_erasures WHERE caller = $1")
                .bind(caller.as_str())
                .execute(&mut *db)
                .await?;
        } else {
            sqlx::query("UPDATE pending_erasures SET conversations = $2 WHERE caller = $1")
                .bind(caller.as_str())
                .bind(list(&left)?)
                .execute(&mut *db)
                .await?;
        }
        transaction.commit().await?;
        Ok(())
    }

    async fn audit(&self, entry: AuditEntry) -> Result<()> {
        sqlx::query(
            "INSERT INTO audit_log (at, who, action, subject, outcome) VALUES ($1, $2, $3, $4, $5)",
        )
        .bind(millis(entry.at))
        .bind(text(&entry.who))
        .bind(text(&entry.action))
        .bind(text(&entry.subject))
        .bind(text(&entry.outcome))
        .execute(&self.0.work)
        .await?;
        Ok(())
    }

    async fn audit_log(&self, limit: usize) -> Result<Vec<AuditEntry>> {
        let found = sqlx::query(
            "SELECT at, who, action, subject, outcome FROM audit_log ORDER BY id DESC LIMIT $1",
        )
        .bind(most(limit))
        .fetch_all(&self.0.work)
        .await?;
        found
            .iter()
            .map(|row| {
                Ok(AuditEntry {
                    at: rows::time(row, "at")?,
                    who: row.try_get("who")?,
                    action: row.try_get("action")?,
                    subject: row.try_get("subject")?,
                    outcome: row.try_get("outcome")?,
                })
            })
            .collect()
    }
}

async fn decide(db: &mut Transaction, decision: &Decision, now: i64) -> Result<()> {
    let statement = match decision {
        Decision::OptOut(caller, _) | Decision::Share(caller, _) | Decision::Link(caller, None) => {
            lock_caller(db, caller).await?;
            match decision {
                Decision::OptOut(_, true) => sqlx::query(
                    "INSERT INTO opted_out_callers VALUES ($1, $2) ON CONFLICT DO NOTHING",
                )
                .bind(caller.as_str())
                .bind(now),
                Decision::OptOut(_, false) => {
                    sqlx::query("DELETE FROM opted_out_callers WHERE caller = $1")
                        .bind(caller.as_str())
                }
                Decision::Share(_, true) => {
                    sqlx::query("INSERT INTO shared_callers VALUES ($1, $2) ON CONFLICT DO NOTHING")
                        .bind(caller.as_str())
                        .bind(now)
                }
                Decision::Share(_, false) => {
                    sqlx::query("DELETE FROM shared_callers WHERE caller = $1")
                        .bind(caller.as_str())
                }
                Decision::Link(..) => {
                    sqlx::query("DELETE FROM caller_links WHERE alias = $1").bind(caller.as_str())
                }
            }
        }
        Decision::Link(alias, Some(caller)) => {
            lock_callers(db, &[alias.as_str(), caller.as_str()]).await?;
            // What was looked at before may be another instance's by now.
            let changed: bool = sqlx::query_scalar(
                "SELECT EXISTS (SELECT 1 FROM caller_links WHERE alias = $2)
                     OR EXISTS (SELECT 1 FROM caller_links WHERE alias = $1 AND caller <> $2)
                     OR EXISTS (SELECT 1 FROM opted_out_callers WHERE caller IN ($1, $2))",
            )
            .bind(alias.as_str())
            .bind(caller.as_str())
            .fetch_one(&mut *db)
            .await?;
            if changed {
                return Err(StoreError::Unavailable(
                    "another instance has decided something about these numbers".into(),
                ));
            }
            // Whoever was linked to the alias is linked to the caller now.
            sqlx::query("UPDATE caller_links SET caller = $2 WHERE caller = $1")
                .bind(alias.as_str())
                .bind(caller.as_str())
                .execute(&mut *db)
                .await?;
            sqlx::query(
                "INSERT INTO caller_links VALUES ($1, $2, $3)
                 ON CONFLICT (alias) DO UPDATE SET caller = excluded.caller",
            )
            .bind(alias.as_str())
            .bind(caller.as_str())
            .bind(now)
        }
    };
    statement.execute(db).await?;
    Ok(())
}

/// Of an erasure that has not ended: whose files are left, and whether the
/// stores have forgotten the caller.
pub(super) async fn pending_erasure(
    db: &mut Transaction,
    caller: &CallerId,
) -> Result<(Vec<ConversationId>, bool)> {
    let row =
        sqlx::query("SELECT conversations, forgotten FROM pending_erasures WHERE caller = $1")
            .bind(caller.as_str())
            .fetch_optional(db)
            .await?;
    match row {
        Some(row) => Ok((
            conversations(row.try_get("conversations")?)?,
            row.try_get("forgotten")?,
        )),
        None => Ok((Vec::new(), false)),
    }
}

/// Notes what an erasure has still to do. Once the stores have to forget the
/// caller, one of files alone does not change that.
pub(super) async fn begin_erasure(
    db: impl PgExecutor<'_>,
    caller: &CallerId,
    conversations: &[ConversationId],
    forgotten: bool,
    now: Timestamp,
) -> Result<()> {
    sqlx::query(
        "INSERT INTO pending_erasures (caller, conversations, begun_at, forgotten) VALUES ($1, $2, $3, $4)
         ON CONFLICT (caller) DO UPDATE SET conversations = excluded.conversations,
             begun_at = excluded.begun_at, forgotten = pending_erasures.forgotten AND excluded.forgotten",
    )
    .bind(caller.as_str())
    .bind(list(conversations)?)
    .bind(millis(now))
    .bind(forgotten)
    .execute(db)
    .await?;
    Ok(())
}

/// Whether a call was erased: then no store takes anything of it any more.
pub(super) async fn is_erased(
    db: impl PgExecutor<'_>,
    conversation: &ConversationId,
) -> Result<bool> {
    let erased = sqlx::query_scalar("SELECT EXISTS (SELECT 1 FROM erased_calls WHERE mark = $1)")
        .bind(call_mark(conversation))
        .fetch_one(db)
        .await?;
    Ok(erased)
}

/// Notes calls as erased.
pub(super) async fn bury_marks(
    db: impl PgExecutor<'_>,
    marks: Vec<String>,
    now: Timestamp,
) -> Result<()> {
    // In one order, so that no two transactions wait for each other.
    sqlx::query(
        "INSERT INTO erased_calls (mark, at) SELECT DISTINCT mark, $2 FROM unnest($1::text[]) AS mark
         ORDER BY mark ON CONFLICT (mark) DO NOTHING",
    )
    .bind(marks)
    .bind(millis(now))
    .execute(db)
    .await?;
    Ok(())
}

/// Notes when a caller was erased.
pub(super) async fn bury_caller(
    db: impl PgExecutor<'_>,
    caller: &CallerId,
    now: Timestamp,
) -> Result<()> {
    sqlx::query(
        "INSERT INTO erased_calls (mark, at) VALUES ($1, $2)
         ON CONFLICT (mark) DO UPDATE SET at = greatest(erased_calls.at, excluded.at)",
    )
    .bind(caller_mark(caller))
    .bind(millis(now))
    .execute(db)
    .await?;
    Ok(())
}

fn list(conversations: &[ConversationId]) -> Result<String> {
    serde_json::to_string(conversations).map_err(|e| StoreError::Corrupt(e.to_string()))
}

fn conversations(listed: &str) -> Result<Vec<ConversationId>> {
    serde_json::from_str(listed).map_err(|_| unreadable("conversations"))
}
