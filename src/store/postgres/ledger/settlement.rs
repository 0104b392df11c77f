//! Ending a stage of an event, and what becomes of its caller's other events.

use jiff::Timestamp;
use sqlx::Row;

use crate::domain::caller_id::CallerId;
use crate::domain::ids::ConversationId;
use crate::store::postgres::connections::Transaction;
use crate::store::postgres::rows::{self, text};
use crate::store::postgres::{PostgresDatabase, register};
use crate::store::{Claim, Result, RetryCause, Settled, Settlement, Stage, call_mark};

/// What settling needs to know of an event.
struct Settling {
    id: i64,
    caller: Option<String>,
    agent: Option<String>,
    started_at: i64,
    /// Whether its greeting is to be made, unless that of a newer call is.
    greeting_wanted: bool,
}

/// Nothing happens if the event was settled before, or was taken over by
/// another instance.
pub(super) async fn settle(
    database: &PostgresDatabase,
    claim: Claim,
    how: &Settlement,
) -> Result<Settled> {
    let mut transaction = database.begin_unflushed().await?;
    let db = &mut transaction;
    // Whose queue it is never changes.
    sqlx::query(
        "SELECT slot FROM caller_locks WHERE slot = (SELECT slot FROM inbox WHERE id = $1) FOR UPDATE",
    )
    .bind(claim.id.0)
    .execute(&mut *db)
    .await?;
    // By its id alone: the index of what an instance is working on is full of
    // what it has worked on.
    let row = sqlx::query(
        "SELECT id, caller, agent, started_at, greeting_wanted, fence > $4 AS taken_over,
             stage = $2 AND state = 'running' AND owner = $3 AND fence = $4 AS held,
             EXISTS (SELECT 1 FROM inbox newer
                 WHERE newer.caller = inbox.caller AND newer.agent = inbox.agent AND newer.greeting_wanted
                     AND (newer.started_at, newer.id) > (inbox.started_at, inbox.id)
                     AND newer.stage IN ('learn', 'greet') AND newer.state IN ('queued', 'ready', 'running'))
                 AS newer_waits
         FROM inbox WHERE id = $1 FOR UPDATE OF inbox",
    )
    .bind(claim.id.0)
    .bind(claim.stage.as_str())
    .bind(database.instance.id())
    .bind(claim.fence)
    .fetch_optional(&mut *db)
    .await?;
    let Some(row) = row else {
        return Ok(Settled::default());
    };
    // Without an owner nobody holds it.
    if row.try_get::<Option<bool>, _>("held")? != Some(true) {
        if row.try_get("taken_over")? {
            database.instance.note_refusal();
        }
        return Ok(Settled::default());
    }
    let event = Settling {
        id: row.try_get("id")?,
        caller: row.try_get("caller")?,
        agent: row.try_get("agent")?,
        started_at: row.try_get("started_at")?,
        greeting_wanted: row.try_get("greeting_wanted")?
            && !row.try_get::<bool, _>("newer_waits")?,
    };
    let settled = apply(database, db, &event, claim.stage, how).await?;
    transaction.commit().await?;
    Ok(settled)
}

async fn apply(
    database: &PostgresDatabase,
    db: &mut Transaction,
    event: &Settling,
    stage: Stage,
    how: &Settlement,
) -> Result<Settled> {
    let mut settled = Settled::default();
    match how {
        Settlement::Learned => {
            let greet = event.greeting_wanted;
            if greet {
                settled.superseded = supersede_older(db, event).await?;
                settled.next = Some(Stage::Greet);
                // It stays with whoever has learned it.
                sqlx::query(
                    concat!("UPDATE inbox SET stage = 'greet', attempts = 0, last_error = NULL, run_at = least(received_at, run_at),
                         greet_since = ", clock!(), "
                     WHERE id = $1"),
                )
                .bind(event.id)
                .execute(&mut *db)
                .await?;
            } else {
                finish(db, event.id).await?;
            }
            promote_next(db, event).await?;
        }
        Settlement::Greeted => finish(db, event.id).await?,
        Settlement::Erased => {
            let conversation: Option<String> =
                sqlx::query_scalar("DELETE FROM inbox WHERE id = $1 RETURNING conversation_id")
                    .bind(event.id)
                    .fetch_one(&mut *db)
                    .await?;
            forget_call(db, event, conversation).await?;
            if stage == Stage::Learn {
                promote_next(db, event).await?;
            }
        }
        Settlement::Retry {
            run_at,
            error,
            cause,
        } => {
            let (crashes, unusable) = match cause {
                RetryCause::Outage => (0i64, 0i64),
                RetryCause::Crash => (1, 0),
                RetryCause::Unusable => (0, 1),
            };
            let (given, delay) = database.later(*run_at);
            sqlx::query(concat!(
                "UPDATE inbox SET state = 'ready', owner = NULL, attempts = attempts + 1,
                     crashes = crashes + $2, unusable = unusable + $3, last_error = $4,
                     run_at = coalesce($5, ",
                clock!(),
                " + $6)
                 WHERE id = $1"
            ))
            .bind(event.id)
            .bind(crashes)
            .bind(unusable)
            .bind(text(error))
            .bind(given)
            .bind(delay)
            .execute(&mut *db)
            .await?;
            settled.next = Some(stage);
        }
        Settlement::Dead { error } => {
            sqlx::query(
                "UPDATE inbox SET state = 'dead', owner = NULL, attempts = attempts + 1, last_error = $2
                 WHERE id = $1",
            )
            .bind(event.id)
            .bind(text(error))
            .execute(&mut *db)
            .await?;
            if stage == Stage::Learn {
                promote_next(db, event).await?;
            }
        }
    }
    Ok(settled)
}

/// Nothing of the call comes back, and its files go, too.
async fn forget_call(
    db: &mut Transaction,
    event: &Settling,
    conversation: Option<String>,
) -> Result<()> {
    let caller = event.caller.as_deref().and_then(CallerId::from_stored);
    let conversation = conversation.and_then(|id| ConversationId::parse(&id).ok());
    let (Some(caller), Some(conversation)) = (caller, conversation) else {
        return Ok(());
    };
    let now = Timestamp::now();
    register::bury_marks(&mut *db, vec![call_mark(&conversation)], now).await?;
    let (mut left, _) = register::pending_erasure(db, &caller).await?;
    left.push(conversation);
    register::begin_erasure(&mut *db, &caller, &left, true, now).await
}

/// Ends an event. Its body is dropped once it is in the archive.
async fn finish(db: &mut Transaction, id: i64) -> Result<()> {
    sqlx::query(
        "UPDATE inbox SET state = 'done', owner = NULL, last_error = NULL,
             payload = CASE WHEN archived THEN NULL ELSE payload END
         WHERE id = $1",
    )
    .bind(id)
    .execute(db)
    .await?;
    Ok(())
}

/// The event is at the head of its caller's queue no more.
async fn promote_next(db: &mut Transaction, event: &Settling) -> Result<()> {
    sqlx::query(
        "UPDATE inbox SET state = 'ready' WHERE id =
             (SELECT id FROM inbox WHERE caller = $1 AND state = 'queued' ORDER BY id LIMIT 1)",
    )
    .bind(&event.caller)
    .execute(db)
    .await?;
    Ok(())
}

/// Older calls are greeted no more: whoever works on one is refused.
async fn supersede_older(db: &mut Transaction, event: &Settling) -> Result<Vec<Timestamp>> {
    let older = sqlx::query(
        "UPDATE inbox SET state = 'done', owner = NULL, last_error = NULL,
             payload = CASE WHEN archived THEN NULL ELSE payload END
         WHERE caller = $1 AND agent = $2 AND stage = 'greet' AND state IN ('ready', 'running')
             AND (started_at, id) < ($3, $4)
         RETURNING received_at",
    )
    .bind(&event.caller)
    .bind(&event.agent)
    .bind(event.started_at)
    .bind(event.id)
    .fetch_all(&mut *db)
    .await?;
    older
        .iter()
        .map(|row| rows::time(row, "received_at"))
        .collect()
}
