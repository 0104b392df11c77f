//! Dead letters, and the erasing of a caller's events.

use jiff::Timestamp;
use rusqlite::{Connection, Row, params};
use rustc_hash::FxHashSet;

use crate::domain::caller_id::CallerId;
use crate::domain::ids::ConversationId;
use crate::store::sqlite::rows::{self, millis, query};
use crate::store::sqlite::{register, vectors};
use crate::store::{DeadLetter, ErasedEvents, EventId, KnownCalls, Result, call_mark, names};

pub(super) fn dead_letter(row: &Row<'_>) -> Result<DeadLetter> {
    let error: Option<String> = row.get("last_error")?;
    Ok(DeadLetter {
        id: row.get("id")?,
        kind: row.get("kind")?,
        conversation_id: row.get("conversation_id")?,
        received_at: rows::time(row, "received_at")?,
        attempts: row.get("attempts")?,
        error: error.unwrap_or_default(),
    })
}

/// Dead letters of unknown type whose body names the caller. Only for an id
/// that cannot be a part of something else; bodies are read one at a time.
pub(super) fn naming(db: &Connection, caller: &CallerId) -> Result<Vec<EventId>> {
    let id = caller.as_str();
    if !id.starts_with(['+', 's']) {
        return Ok(Vec::new());
    }
    let sql = "SELECT id, payload FROM inbox
               WHERE state = 'dead' AND kind = 'unknown' AND payload IS NOT NULL";
    let found = query(db, sql, [], |row| {
        let payload: Vec<u8> = row.get("payload")?;
        Ok(names(&payload, id).then_some(EventId(row.get("id")?)))
    })?;
    Ok(found.into_iter().flatten().collect())
}

/// `unknown` dead letters name no caller themselves; see [`naming`].
pub(super) fn erase(
    db: &Connection,
    caller: &CallerId,
    known: &KnownCalls,
    unknown: &[EventId],
    now: Timestamp,
) -> Result<ErasedEvents> {
    let erased = remove(db, caller, known, unknown, now)?;
    vectors::forget(db, caller)?;
    register::begin_erasure(db, caller, &erased.conversations, false, now)?;
    Ok(erased)
}

pub(super) fn withdraw(
    db: &Connection,
    caller: &CallerId,
    conversation: ConversationId,
    unknown: &[EventId],
    now: Timestamp,
) -> Result<()> {
    let known = KnownCalls {
        conversations: vec![conversation],
        marks: Vec::new(),
    };
    let erased = remove(db, caller, &known, unknown, now)?;
    register::begin_erasure(db, caller, &erased.conversations, true, now)
}

/// Removes a caller's events and notes the calls as erased.
fn remove(
    db: &Connection,
    caller: &CallerId,
    known: &KnownCalls,
    unknown: &[EventId],
    now: Timestamp,
) -> Result<ErasedEvents> {
    let sql =
        "SELECT id, state, conversation_id, archived, received_at FROM inbox WHERE caller = ?1";
    let rows = query(db, sql, [caller.as_str()], |row| {
        let (state, conversation): (String, Option<String>) =
            (row.get("state")?, row.get("conversation_id")?);
        let conversation = conversation.and_then(|id| ConversationId::parse(&id).ok());
        let archived: bool = row.get("archived")?;
        let archived = archived
            .then(|| rows::time(row, "received_at"))
            .transpose()?;
        Ok((
            EventId(row.get("id")?),
            state == "dead",
            conversation,
            archived,
        ))
    })?;
    let mut erased = ErasedEvents {
        conversations: known.conversations.clone(),
        ..ErasedEvents::default()
    };
    let unknown = unknown.iter().map(|id| (*id, true, None, None));
    for (id, is_dead, conversation, archived) in rows.into_iter().chain(unknown) {
        erased.dead_letters += u64::from(is_dead);
        erased.archived.extend(conversation.clone().zip(archived));
        erased.conversations.extend(conversation);
        erased.events.push(id);
        db.prepare_cached("DELETE FROM inbox WHERE id = ?1")?
            .execute([id.0])?;
    }
    let (begun, _) = register::pending_erasure(db, caller)?;
    // Their files are still to be found.
    let left = begun.iter().map(|conversation| (conversation.clone(), now));
    erased.archived.extend(left);
    erased.conversations.extend(begun);
    erased.conversations.sort();
    erased.conversations.dedup();

    let named: FxHashSet<String> = erased.conversations.iter().map(call_mark).collect();
    let unnamed = known.marks.iter().filter(|mark| !named.contains(*mark));
    erased.marks = unnamed.cloned().collect();
    register::bury(db, &erased.conversations, now)?;
    register::bury_caller(db, caller, now)?;
    for mark in &known.marks {
        register::bury_mark(db, mark, now)?;
    }
    Ok(erased)
}

pub(super) fn revive(db: &Connection, id: EventId, now: Timestamp) -> Result<bool> {
    // Back in its place in the order: behind a call that is being learned now.
    let revived = db
        .prepare_cached(
            "UPDATE inbox SET attempts = 0, crashes = 0, unusable = 0, run_at = ?2, received_at = ?2,
                 greet_since = ?2, state =
                 CASE WHEN stage = 'learn' AND EXISTS (
                     SELECT 1 FROM inbox other WHERE other.caller = inbox.caller AND other.stage = 'learn'
                         AND other.state IN ('queued', 'ready'))
                 THEN 'queued' ELSE 'ready' END
             WHERE id = ?1 AND state = 'dead' AND kind <> 'unknown'",
        )?
        .execute(params![id.0, millis(now)])?;
    Ok(revived == 1)
}
