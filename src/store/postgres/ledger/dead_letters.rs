//! Dead letters, and the erasing of a caller's events.

use jiff::Timestamp;
use rustc_hash::FxHashSet;
use sqlx::Row;
use sqlx::postgres::PgRow;

use crate::domain::caller_id::CallerId;
use crate::domain::ids::ConversationId;
use crate::store::postgres::connections::Transaction;
use crate::store::postgres::rows::{self, millis, number};
use crate::store::postgres::{PostgresDatabase, lock_caller, lock_callers, register, vectors};
use crate::store::{DeadLetter, ErasedEvents, EventId, KnownCalls, Result, call_mark};

pub(super) fn dead_letter(row: &PgRow) -> Result<DeadLetter> {
    let error: Option<String> = row.try_get("last_error")?;
    Ok(DeadLetter {
        id: row.try_get("id")?,
        kind: row.try_get("kind")?,
        conversation_id: row.try_get("conversation_id")?,
        received_at: rows::time(row, "received_at")?,
        attempts: number(row, "attempts")?,
        error: error.unwrap_or_default(),
    })
}

/// `unknown` dead letters name no caller themselves: their bodies may.
pub(super) async fn erase(
    database: &PostgresDatabase,
    caller: &CallerId,
    known: &KnownCalls,
    now: Timestamp,
) -> Result<ErasedEvents> {
    let mut transaction = database.begin().await?;
    let erased = remove(&mut transaction, caller, known, now).await?;
    vectors::forget(&mut transaction, caller).await?;
    register::begin_erasure(&mut transaction, caller, &erased.conversations, false, now).await?;
    transaction.commit().await?;
    Ok(erased)
}

pub(super) async fn withdraw(
    database: &PostgresDatabase,
    caller: &CallerId,
    conversation: ConversationId,
    now: Timestamp,
) -> Result<()> {
    let known = KnownCalls {
        conversations: vec![conversation],
        marks: Vec::new(),
    };
    let mut transaction = database.begin().await?;
    let erased = remove(&mut transaction, caller, &known, now).await?;
    register::begin_erasure(&mut transaction, caller, &erased.conversations, true, now).await?;
    transaction.commit().await?;
    Ok(())
}

/// Removes a caller's events and notes the calls as erased.
async fn remove(
    db: &mut Transaction,
    caller: &CallerId,
    known: &KnownCalls,
    now: Timestamp,
) -> Result<ErasedEvents> {
    lock_caller(db, caller).await?;
    let mut erased = ErasedEvents {
        conversations: known.conversations.clone(),
        ..ErasedEvents::default()
    };
    let rows = sqlx::query(
        "DELETE FROM inbox WHERE caller = $1
         RETURNING id, state, conversation_id, archived, archiver, received_at",
    )
    .bind(caller.as_str())
    .fetch_all(&mut *db)
    .await?;
    for row in &rows {
        let (state, conversation): (&str, Option<&str>) =
            (row.try_get("state")?, row.try_get("conversation_id")?);
        let conversation = conversation.and_then(|id| ConversationId::parse(id).ok());
        erased.dead_letters += u64::from(state == "dead");
        if row.try_get("archived")? {
            let received = rows::time(row, "received_at")?;
            erased
                .archived
                .extend(conversation.clone().map(|c| (c, received)));
        } else if row.try_get::<Option<&str>, _>("archiver")?.is_some() {
            erased.being_archived.extend(conversation.clone());
        }
        erased.conversations.extend(conversation);
        erased.events.push(EventId(row.try_get("id")?));
    }
    erased.events.extend(remove_unknown(db, caller).await?);
    let unknown = erased.events.len() - rows.len();
    erased.dead_letters += unknown as u64;

    let (begun, _) = register::pending_erasure(db, caller).await?;
    // Their files are still to be found.
    let left = begun.iter().map(|conversation| (conversation.clone(), now));
    erased.archived.extend(left);
    erased.conversations.extend(begun);
    erased.conversations.sort();
    erased.conversations.dedup();

    let mut marks: FxHashSet<String> = erased.conversations.iter().map(call_mark).collect();
    let unnamed = known.marks.iter().filter(|mark| !marks.contains(*mark));
    erased.marks = unnamed.cloned().collect();
    marks.extend(known.marks.iter().cloned());
    register::bury_marks(&mut *db, marks.into_iter().collect(), now).await?;
    register::bury_caller(&mut *db, caller, now).await?;
    Ok(erased)
}

/// Only for an id that cannot be a part of something else: bodies in which it
/// stands, and is not the beginning of a longer one.
async fn remove_unknown(db: &mut Transaction, caller: &CallerId) -> Result<Vec<EventId>> {
    let id = caller.as_str();
    if !id.starts_with(['+', 's']) {
        return Ok(Vec::new());
    }
    let rows = sqlx::query(
        "SELECT id, payload FROM inbox
         WHERE state = 'dead' AND kind = 'unknown' AND position($1::bytea IN payload) > 0",
    )
    .bind(id.as_bytes())
    .fetch_all(&mut *db)
    .await?;
    let mut found = Vec::new();
    for row in &rows {
        if crate::store::names(row.try_get("payload")?, id) {
            found.push(EventId(row.try_get("id")?));
        }
    }
    let ids: Vec<i64> = found.iter().map(|id| id.0).collect();
    sqlx::query("DELETE FROM inbox WHERE id = ANY($1)")
        .bind(ids)
        .execute(db)
        .await?;
    Ok(found)
}

pub(super) async fn revive(
    database: &PostgresDatabase,
    id: EventId,
    now: Timestamp,
) -> Result<bool> {
    let mut transaction = database.begin().await?;
    let db = &mut transaction;
    let caller: Option<Option<String>> =
        sqlx::query_scalar("SELECT caller FROM inbox WHERE id = $1")
            .bind(id.0)
            .fetch_optional(&mut *db)
            .await?;
    if let Some(Some(caller)) = &caller {
        lock_callers(db, &[caller]).await?;
    }
    // Back in its place in the order: behind a call that is being learned now.
    let revived = sqlx::query(
        concat!("UPDATE inbox SET attempts = 0, crashes = 0, unusable = 0, run_at = least($2, ", clock!(), "), received_at = $2,
             greet_since = $2, state =
             CASE WHEN stage = 'learn' AND EXISTS (
                 SELECT 1 FROM inbox other WHERE other.caller = inbox.caller AND other.stage = 'learn'
                     AND other.state IN ('queued', 'ready', 'running'))
             THEN 'queued' ELSE 'ready' END
         WHERE id = $1 AND state = 'dead' AND kind <> 'unknown'"),
    )
    .bind(id.0)
    .bind(millis(now))
    .execute(&mut *db)
    .await?;
    transaction.commit().await?;
    Ok(revived.rows_affected() == 1)
}
