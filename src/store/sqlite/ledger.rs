//! The inbox, dead letters and agent profiles in SQLite.
//!
//! Of one caller's events that are still to be learned, the oldest is `ready`
//! and the others are `queued` behind it; learning one makes the next ready,
//! in the same transaction. So finding work never scans the backlog.

mod dead_letters;
mod settlement;

use async_trait::async_trait;
use bytes::Bytes;
use jiff::Timestamp;
use rusqlite::{Connection, Row, named_params, params};
use sha2::{Digest, Sha256};

use super::SqliteDatabase;
use super::register;
use super::rows::{self, first, millis, query, unreadable};
use crate::domain::agent_profile::AgentProfile;
use crate::domain::call_event::EventKey;
use crate::domain::caller_id::CallerId;
use crate::domain::ids::{AgentId, ConversationId};
use crate::domain::profile::CallOrder;
use crate::domain::trace_context::TraceContext;
use crate::store::{
    Accepted, Claim, Claimed, DeadLetter, ErasedEvents, EventId, InboxEvent, InboxStats,
    KnownCalls, LONGEST_PAUSE, Ledger, NewEvent, Result, Settled, Settlement, Stage, StoreError,
    StoredAgent, Unarchived, call_mark,
};

use dead_letters::{dead_letter, erase, naming, revive, withdraw};
use settlement::settle;

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

    async fn settle(&self, claim: Claim, how: Settlement) -> Result<Settled> {
        self.0
            .write(move |db| settle(db, claim.id, claim.stage, &how))
            .await
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

    async fn archived(&self, ids: Vec<EventId>) -> Result<Vec<EventId>> {
        self.0
            .write(move |db| {
                let mut update = db.prepare_cached(
                    "UPDATE inbox SET archived = 1,
                         payload = CASE state WHEN 'done' THEN NULL ELSE payload END
                     WHERE id = ?1",
                )?;
                let mut gone = Vec::new();
                for id in ids {
                    if update.execute([id.0])? == 0 {
                        gone.push(id);
                    }
                }
                Ok(gone)
            })
            .await
    }

    async fn archive_later(&self, ids: Vec<EventId>, at: Timestamp) -> Result<Vec<EventId>> {
        self.0
            .write(move |db| {
                let mut update =
                    db.prepare_cached("UPDATE inbox SET archive_at = ?2 WHERE id = ?1")?;
                let mut gone = Vec::new();
                for id in ids {
                    if update.execute([id.0, millis(at)])? == 0 {
                        gone.push(id);
                    }
                }
                Ok(gone)
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
        let whose = caller.clone();
        let unknown = self.0.read(move |db| naming(db, &whose)).await?;
        let caller = caller.clone();
        self.0
            .write(move |db| erase(db, &caller, &known, &unknown, now))
            .await
    }

    async fn withdraw(
        &self,
        caller: &CallerId,
        conversation: ConversationId,
        now: Timestamp,
    ) -> Result<()> {
        let whose = caller.clone();
        let unknown = self.0.read(move |db| naming(db, &whose)).await?;
        let caller = caller.clone();
        self.0
            .write(move |db| withdraw(db, &caller, conversation, &unknown, now))
            .await
    }

    async fn unknown_calls(&self, calls: Vec<ConversationId>) -> Result<Vec<ConversationId>> {
        self.0.read(move |db| unknown_calls(db, calls)).await
    }

    async fn reconciled_until(&self) -> Result<Option<Timestamp>> {
        self.0
            .read(|db| {
                let sql = "SELECT settled_until FROM reconciliation";
                first(db, sql, [], |row| rows::time(row, "settled_until"))
            })
            .await
    }

    async fn set_reconciled_until(&self, until: Timestamp) -> Result<()> {
        self.0
            .write(move |db| {
                db.prepare_cached(
                    "INSERT OR REPLACE INTO reconciliation (id, settled_until) VALUES (1, ?1)",
                )?
                .execute([millis(until)])?;
                Ok(())
            })
            .await
    }

    async fn add_figures(&self, day: String, figures: Vec<(String, u64)>) -> Result<()> {
        self.0
            .write(move |db| {
                let mut add = db.prepare_cached(
                    "INSERT INTO figures (day, name, value) VALUES (?1, ?2, ?3)
                     ON CONFLICT (day, name) DO UPDATE SET value = value + excluded.value",
                )?;
                for (name, value) in &figures {
                    let value = i64::try_from(*value).unwrap_or(i64::MAX);
                    add.execute(params![day, name, value])?;
                }
                Ok(())
            })
            .await
    }

    async fn figures(&self, since: String) -> Result<Vec<(String, String, u64)>> {
        self.0
            .read(move |db| {
                let sql = "SELECT * FROM figures WHERE day >= ?1 ORDER BY day, name";
                query(db, sql, [since], |row| {
                    Ok((row.get("day")?, row.get("name")?, count(row, "value")?))
                })
            })
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

fn unknown_calls(db: &Connection, calls: Vec<ConversationId>) -> Result<Vec<ConversationId>> {
    let mut unknown = Vec::new();
    for call in calls {
        let mark = call_mark(&call);
        let sql = "SELECT EXISTS (SELECT 1 FROM inbox WHERE event_key = ?1)
                OR EXISTS (SELECT 1 FROM learned_calls WHERE conversation_id IN (?2, 'mark:' || ?3))
                OR EXISTS (SELECT 1 FROM erased_calls WHERE mark = ?3) AS known";
        let key = EventKey::transcription(&call).unique();
        let known = first(db, sql, [&key, call.as_str(), &mark], |row| {
            Ok(row.get::<_, bool>("known")?)
        })?;
        if known != Some(true) {
            unknown.push(call);
        }
    }
    Ok(unknown)
}

fn count(row: &Row<'_>, column: &str) -> Result<u64> {
    let count: i64 = row.get(column)?;
    u64::try_from(count).map_err(|_| unreadable(column))
}

fn accept(db: &Connection, event: &NewEvent) -> Result<Accepted> {
    if register::is_erased(db, &event.key.conversation_id)? {
        return Ok(Accepted::Duplicate);
    }
    let caller = event.caller.as_ref().map(CallerId::as_str);
    let inserted = db
        .prepare_cached(
            "INSERT INTO inbox (event_key, kind, conversation_id, agent, caller, started_at,
                 greeting_wanted, stage, state, run_at, received_at, payload, trace)
             VALUES (:event_key, :kind, :conversation, :agent, :caller, :started_at, :greeting,
                 -- Without a caller there is nothing to learn.
                 CASE WHEN :caller IS NULL THEN 'archive' ELSE 'learn' END,
                 CASE WHEN :caller IS NULL THEN 'done'
                 WHEN EXISTS (
                     SELECT 1 FROM inbox WHERE caller = :caller AND stage = 'learn'
                         AND state IN ('queued', 'ready'))
                 THEN 'queued' ELSE 'ready' END,
                 :received_at, :received_at, :payload, :trace)
             ON CONFLICT (event_key) DO NOTHING",
        )?
        .execute(named_params! {
            ":event_key": event.key.unique(),
            ":kind": event.key.kind.as_str(),
            ":conversation": event.key.conversation_id.as_str(),
            ":agent": event.key.agent_id.as_ref().map(AgentId::as_str),
            ":caller": caller,
            ":started_at": millis(event.started_at),
            ":greeting": event.greeting_wanted,
            ":received_at": millis(event.received_at),
            ":payload": event.payload,
            ":trace": event.trace.map(|trace| trace.to_string()),
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
                       unusable, received_at, greet_since, trace, length(payload) AS payload_bytes
                   FROM inbox WHERE id = ?1";
        let event = first(db, sql, [id.0], |row| inbox_event(row, stage));
        match event {
            // One unreadable row must not hold up the others.
            Err(StoreError::Corrupt(error)) => {
                let claim = Claim {
                    id,
                    stage,
                    fence: 0,
                };
                claimed.unreadable.push((claim, error));
            }
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
    let trace: Option<String> = row.get("trace")?;
    Ok(InboxEvent {
        id: EventId(id),
        stage,
        fence: 0,
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
        trace: trace.as_deref().and_then(TraceContext::parse),
        payload_bytes: usize::try_from(payload_bytes.unwrap_or_default())
            .map_err(|_| unreadable("payload"))?,
    })
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
