//! Ending a stage of an event, and what becomes of its caller's other events.

use jiff::Timestamp;
use sqlx::{PgConnection, Row};

use crate::store::postgres::rows::{self, text};
use crate::store::postgres::{PostgresDatabase, lock_callers};
use crate::store::{Claim, Result, RetryCause, Settled, Settlement, Stage};

/// What settling needs to know of an event.
struct Settling {
    id: i64,
    caller: Option<String>,
    agent: Option<String>,
    started_at: i64,
    greeting_wanted: bool,
}

/// Nothing happens if the event was settled before, or was taken over by
/// another instance.
pub(super) async fn settle(
    database: &PostgresDatabase,
    claim: Claim,
    how: &Settlement,
) -> Result<Settled> {
    let mut transaction = database.begin().await?;
    let db = &mut *transaction;
    // Whose queue it is never changes.
    let caller: Option<Option<String>> =
        sqlx::query_scalar("SELECT caller FROM inbox WHERE id = $1")
            .bind(claim.id.0)
            .fetch_optional(&mut *db)
            .await?;
    if let Some(Some(caller)) = &caller {
        lock_callers(db, &[caller]).await?;
    }
    let row = sqlx::query(
        "SELECT id, caller, agent, started_at, greeting_wanted FROM inbox
         WHERE id = $1 AND stage = $2 AND state = 'running' AND owner = $3 AND fence = $4
         FOR UPDATE",
    )
    .bind(claim.id.0)
    .bind(claim.stage.as_str())
    .bind(database.instance.id())
    .bind(claim.fence)
    .fetch_optional(&mut *db)
    .await?;
    let Some(row) = row else {
        let taken_over =
            sqlx::query_scalar("SELECT EXISTS (SELECT 1 FROM inbox WHERE id = $1 AND fence > $2)")
                .bind(claim.id.0)
                .bind(claim.fence)
                .fetch_one(&mut *db)
                .await?;
        if taken_over {
            database.instance.note_refusal();
        }
        return Ok(Settled::default());
    };
    let event = Settling {
        id: row.try_get("id")?,
        caller: row.try_get("caller")?,
        agent: row.try_get("agent")?,
        started_at: row.try_get("started_at")?,
        greeting_wanted: row.try_get("greeting_wanted")?,
    };
    let settled = apply(database, db, &event, claim.stage, how).await?;
    transaction.commit().await?;
    Ok(settled)
}

async fn apply(
    database: &PostgresDatabase,
    db: &mut PgConnection,
    event: &Settling,
    stage: Stage,
    how: &Settlement,
) -> Result<Settled> {
    let mut settled = Settled::default();
    match how {
        Settlement::Learned => {
            let greet = event.greeting_wanted && !newer_call_waits(db, event).await?;
            if greet {
                settled.superseded = supersede_older(db, event).await?;
                settled.next = Some(Stage::Greet);
                // It stays with whoever has learned it.
                sqlx::query(
                    "UPDATE inbox SET stage = 'greet', attempts = 0, last_error = NULL, run_at = received_at,
                         greet_since = (extract(epoch FROM clock_timestamp()) * 1000)::bigint
                     WHERE id = $1",
                )
                .bind(event.id)
                .execute(&mut *db)
                .await?;
            } else {
                finish(db, &[event.id]).await?;
            }
            promote_next(db, event).await?;
        }
        Settlement::Greeted => finish(db, &[event.id]).await?,
        Settlement::Erased => {
            sqlx::query("DELETE FROM inbox WHERE id = $1")
                .bind(event.id)
                .execute(&mut *db)
                .await?;
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
            sqlx::query(
                "UPDATE inbox SET state = 'ready', owner = NULL, attempts = attempts + 1,
                     crashes = crashes + $2, unusable = unusable + $3, last_error = $4,
                     run_at = coalesce($5, (extract(epoch FROM clock_timestamp()) * 1000)::bigint + $6)
                 WHERE id = $1",
            )
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

/// Ends events. Their bodies are dropped once they are in the archive.
async fn finish(db: &mut PgConnection, ids: &[i64]) -> Result<()> {
    sqlx::query(
        "UPDATE inbox SET state = 'done', owner = NULL, last_error = NULL,
             payload = CASE WHEN archived THEN NULL ELSE payload END
         WHERE id = ANY($1)",
    )
    .bind(ids)
    .execute(db)
    .await?;
    Ok(())
}

/// The event is at the head of its caller's queue no more.
async fn promote_next(db: &mut PgConnection, event: &Settling) -> Result<()> {
    sqlx::query(
        "UPDATE inbox SET state = 'ready' WHERE id =
             (SELECT id FROM inbox WHERE caller = $1 AND state = 'queued' ORDER BY id LIMIT 1)",
    )
    .bind(&event.caller)
    .execute(db)
    .await?;
    Ok(())
}

/// Whether a newer call of the same caller and agent is still to be learned
/// or greeted: then only that one's greeting is made.
async fn newer_call_waits(db: &mut PgConnection, event: &Settling) -> Result<bool> {
    let waits = sqlx::query_scalar(
        "SELECT EXISTS (
             SELECT 1 FROM inbox
             WHERE caller = $1 AND agent = $2 AND greeting_wanted AND (started_at, id) > ($3, $4)
                 AND stage IN ('learn', 'greet') AND state IN ('queued', 'ready', 'running'))",
    )
    .bind(&event.caller)
    .bind(&event.agent)
    .bind(event.started_at)
    .bind(event.id)
    .fetch_one(db)
    .await?;
    Ok(waits)
}

/// Older calls are greeted no more: whoever works on one is refused.
async fn supersede_older(db: &mut PgConnection, event: &Settling) -> Result<Vec<Timestamp>> {
    let older = sqlx::query(
        "SELECT id, received_at FROM inbox
         WHERE caller = $1 AND agent = $2 AND stage = 'greet' AND state IN ('ready', 'running')
             AND (started_at, id) < ($3, $4)",
    )
    .bind(&event.caller)
    .bind(&event.agent)
    .bind(event.started_at)
    .bind(event.id)
    .fetch_all(&mut *db)
    .await?;
    let mut ids = Vec::with_capacity(older.len());
    let mut received = Vec::with_capacity(older.len());
    for row in &older {
        ids.push(row.try_get("id")?);
        received.push(rows::time(row, "received_at")?);
    }
    finish(db, &ids).await?;
    Ok(received)
}
