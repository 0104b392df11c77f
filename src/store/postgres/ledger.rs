//! The inbox, dead letters and agent profiles in PostgreSQL.
//!
//! Of one caller's events that are still to be learned, the oldest is `ready`
//! or `running` and the others are `queued` behind it; learning one makes the
//! next ready, in the same transaction. So finding work never scans the
//! backlog, and no claim looks for the head of a queue.

mod dead_letters;
mod settlement;

use async_trait::async_trait;
use bytes::Bytes;
use jiff::Timestamp;
use sha2::{Digest, Sha256};
use sqlx::Row;
use sqlx::postgres::PgRow;

use super::PostgresDatabase;
use super::rows::{self, millis, most, number, unreadable};
use crate::domain::agent_profile::AgentProfile;
use crate::domain::call_event::EventKey;
use crate::domain::caller_id::CallerId;
use crate::domain::ids::{AgentId, ConversationId};
use crate::domain::profile::CallOrder;
use crate::domain::trace_context::TraceContext;
use crate::store::{
    Accepted, Claim, Claimed, DeadLetter, ErasedEvents, EventId, Fleet, InboxEvent, InboxStats,
    KnownCalls, LONGEST_PAUSE, Ledger, NewEvent, Result, Settled, Settlement, Stage, StoreError,
    StoredAgent, Unarchived, call_mark,
};

/// [`Ledger`] on PostgreSQL.
#[derive(Clone)]
pub struct PostgresLedger(PostgresDatabase);

impl PostgresLedger {
    /// The ledger in this database.
    #[must_use]
    pub fn new(database: PostgresDatabase) -> Self {
        Self(database)
    }
}

/// The time of the queue in milliseconds: `$1` is that of whoever asks, or NULL
/// for the database's.
macro_rules! now {
    () => {
        "coalesce($1, (extract(epoch FROM statement_timestamp()) * 1000)::bigint)"
    };
}

/// What an [`InboxEvent`] is read from: not its body.
macro_rules! event_columns {
    () => {
        "id, kind, conversation_id, agent, caller, started_at, attempts, crashes, unusable, run_at, received_at, \
         greet_since, fence, trace, length(payload)::bigint AS payload_bytes"
    };
}

/// Whether an event is due: its time has come, or is further away than any
/// pause is (`$2`), because a clock was set back.
macro_rules! due {
    ($column:literal) => {
        concat!(
            "(",
            $column,
            " <= ",
            now!(),
            " OR ",
            $column,
            " > $2 + ",
            now!(),
            ")"
        )
    };
}

/// Agents' profiles that may be saved at a time.
const LATE_VERSIONS: i64 = 16;

fn longest_pause() -> i64 {
    i64::try_from(LONGEST_PAUSE.as_millis()).unwrap_or(i64::MAX)
}

fn numbers(ids: &[EventId]) -> Vec<i64> {
    ids.iter().map(|id| id.0).collect()
}

#[async_trait]
impl Ledger for PostgresLedger {
    async fn accept(&self, event: NewEvent) -> Result<Accepted> {
        self.0.acceptor.accept(event).await
    }

    async fn keep_unknown(&self, payload: Vec<u8>, reason: &str, now: Timestamp) -> Result<()> {
        let key = format!("unknown {}", hex::encode(Sha256::digest(&payload)));
        sqlx::query(
            "INSERT INTO inbox (event_key, kind, started_at, greeting_wanted, stage, state, run_at,
                 received_at, last_error, archived, payload)
             VALUES ($1, 'unknown', $2, FALSE, 'archive', 'dead', $2, $2, $3, TRUE, $4)
             ON CONFLICT (event_key) DO NOTHING",
        )
        .bind(key)
        .bind(millis(now))
        .bind(reason)
        .bind(payload)
        .execute(&self.0.work)
        .await?;
        Ok(())
    }

    async fn claim(
        &self,
        stage: Stage,
        now: Timestamp,
        limit: usize,
        busy: Vec<EventId>,
    ) -> Result<Claimed> {
        let busy = numbers(&busy);
        // What this instance has claimed, and nobody here works on any more.
        let mut claimed = sqlx::query(concat!(
            "SELECT ",
            event_columns!(),
            " FROM inbox
             WHERE stage = $3 AND state = 'running' AND owner = $4 AND id <> ALL($5) AND ",
            due!("run_at"),
            " ORDER BY run_at, id LIMIT $6"
        ))
        .bind(self.0.now(now))
        .bind(longest_pause())
        .bind(stage.as_str())
        .bind(self.0.instance.id())
        .bind(&busy)
        .bind(most(limit))
        .fetch_all(&self.0.work)
        .await?;
        let left = limit.saturating_sub(claimed.len());
        if left > 0 {
            // Asked apart: with an OR the whole backlog would be gone through.
            let new = sqlx::query(concat!(
                "WITH due AS (
                     SELECT id FROM inbox WHERE stage = $3 AND state = 'ready' AND id <> ALL($5) AND run_at <= ",
                now!(),
                " ORDER BY run_at, id LIMIT $6 FOR UPDATE SKIP LOCKED),
                 far AS (
                     SELECT id FROM inbox WHERE stage = $3 AND state = 'ready' AND id <> ALL($5) AND run_at > $2 + ",
                now!(),
                " ORDER BY run_at, id LIMIT $6 FOR UPDATE SKIP LOCKED)
                 UPDATE inbox SET state = 'running', owner = $4, fence = fence + 1
                 WHERE id IN (SELECT id FROM due UNION ALL SELECT id FROM far LIMIT $6)
                 RETURNING ",
                event_columns!()
            ))
            .bind(self.0.now(now))
            .bind(longest_pause())
            .bind(stage.as_str())
            .bind(self.0.instance.id())
            .bind(&busy)
            .bind(most(left))
            .fetch_all(&self.0.work)
            .await?;
            claimed.extend(new);
        }
        let mut found = Claimed::default();
        let mut events = Vec::with_capacity(claimed.len());
        for row in &claimed {
            match inbox_event(row, stage) {
                // One unreadable row must not hold up the others.
                Err(StoreError::Corrupt(error)) => {
                    let claim = Claim {
                        id: EventId(row.try_get("id")?),
                        stage,
                        fence: row.try_get("fence")?,
                    };
                    found.unreadable.push((claim, error));
                }
                event => events.push((row.try_get::<i64, _>("run_at")?, event?)),
            }
        }
        // RETURNING keeps no order.
        events.sort_by_key(|(run_at, event)| (*run_at, event.id));
        found.events = events.into_iter().map(|(_, event)| event).collect();
        Ok(found)
    }

    async fn payload(&self, id: EventId) -> Result<Option<Bytes>> {
        let row = sqlx::query("SELECT payload FROM inbox WHERE id = $1")
            .bind(id.0)
            .fetch_optional(&self.0.work)
            .await?;
        let payload: Option<Option<Vec<u8>>> = row.map(|row| row.try_get("payload")).transpose()?;
        Ok(payload.flatten().map(Bytes::from))
    }

    async fn settle(&self, claim: Claim, how: Settlement) -> Result<Settled> {
        settlement::settle(&self.0, claim, &how).await
    }

    async fn to_archive(
        &self,
        now: Timestamp,
        limit: usize,
        most_bytes: usize,
    ) -> Result<Vec<Unarchived>> {
        // Each event by one instance, for as long as that lives.
        let due = sqlx::query(concat!(
            "WITH due AS (
                 SELECT id, length(payload)::bigint AS bytes FROM inbox
                 WHERE NOT archived AND ",
            due!("archive_at"),
            " AND NOT EXISTS (
                     SELECT 1 FROM instances i
                     WHERE i.id = inbox.archiver AND i.id <> $3 AND i.alive_until > clock_timestamp())
                 ORDER BY id LIMIT $4 FOR UPDATE SKIP LOCKED),
             fitting AS (
                 SELECT id, coalesce(sum(bytes) OVER (ORDER BY id), 0) AS sum,
                     row_number() OVER (ORDER BY id) AS place FROM due)
             UPDATE inbox SET archiver = $3
             WHERE id IN (SELECT id FROM fitting WHERE sum <= $5 OR place = 1)
             RETURNING id, kind, conversation_id, agent, caller, received_at, payload"
        ))
        .bind(self.0.now(now))
        .bind(longest_pause())
        .bind(self.0.instance.id())
        .bind(most(limit))
        .bind(most(most_bytes))
        .fetch_all(&self.0.work)
        .await?;
        let mut unarchived = Vec::with_capacity(due.len());
        for row in &due {
            // A row that cannot be read has no name in the archive; it becomes a
            // dead letter when it is claimed.
            let Ok(key) = rows::event_key(row) else {
                continue;
            };
            let caller: Option<&str> = row.try_get("caller")?;
            let payload: Option<Vec<u8>> = row.try_get("payload")?;
            unarchived.push(Unarchived {
                id: EventId(row.try_get("id")?),
                key,
                has_caller: caller.is_some(),
                received_at: rows::time(row, "received_at")?,
                payload: payload.unwrap_or_default().into(),
            });
        }
        unarchived.sort_by_key(|event| event.id);
        Ok(unarchived)
    }

    async fn archived(&self, ids: Vec<EventId>) -> Result<Vec<EventId>> {
        // In one order, so that no two transactions wait for each other.
        let there: Vec<i64> = sqlx::query_scalar(
            "UPDATE inbox SET archived = TRUE, archiver = NULL,
                 payload = CASE state WHEN 'done' THEN NULL ELSE payload END
             WHERE id IN (SELECT id FROM inbox WHERE id = ANY($1) ORDER BY id FOR UPDATE)
             RETURNING id",
        )
        .bind(numbers(&ids))
        .fetch_all(&self.0.work)
        .await?;
        let gone = ids.into_iter().filter(|id| !there.contains(&id.0));
        Ok(gone.collect())
    }

    async fn archive_later(&self, ids: Vec<EventId>, at: Timestamp) -> Result<Vec<EventId>> {
        if ids.is_empty() {
            return Ok(ids);
        }
        let (given, delay) = self.0.later(at);
        let there: Vec<i64> = sqlx::query_scalar(concat!(
            "UPDATE inbox SET archiver = NULL, archive_at =
                 coalesce($2, ",
            clock!(),
            " + $3)
             WHERE id IN (SELECT id FROM inbox WHERE id = ANY($1) ORDER BY id FOR UPDATE)
             RETURNING id"
        ))
        .bind(numbers(&ids))
        .bind(given)
        .bind(delay)
        .fetch_all(&self.0.work)
        .await?;
        let gone = ids.into_iter().filter(|id| !there.contains(&id.0));
        Ok(gone.collect())
    }

    async fn stats(&self) -> Result<InboxStats> {
        let row = sqlx::query(
            "SELECT
                 (SELECT count(*) FROM inbox WHERE state IN ('queued', 'ready', 'running'))
                     + (SELECT count(*) FROM inbox WHERE NOT archived AND state = 'done') AS pending,
                 least(
                     (SELECT min(received_at) FROM inbox WHERE state IN ('queued', 'ready', 'running')),
                     (SELECT min(received_at) FROM inbox WHERE NOT archived AND state = 'done')) AS oldest,
                 (SELECT count(*) FROM inbox WHERE state = 'dead') AS dead",
        )
        .fetch_one(&self.0.work)
        .await?;
        let oldest: Option<i64> = row.try_get("oldest")?;
        Ok(InboxStats {
            pending: number(&row, "pending")?,
            oldest: oldest.map(|_| rows::time(&row, "oldest")).transpose()?,
            dead_letters: number(&row, "dead")?,
        })
    }

    async fn dead_letters(&self, limit: usize) -> Result<Vec<DeadLetter>> {
        let rows = sqlx::query(
            "SELECT id, kind, conversation_id, received_at, attempts, last_error FROM inbox
             WHERE state = 'dead' ORDER BY id DESC LIMIT $1",
        )
        .bind(most(limit))
        .fetch_all(&self.0.work)
        .await?;
        rows.iter().map(dead_letters::dead_letter).collect()
    }

    async fn revive(&self, id: EventId, now: Timestamp) -> Result<bool> {
        dead_letters::revive(&self.0, id, now).await
    }

    async fn dead_letter(&self, id: EventId) -> Result<Option<(DeadLetter, Bytes)>> {
        let sql = "SELECT id, kind, conversation_id, received_at, attempts, last_error, payload FROM inbox
                   WHERE id = $1 AND state = 'dead'";
        let row = sqlx::query(sql)
            .bind(id.0)
            .fetch_optional(&self.0.work)
            .await?;
        row.map(|row| {
            let body: Option<Vec<u8>> = row.try_get("payload")?;
            Ok((
                dead_letters::dead_letter(&row)?,
                body.unwrap_or_default().into(),
            ))
        })
        .transpose()
    }

    async fn discard(&self, id: EventId) -> Result<bool> {
        let gone = sqlx::query("DELETE FROM inbox WHERE id = $1 AND state = 'dead'")
            .bind(id.0)
            .execute(&self.0.work)
            .await?;
        Ok(gone.rows_affected() == 1)
    }

    async fn expire_dead_letters(&self, before: Timestamp) -> Result<u64> {
        let gone = sqlx::query(
            "DELETE FROM inbox WHERE id IN (
                 SELECT id FROM inbox WHERE state = 'dead' AND received_at < $1 LIMIT 100
                 FOR UPDATE SKIP LOCKED)",
        )
        .bind(millis(before))
        .execute(&self.0.work)
        .await?;
        Ok(gone.rows_affected())
    }

    async fn erase(
        &self,
        caller: &CallerId,
        known: KnownCalls,
        now: Timestamp,
    ) -> Result<ErasedEvents> {
        dead_letters::erase(&self.0, caller, &known, now).await
    }

    async fn withdraw(
        &self,
        caller: &CallerId,
        conversation: ConversationId,
        now: Timestamp,
    ) -> Result<()> {
        dead_letters::withdraw(&self.0, caller, conversation, now).await
    }

    async fn unknown_calls(&self, calls: Vec<ConversationId>) -> Result<Vec<ConversationId>> {
        let keys = calls
            .iter()
            .map(|call| EventKey::transcription(call).unique());
        let (keys, marks): (Vec<String>, Vec<String>) =
            keys.zip(calls.iter().map(call_mark)).unzip();
        let ids: Vec<&str> = calls.iter().map(ConversationId::as_str).collect();
        let unknown: Vec<String> = sqlx::query_scalar(
            "SELECT id FROM unnest($1::text[], $2::text[], $3::text[]) AS c (id, key, mark)
             WHERE NOT EXISTS (SELECT 1 FROM inbox WHERE event_key = c.key)
               AND NOT EXISTS (SELECT 1 FROM learned_calls WHERE conversation_id IN (c.id, 'mark:' || c.mark))
               AND NOT EXISTS (SELECT 1 FROM erased_calls e WHERE e.mark = c.mark)",
        )
        .bind(ids)
        .bind(keys)
        .bind(marks)
        .fetch_all(&self.0.work)
        .await?;
        Ok(calls
            .into_iter()
            .filter(|call| unknown.iter().any(|id| id == call.as_str()))
            .collect())
    }

    async fn reconciled_until(&self) -> Result<Option<Timestamp>> {
        let found = sqlx::query("SELECT settled_until FROM reconciliation")
            .fetch_optional(&self.0.work)
            .await?;
        found
            .map(|row| rows::time(&row, "settled_until"))
            .transpose()
    }

    async fn set_reconciled_until(&self, until: Timestamp) -> Result<()> {
        sqlx::query(
            "INSERT INTO reconciliation (id, settled_until) VALUES (1, $1)
             ON CONFLICT (id) DO UPDATE SET settled_until = excluded.settled_until",
        )
        .bind(millis(until))
        .execute(&self.0.work)
        .await?;
        Ok(())
    }

    async fn add_figures(&self, day: String, figures: Vec<(String, u64)>) -> Result<()> {
        let (names, values): (Vec<String>, Vec<i64>) = figures
            .into_iter()
            .map(|(name, value)| (name, i64::try_from(value).unwrap_or(i64::MAX)))
            .unzip();
        // In one order, so that no two instances wait for each other.
        sqlx::query(
            "INSERT INTO figures (day, name, value)
             SELECT $1, name, value FROM unnest($2::text[], $3::bigint[]) AS f (name, value) ORDER BY name
             ON CONFLICT (day, name) DO UPDATE SET value = figures.value + excluded.value",
        )
        .bind(day)
        .bind(names)
        .bind(values)
        .execute(&self.0.work)
        .await?;
        Ok(())
    }

    async fn figures(&self, since: String) -> Result<Vec<(String, String, u64)>> {
        let found =
            sqlx::query("SELECT day, name, value FROM figures WHERE day >= $1 ORDER BY day, name")
                .bind(since)
                .fetch_all(&self.0.work)
                .await?;
        let figure = |row: &PgRow| {
            Ok((
                row.try_get("day")?,
                row.try_get("name")?,
                number(row, "value")?,
            ))
        };
        found.iter().map(figure).collect()
    }

    async fn prune(&self, before: Timestamp) -> Result<u64> {
        let gone = sqlx::query(
            "DELETE FROM inbox WHERE id IN (
                 SELECT id FROM inbox WHERE state = 'done' AND archived AND received_at < $1 LIMIT 1000
                 FOR UPDATE SKIP LOCKED)",
        )
        .bind(millis(before))
        .execute(&self.0.work)
        .await?;
        Ok(gone.rows_affected())
    }

    async fn agents(&self) -> Result<Vec<StoredAgent>> {
        let all = self.agents_since(0).await?;
        Ok(all.into_iter().map(|(_, agent)| agent).collect())
    }

    async fn agents_since(&self, version: u64) -> Result<Vec<(u64, StoredAgent)>> {
        // One that was committed late may have a smaller version.
        let since = i64::try_from(version).unwrap_or(i64::MAX) - LATE_VERSIONS;
        let rows = sqlx::query(
            "SELECT agent, profile, fetched_at, version FROM agent_profiles WHERE version > $1",
        )
        .bind(since)
        .fetch_all(&self.0.work)
        .await?;
        let mut agents = Vec::with_capacity(rows.len());
        for row in &rows {
            // A profile of another version of the program is fetched anew.
            let Ok(profile) = serde_json::from_str::<AgentProfile>(row.try_get("profile")?) else {
                continue;
            };
            let agent = StoredAgent {
                agent: rows::agent(row)?,
                profile,
                fetched_at: rows::time(row, "fetched_at")?,
            };
            agents.push((number(row, "version")?, agent));
        }
        Ok(agents)
    }

    async fn fleet(&self) -> Result<Fleet> {
        self.0.instance.fleet(&self.0).await
    }

    async fn save_agent(&self, stored: StoredAgent) -> Result<()> {
        let profile = serde_json::to_string(&stored.profile)
            .map_err(|e| StoreError::Corrupt(e.to_string()))?;
        sqlx::query(
            "INSERT INTO agent_profiles (agent, profile, fetched_at) VALUES ($1, $2, $3)
             ON CONFLICT (agent) DO UPDATE SET profile = excluded.profile, fetched_at = excluded.fetched_at,
                 version = nextval('agent_versions')",
        )
        .bind(stored.agent.as_str())
        .bind(rows::text(&profile))
        .bind(millis(stored.fetched_at))
        .execute(&self.0.work)
        .await?;
        Ok(())
    }

    async fn forget_agent(&self, agent: &AgentId) -> Result<()> {
        sqlx::query("DELETE FROM agent_profiles WHERE agent = $1")
            .bind(agent.as_str())
            .execute(&self.0.work)
            .await?;
        Ok(())
    }

    async fn leads(&self, job: &'static str) -> Result<bool> {
        let leads = sqlx::query(
            "INSERT INTO leaders (job, owner) VALUES ($1, $2)
             ON CONFLICT (job) DO UPDATE SET owner = excluded.owner
             WHERE leaders.owner = excluded.owner OR NOT EXISTS (
                 SELECT 1 FROM instances i WHERE i.id = leaders.owner AND i.alive_until > clock_timestamp())",
        )
        .bind(job)
        .bind(self.0.instance.id())
        .execute(&self.0.work)
        .await?;
        Ok(leads.rows_affected() == 1)
    }

    async fn check_writable(&self) -> Result<()> {
        self.0.check_writable().await
    }
}

fn inbox_event(row: &PgRow, stage: Stage) -> Result<InboxEvent> {
    let id: i64 = row.try_get("id")?;
    let caller: Option<&str> = row.try_get("caller")?;
    let payload_bytes: Option<i64> = row.try_get("payload_bytes")?;
    let greet_since: Option<i64> = row.try_get("greet_since")?;
    let trace: Option<&str> = row.try_get("trace")?;
    Ok(InboxEvent {
        id: EventId(id),
        stage,
        fence: row.try_get("fence")?,
        key: rows::event_key(row)?,
        caller: caller.map(|_| rows::caller(row, "caller")).transpose()?,
        order: CallOrder {
            started_at: rows::time(row, "started_at")?,
            arrival: id,
        },
        attempts: number(row, "attempts")?,
        crashes: number(row, "crashes")?,
        unusable: number(row, "unusable")?,
        received_at: rows::time(row, "received_at")?,
        greet_since: greet_since
            .map(|_| rows::time(row, "greet_since"))
            .transpose()?,
        trace: trace.and_then(TraceContext::parse),
        payload_bytes: usize::try_from(payload_bytes.unwrap_or_default())
            .map_err(|_| unreadable("payload"))?,
    })
}
