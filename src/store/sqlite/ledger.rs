//! The inbox, dead letters and agent profiles in SQLite.
//!
//! Of one caller's events that are still to be learned, the oldest is `ready`
//! and the others are `queued` behind it; learning one makes the next ready,
//! in the same transaction. So finding work never scans the backlog.

use async_trait::async_trait;
use bytes::Bytes;
use jiff::Timestamp;
use rusqlite::{Connection, Row, named_params, params};
use sha2::{Digest, Sha256};

use super::SqliteDatabase;
use super::register;
use super::rows::{self, first, millis, query, unreadable};
use crate::domain::agent_profile::AgentProfile;
use crate::domain::caller_id::CallerId;
use crate::domain::ids::{AgentId, ConversationId};
use crate::domain::profile::CallOrder;
use crate::store::{
    Accepted, Claimed, DeadLetter, ErasedEvents, EventId, InboxEvent, InboxStats, KnownCalls,
    LONGEST_PAUSE, Ledger, NewEvent, Result, RetryCause, Settled, Settlement, Stage, StoreError,
    StoredAgent, Unarchived,
};

/// [`Ledger`] on SQLite.
#[derive(Clone)]
pub struct SqliteLedger(SqliteDatabase);

impl SqliteLedger {
    /// The ledger in this database.
    #[must_use]
    pub fn new(database: SqliteDatabase) -> Self {
        Self(database)
    }
}

#[async_trait]
impl Ledger for SqliteLedger {
    async fn accept(&self, event: NewEvent) -> Result<Accepted> {
        self.0.write_first(move |db| accept(db, &event)).await
    }

    async fn keep_unknown(&self, payload: Vec<u8>, reason: &str, now: Timestamp) -> Result<()> {
        let reason = reason.to_owned();
        self.0
            .write(move |db| {
                let key = format!("unknown {}", hex::encode(Sha256::digest(&payload)));
                db.prepare_cached(
                    "INSERT INTO inbox (event_key, kind, started_at, greeting_wanted, stage, state, run_at,
                         received_at, last_error, archived, payload)
                     VALUES (?1, 'unknown', ?2, 0, 'archive', 'dead', ?2, ?2, ?3, 1, ?4)
                     ON CONFLICT DO NOTHING",
                )?
                .execute(params![key, millis(now), reason, payload])?;
                Ok(())
            })
            .await
    }

    async fn claim(
        &self,
        stage: Stage,
        now: Timestamp,
        limit: usize,
        busy: Vec<EventId>,
    ) -> Result<Claimed> {
        self.0
            .read(move |db| claim(db, stage, now, limit, &busy))
            .await
    }

    async fn payload(&self, id: EventId) -> Result<Option<Bytes>> {
        self.0
            .read(move |db| {
                let sql = "SELECT payload FROM inbox WHERE id = ?1";
                let payload: Option<Option<Vec<u8>>> =
                    first(db, sql, [id.0], |row| Ok(row.get("payload")?))?;
                Ok(payload.flatten().map(Bytes::from))
            })
            .await
    }

    async fn settle(&self, id: EventId, stage: Stage, how: Settlement) -> Result<Settled> {
        self.0.write(move |db| settle(db, id, stage, &how)).await
    }

    async fn to_archive(
        &self,
        now: Timestamp,
        limit: usize,
        most_bytes: usize,
    ) -> Result<Vec<Unarchived>> {
        self.0
            .read(move |db| to_archive(db, now, limit, most_bytes))
            .await
    }

    async fn archived(&self, ids: Vec<EventId>) -> Result<()> {
        self.0
            .write(move |db| {
                let mut update = db.prepare_cached(
                    "UPDATE inbox SET archived = 1,
                         payload = CASE state WHEN 'done' THEN NULL ELSE payload END
                     WHERE id = ?1",
                )?;
                for id in ids {
                    update.execute([id.0])?;
                }
                Ok(())
            })
            .await
    }

    async fn archive_later(&self, ids: Vec<EventId>, at: Timestamp) -> Result<()> {
        self.0
            .write(move |db| {
                let mut update =
                    db.prepare_cached("UPDATE inbox SET archive_at = ?2 WHERE id = ?1")?;
                for id in ids {
                    update.execute([id.0, millis(at)])?;
                }
                Ok(())
            })
            .await
    }

    async fn stats(&self) -> Result<InboxStats> {
        self.0
            .read(|db| {
                let sql = "SELECT
                        (SELECT count(*) FROM inbox WHERE state IN ('queued', 'ready'))
                            + (SELECT count(*) FROM inbox WHERE archived = 0 AND state = 'done') AS pending,
                        (SELECT min(received_at) FROM (
                            SELECT min(received_at) AS received_at FROM inbox WHERE state IN ('queued', 'ready')
                            UNION ALL
                            SELECT min(received_at) FROM inbox WHERE archived = 0 AND state = 'done')) AS oldest,
                        (SELECT count(*) FROM inbox WHERE state = 'dead') AS dead";
                let stats = first(db, sql, [], |row| {
                    let oldest: Option<i64> = row.get("oldest")?;
                    Ok(InboxStats {
                        pending: count(row, "pending")?,
                        oldest: oldest.map(|_| rows::time(row, "oldest")).transpose()?,
                        dead_letters: count(row, "dead")?,
                    })
                })?;
                Ok(stats.unwrap_or_default())
            })
            .await
    }

    async fn dead_letters(&self, limit: usize) -> Result<Vec<DeadLetter>> {
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        self.0
            .read(move |db| {
                let sql = "SELECT * FROM inbox WHERE state = 'dead' ORDER BY id DESC LIMIT ?1";
                query(db, sql, [limit], dead_letter)
            })
            .await
    }

    async fn revive(&self, id: EventId, now: Timestamp) -> Result<bool> {
        self.0.write(move |db| revive(db, id, now)).await
    }

    async fn dead_letter(&self, id: EventId) -> Result<Option<(DeadLetter, Bytes)>> {
        self.0
            .read(move |db| {
                let sql = "SELECT * FROM inbox WHERE id = ?1 AND state = 'dead'";
                first(db, sql, [id.0], |row| {
                    let body: Option<Vec<u8>> = row.get("payload")?;
                    Ok((dead_letter(row)?, body.unwrap_or_default().into()))
                })
            })
            .await
    }

    async fn discard(&self, id: EventId) -> Result<bool> {
        self.0
            .write(move |db| {
                let sql = "DELETE FROM inbox WHERE id = ?1 AND state = 'dead'";
                Ok(db.prepare_cached(sql)?.execute([id.0])? == 1)
            })
            .await
    }

    async fn expire_dead_letters(&self, before: Timestamp) -> Result<u64> {
        self.0
            .write(move |db| {
                let sql = "DELETE FROM inbox WHERE id IN
                    (SELECT id FROM inbox WHERE state = 'dead' AND received_at < ?1 LIMIT 100)";
                Ok(db.prepare_cached(sql)?.execute([millis(before)])? as u64)
            })
            .await
    }

    async fn erase(
        &self,
        caller: &CallerId,
        known: KnownCalls,
        now: Timestamp,
    ) -> Result<ErasedEvents> {
        let caller = caller.clone();
        self.0
            .write(move |db| erase(db, &caller, &known, now))
            .await
    }

    async fn prune(&self, before: Timestamp) -> Result<u64> {
        self.0
            .write(move |db| {
                // In portions: the writer is not to be held up for long.
                let sql = "DELETE FROM inbox WHERE id IN
                    (SELECT id FROM inbox WHERE state = 'done' AND archived AND received_at < ?1 LIMIT 1000)";
                Ok(db.prepare_cached(sql)?.execute([millis(before)])? as u64)
            })
            .await
    }

    async fn agents(&self) -> Result<Vec<StoredAgent>> {
        self.0
            .read(|db| {
                let stored = query(db, "SELECT * FROM agent_profiles", [], |row| {
                    let profile: String = row.get("profile")?;
                    // A profile of another version is fetched anew.
                    let Ok(profile) = serde_json::from_str::<AgentProfile>(&profile) else {
                        return Ok(None);
                    };
                    Ok(Some(StoredAgent {
                        agent: rows::agent(row)?,
                        profile,
                        fetched_at: rows::time(row, "fetched_at")?,
                    }))
                })?;
                Ok(stored.into_iter().flatten().collect())
            })
            .await
    }

    async fn save_agent(&self, stored: StoredAgent) -> Result<()> {
        self.0
            .write(move |db| {
                let profile = serde_json::to_string(&stored.profile)
                    .map_err(|e| StoreError::Corrupt(e.to_string()))?;
                db.prepare_cached(
                    "INSERT OR REPLACE INTO agent_profiles (agent, profile, fetched_at) VALUES (?1, ?2, ?3)",
                )?
                .execute(params![stored.agent.as_str(), profile, millis(stored.fetched_at)])?;
                Ok(())
            })
            .await
    }

    async fn forget_agent(&self, agent: &AgentId) -> Result<()> {
        let agent = agent.clone();
        self.0
            .write(move |db| {
                db.prepare_cached("DELETE FROM agent_profiles WHERE agent = ?1")?
                    .execute([agent.as_str()])?;
                Ok(())
            })
            .await
    }

    async fn check_writable(&self) -> Result<()> {
        self.0.check_writable().await
    }
}

fn count(row: &Row<'_>, column: &str) -> Result<u64> {
    let count: i64 = row.get(column)?;
    u64::try_from(count).map_err(|_| unreadable(column))
}

fn dead_letter(row: &Row<'_>) -> Result<DeadLetter> {
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

/// A dead letter of unknown type names no caller, but its body may.
fn erase(
    db: &Connection,
    caller: &CallerId,
    known: &KnownCalls,
    now: Timestamp,
) -> Result<ErasedEvents> {
    let sql = "SELECT id, state, conversation_id FROM inbox WHERE caller = ?1
               UNION ALL
               SELECT id, state, NULL FROM inbox
               WHERE state = 'dead' AND caller IS NULL AND instr(payload, CAST(?1 AS BLOB)) > 0";
    let rows = query(db, sql, [caller.as_str()], |row| {
        let (state, conversation): (String, Option<String>) =
            (row.get("state")?, row.get("conversation_id")?);
        let conversation = conversation.and_then(|id| ConversationId::parse(&id).ok());
        Ok((EventId(row.get("id")?), state == "dead", conversation))
    })?;
    let mut erased = ErasedEvents {
        conversations: known.conversations.clone(),
        ..ErasedEvents::default()
    };
    for (id, is_dead, conversation) in rows {
        erased.dead_letters += u64::from(is_dead);
        erased.conversations.extend(conversation);
        erased.events.push(id);
        db.prepare_cached("DELETE FROM inbox WHERE id = ?1")?
            .execute([id.0])?;
    }
    let sql = "SELECT conversations FROM pending_erasures WHERE caller = ?1";
    let begun: Option<String> = first(db, sql, [caller.as_str()], |row| {
        Ok(row.get("conversations")?)
    })?;
    let begun: Option<Vec<ConversationId>> =
        begun.and_then(|begun| serde_json::from_str(&begun).ok());
    erased.conversations.extend(begun.unwrap_or_default());
    erased.conversations.sort();
    erased.conversations.dedup();

    register::bury(db, &erased.conversations, now)?;
    for mark in &known.marks {
        register::bury_mark(db, mark, now)?;
    }
    let conversations = serde_json::to_string(&erased.conversations)
        .map_err(|e| StoreError::Corrupt(e.to_string()))?;
    db.prepare_cached(
        "INSERT OR REPLACE INTO pending_erasures (caller, conversations, begun_at) VALUES (?1, ?2, ?3)",
    )?
    .execute(params![caller.as_str(), conversations, millis(now)])?;
    Ok(erased)
}

fn accept(db: &Connection, event: &NewEvent) -> Result<Accepted> {
    if register::is_erased(db, &event.key.conversation_id)? {
        return Ok(Accepted::Duplicate);
    }
    let caller = event.caller.as_ref().map(CallerId::as_str);
    let inserted = db
        .prepare_cached(
            "INSERT INTO inbox (event_key, kind, conversation_id, agent, caller, started_at,
                 greeting_wanted, stage, state, run_at, received_at, payload)
             VALUES (:event_key, :kind, :conversation, :agent, :caller, :started_at, :greeting,
                 -- Without a caller there is nothing to learn.
                 CASE WHEN :caller IS NULL THEN 'archive' ELSE 'learn' END,
                 CASE WHEN :caller IS NULL THEN 'done'
                 WHEN EXISTS (
                     SELECT 1 FROM inbox WHERE caller = :caller AND stage = 'learn'
                         AND state IN ('queued', 'ready'))
                 THEN 'queued' ELSE 'ready' END,
                 :received_at, :received_at, :payload)
             ON CONFLICT (event_key) DO NOTHING",
        )?
        .execute(named_params! {
            ":event_key": format!("{} {}", event.key.kind.as_str(), event.key.conversation_id),
            ":kind": event.key.kind.as_str(),
            ":conversation": event.key.conversation_id.as_str(),
            ":agent": event.key.agent_id.as_ref().map(AgentId::as_str),
            ":caller": caller,
            ":started_at": millis(event.started_at),
            ":greeting": event.greeting_wanted,
            ":received_at": millis(event.received_at),
            ":payload": event.payload,
        })?;
    Ok(if inserted == 1 {
        Accepted::New(EventId(db.last_insert_rowid()))
    } else {
        Accepted::Duplicate
    })
}

fn claim(
    db: &Connection,
    stage: Stage,
    now: Timestamp,
    limit: usize,
    busy: &[EventId],
) -> Result<Claimed> {
    let most = limit.saturating_add(busy.len());
    let look = |sql: &str, time: Timestamp, most: usize| {
        let most = i64::try_from(most).unwrap_or(i64::MAX);
        query(
            db,
            sql,
            params![stage.as_str(), millis(time), most],
            |row| Ok(EventId(row.get("id")?)),
        )
    };
    let due = "SELECT id FROM inbox WHERE state = 'ready' AND stage = ?1 AND run_at <= ?2
               ORDER BY run_at, id LIMIT ?3";
    let mut due = look(due, now, most)?;
    // Asked by itself: with an OR the whole backlog would be gone through.
    let far = "SELECT id FROM inbox WHERE state = 'ready' AND stage = ?1 AND run_at > ?2
               ORDER BY run_at, id LIMIT ?3";
    due.extend(look(far, far_from(now), most - due.len())?);
    let mut claimed = Claimed::default();
    for id in due.into_iter().filter(|id| !busy.contains(id)).take(limit) {
        let sql = "SELECT id, kind, conversation_id, agent, caller, started_at, attempts, crashes,
                       unusable, received_at, greet_since, length(payload) AS payload_bytes
                   FROM inbox WHERE id = ?1";
        let event = first(db, sql, [id.0], |row| inbox_event(row, stage));
        match event {
            // One unreadable row must not hold up the others.
            Err(StoreError::Corrupt(error)) => claimed.unreadable.push((id, error)),
            event => claimed.events.extend(event?),
        }
    }
    Ok(claimed)
}

/// Nothing is put off until after this time; see [`LONGEST_PAUSE`].
fn far_from(now: Timestamp) -> Timestamp {
    now.checked_add(LONGEST_PAUSE).unwrap_or(Timestamp::MAX)
}

fn inbox_event(row: &Row<'_>, stage: Stage) -> Result<InboxEvent> {
    let id: i64 = row.get("id")?;
    let caller: Option<String> = row.get("caller")?;
    let payload_bytes: Option<i64> = row.get("payload_bytes")?;
    Ok(InboxEvent {
        id: EventId(id),
        stage,
        key: rows::event_key(row)?,
        caller: caller.map(|_| rows::caller(row)).transpose()?,
        order: CallOrder {
            started_at: rows::time(row, "started_at")?,
            arrival: id,
        },
        attempts: row.get("attempts")?,
        crashes: row.get("crashes")?,
        unusable: row.get("unusable")?,
        received_at: rows::time(row, "received_at")?,
        greet_since: rows::time(row, "greet_since").ok(),
        payload_bytes: usize::try_from(payload_bytes.unwrap_or_default())
            .map_err(|_| unreadable("payload"))?,
    })
}

/// What settling needs to know of an event.
struct Settling {
    caller: Option<String>,
    agent: Option<String>,
    started_at: i64,
    greeting_wanted: bool,
}

fn settle(db: &Connection, id: EventId, stage: Stage, how: &Settlement) -> Result<Settled> {
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

fn to_archive(
    db: &Connection,
    now: Timestamp,
    limit: usize,
    most_bytes: usize,
) -> Result<Vec<Unarchived>> {
    let mut statement = db.prepare_cached(
        "SELECT * FROM inbox WHERE archived = 0 AND (archive_at <= ?1 OR archive_at > ?3)
         ORDER BY id LIMIT ?2",
    )?;
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    let mut rows = statement.query([millis(now), limit, millis(far_from(now))])?;
    let mut due = Vec::new();
    let mut bytes = 0;
    while let Some(row) = rows.next()? {
        let caller: Option<String> = row.get("caller")?;
        // A row that cannot be read has no name in the archive; it becomes a
        // dead letter when it is claimed.
        let Ok(key) = rows::event_key(row) else {
            continue;
        };
        let payload: Option<Vec<u8>> = row.get("payload")?;
        let payload = payload.unwrap_or_default();
        bytes += payload.len();
        if bytes > most_bytes && !due.is_empty() {
            break;
        }
        due.push(Unarchived {
            id: EventId(row.get("id")?),
            key,
            has_caller: caller.is_some(),
            received_at: rows::time(row, "received_at")?,
            payload: payload.into(),
        });
    }
    Ok(due)
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

fn revive(db: &Connection, id: EventId, now: Timestamp) -> Result<bool> {
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
