//! Ending a stage of an event, and what becomes of its caller's other events.

use jiff::Timestamp;
use rusqlite::{Connection, params};

use crate::domain::ids::ConversationId;
use crate::store::sqlite::register;
use crate::store::sqlite::rows::{self, first, millis, query};
use crate::store::{EventId, Result, RetryCause, Settled, Settlement, Stage};

/// What settling needs to know of an event.
struct Settling {
    caller: Option<String>,
    agent: Option<String>,
    started_at: i64,
    greeting_wanted: bool,
}

pub(super) fn settle(
    db: &Connection,
    id: EventId,
    stage: Stage,
    how: &Settlement,
) -> Result<Settled> {
    let sql = "SELECT caller, agent, started_at, greeting_wanted FROM inbox
               WHERE id = ?1 AND stage = ?2 AND state = 'ready'";
    let event = first(db, sql, params![id.0, stage.as_str()], |row| {
        Ok(Settling {
            caller: row.get("caller")?,
            agent: row.get("agent")?,
            started_at: row.get("started_at")?,
            greeting_wanted: row.get("greeting_wanted")?,
        })
    })?;
    let Some(event) = event else {
        return Ok(Settled::default());
    };
    let mut settled = Settled::default();
    match how {
        Settlement::Learned => {
            promote_next(db, id, &event)?;
            let greet = event.greeting_wanted && !newer_call_waits(db, id, &event)?;
            if greet {
                settled.superseded = supersede_older(db, id, &event)?;
            }
            settled.next = greet.then_some(Stage::Greet);
            if greet {
                begin_greeting(db, id)?;
            } else {
                finish(db, id)?;
            }
        }
        Settlement::Greeted => finish(db, id)?,
        Settlement::Erased => {
            if stage == Stage::Learn {
                promote_next(db, id, &event)?;
            }
            forget_call(db, id)?;
        }
        Settlement::Retry {
            run_at,
            error,
            cause,
        } => {
            let (crashes, unusable) = match cause {
                RetryCause::Outage => (0, 0),
                RetryCause::Crash => (1, 0),
                RetryCause::Unusable => (0, 1),
            };
            db.prepare_cached(
                "UPDATE inbox SET attempts = attempts + 1, crashes = crashes + ?4,
                     unusable = unusable + ?5, run_at = ?2, last_error = ?3 WHERE id = ?1",
            )?
            .execute(params![id.0, millis(*run_at), error, crashes, unusable])?;
            settled.next = Some(stage);
        }
        Settlement::Dead { error } => {
            if stage == Stage::Learn {
                promote_next(db, id, &event)?;
            }
            db.prepare_cached(
                "UPDATE inbox SET attempts = attempts + 1, state = 'dead', last_error = ?2 WHERE id = ?1",
            )?
            .execute(params![id.0, error])?;
        }
    }
    Ok(settled)
}

/// Removes an event: nothing of the call comes back, and its files go, too.
fn forget_call(db: &Connection, id: EventId) -> Result<()> {
    let sql = "SELECT caller, conversation_id FROM inbox WHERE id = ?1";
    let event = first(db, sql, [id.0], |row| {
        let conversation: Option<String> = row.get("conversation_id")?;
        let conversation = conversation.and_then(|id| ConversationId::parse(&id).ok());
        Ok((rows::caller(row)?, conversation))
    })?;
    if let Some((caller, Some(conversation))) = event {
        let now = Timestamp::now();
        register::bury(db, std::slice::from_ref(&conversation), now)?;
        let (mut left, _) = register::pending_erasure(db, &caller)?;
        left.push(conversation);
        register::begin_erasure(db, &caller, &left, true, now)?;
    }
    db.prepare_cached("DELETE FROM inbox WHERE id = ?1")?
        .execute([id.0])?;
    Ok(())
}

fn begin_greeting(db: &Connection, id: EventId) -> Result<()> {
    db.prepare_cached(
        "UPDATE inbox SET stage = 'greet', attempts = 0, last_error = NULL, run_at = received_at,
             greet_since = CAST(unixepoch('subsec') * 1000 AS INTEGER)
         WHERE id = ?1",
    )?
    .execute([id.0])?;
    Ok(())
}

/// Ends an event. Its body is dropped once it is in the archive.
fn finish(db: &Connection, id: EventId) -> Result<()> {
    db.prepare_cached(
        "UPDATE inbox SET state = 'done', last_error = NULL,
             payload = CASE WHEN archived THEN NULL ELSE payload END WHERE id = ?1",
    )?
    .execute([id.0])?;
    Ok(())
}

fn promote_next(db: &Connection, id: EventId, event: &Settling) -> Result<()> {
    db.prepare_cached(
        "UPDATE inbox SET state = 'ready' WHERE state = 'queued' AND id =
             (SELECT min(id) FROM inbox WHERE caller = ?1 AND stage = 'learn'
                  AND state IN ('queued', 'ready') AND id <> ?2)",
    )?
    .execute(params![event.caller, id.0])?;
    Ok(())
}

/// Whether a newer call of the same caller and agent is still to be learned
/// or greeted: then only that one's greeting is made.
fn newer_call_waits(db: &Connection, id: EventId, event: &Settling) -> Result<bool> {
    let found = first(
        db,
        "SELECT 1 FROM inbox
         WHERE caller = ?1 AND agent = ?2 AND greeting_wanted AND (started_at, id) > (?3, ?4)
             AND ((stage = 'learn' AND state IN ('queued', 'ready')) OR (stage = 'greet' AND state = 'ready'))
         LIMIT 1",
        params![event.caller, event.agent, event.started_at, id.0],
        |_| Ok(()),
    )?;
    Ok(found.is_some())
}

fn supersede_older(db: &Connection, id: EventId, event: &Settling) -> Result<Vec<Timestamp>> {
    let older = query(
        db,
        "SELECT id, received_at FROM inbox
         WHERE caller = ?1 AND agent = ?2 AND stage = 'greet' AND state = 'ready'
             AND (started_at, id) < (?3, ?4)",
        params![event.caller, event.agent, event.started_at, id.0],
        |row| Ok((EventId(row.get("id")?), rows::time(row, "received_at")?)),
    )?;
    older
        .into_iter()
        .map(|(older, received_at)| {
            finish(db, older)?;
            Ok(received_at)
        })
        .collect()
}
