//! Both tiers and the memories in PostgreSQL.

use async_trait::async_trait;
use jiff::Timestamp;
use rustc_hash::FxHashSet;
use sqlx::Row;
use sqlx::postgres::PgRow;

use super::connections::Transaction;
use super::register::is_erased;
use super::rows::{self, millis, most, number, text};
use super::{PostgresDatabase, lock_caller, lock_callers};
use crate::domain::caller_id::CallerId;
use crate::domain::greeting::Sentiment;
use crate::domain::ids::{AgentId, ConversationId};
use crate::domain::language::Language;
use crate::domain::learning::Learning;
use crate::domain::memory::Memory;
use crate::domain::name::CallerName;
use crate::domain::profile::{ConversationState, UniversalProfile};
use crate::domain::tiers::{self, Greeted, Learned, NewGreeting, Renamed, Tiers};
use crate::store::{
    CallerExport, Claim, ErasedMemory, KnownCalls, MemoryStore, Result, StoreError, call_mark,
};

// Columns by name: a statement that is prepared must give the same ones when a
// newer version of the program has added others.
macro_rules! profile_columns {
    () => {
        "caller, name, name_evidence, name_conversation, name_at, first_seen, total_interactions"
    };
}
macro_rules! state_columns {
    () => {
        "agent, conversation_count, last_call_date, next_greeting, key_topics, sentiment, conversation_summary, \
         greeted_started_at, greeted_arrival, language"
    };
}
macro_rules! memory_columns {
    () => {
        "agent, conversation_id, ordinal, kind, sector, content, said_before, said_after, salience, said_at,
         language"
    };
}

/// [`MemoryStore`] on PostgreSQL.
#[derive(Clone)]
pub struct PostgresMemoryStore(PostgresDatabase);

impl PostgresMemoryStore {
    /// The memory store in this database.
    #[must_use]
    pub fn new(database: PostgresDatabase) -> Self {
        Self(database)
    }
}

#[async_trait]
impl MemoryStore for PostgresMemoryStore {
    /// One statement, so both tiers and the decisions are of one moment.
    async fn tiers(&self, caller: &CallerId) -> Result<Tiers> {
        let found = sqlx::query(
            "SELECT d.version AS decisions, c.caller, name, name_evidence, name_conversation, name_at,
                 first_seen, total_interactions, memories_version, agent, conversation_count,
                 last_call_date, next_greeting, key_topics, sentiment, conversation_summary,
                 greeted_started_at, greeted_arrival, language
             FROM decisions d
                 LEFT JOIN callers c ON c.caller = $1
                 LEFT JOIN conversation_states s ON s.caller = c.caller",
        )
        .bind(caller.as_str())
        .fetch_all(&self.0.rings)
        .await?;
        let mut tiers = Tiers::default();
        for row in &found {
            tiers.decisions = number(row, "decisions")?;
            let known: Option<&str> = row.try_get("caller")?;
            if known.is_some() && tiers.profile.is_none() {
                tiers.profile = Some(rows::profile(row)?);
                tiers.memories = number(row, "memories_version")?;
            }
            // A caller without calls, copied from elsewhere, has no agent.
            let agent: Option<&str> = row.try_get("agent")?;
            if agent.is_some() {
                tiers.states.push((rows::agent(row)?, rows::state(row)?));
            }
        }
        Ok(tiers)
    }

    fn is_shared(&self) -> bool {
        true
    }

    async fn learn(&self, learning: &Learning, claim: Option<Claim>) -> Result<Learned> {
        // Flushed: whoever hears that it is learned settles the event, even if the
        // database crashes in between.
        let mut transaction = self.0.begin().await?;
        let learned = self.learn_in(&mut transaction, learning, claim).await?;
        transaction.commit().await?;
        Ok(learned)
    }

    async fn store_greeting(
        &self,
        new: &NewGreeting,
        claim: Option<Claim>,
    ) -> Result<Option<Greeted>> {
        let mut transaction = self.0.begin().await?;
        let db = &mut transaction;
        lock_caller(db, &new.caller).await?;
        self.check_claim(db, claim).await?;
        if is_erased(&mut *db, &new.conversation_id).await? {
            return Ok(None);
        }
        let profile = profile_of(db, &new.caller).await?;
        let state = state_of(db, &new.caller, &new.agent).await?;
        let (Some(profile), Some(state)) = (profile, state) else {
            return Ok(None);
        };
        let greeted = Greeted::by(profile, state, new);
        if greeted.named {
            save_profile(db, &greeted.profile).await?;
        }
        if greeted.stored {
            save_state(db, &new.caller, &new.agent, &greeted.state).await?;
        }
        transaction.commit().await?;
        Ok(Some(greeted))
    }

    async fn rename(
        &self,
        caller: &CallerId,
        name: &CallerName,
        now: Timestamp,
    ) -> Result<Option<Renamed>> {
        let mut transaction = self.0.begin().await?;
        let db = &mut transaction;
        lock_caller(db, caller).await?;
        let Some(profile) = profile_of(db, caller).await? else {
            return Ok(None);
        };
        let renamed = Renamed::to(name, now, profile, states_of(db, caller).await?);
        save_profile(db, &renamed.profile).await?;
        for (agent, state) in &renamed.states {
            if renamed.changed.contains(agent) {
                save_state(db, caller, agent, state).await?;
            }
        }
        transaction.commit().await?;
        Ok(Some(renamed))
    }

    async fn memories(&self, caller: &CallerId, limit: usize) -> Result<Vec<Memory>> {
        let newest = sqlx::query(concat!(
            "SELECT ",
            memory_columns!(),
            " FROM memories WHERE caller = $1 ORDER BY id DESC LIMIT $2"
        ))
        .bind(caller.as_str())
        .bind(most(limit))
        .fetch_all(&self.0.work)
        .await?;
        newest.iter().rev().map(rows::memory).collect()
    }

    async fn calls(&self, caller: &CallerId) -> Result<KnownCalls> {
        let mut transaction = self.0.begin().await?;
        calls_of(&mut transaction, caller).await
    }

    async fn erase(&self, caller: &CallerId) -> Result<ErasedMemory> {
        let mut transaction = self.0.begin().await?;
        lock_caller(&mut transaction, caller).await?;
        let erased = erase(&mut transaction, caller).await?;
        transaction.commit().await?;
        Ok(erased)
    }

    /// In one transaction: it is done once, or not at all.
    async fn merge(&self, number: &CallerId, person: &CallerId) -> Result<()> {
        let mut transaction = self.0.begin().await?;
        let db = &mut transaction;
        lock_callers(db, &[number.as_str(), person.as_str()]).await?;
        let Some(known) = export(db, number).await? else {
            return Ok(());
        };
        let opted_out: bool = sqlx::query_scalar(
            "SELECT EXISTS (SELECT 1 FROM opted_out_callers WHERE caller IN ($1, $2))",
        )
        .bind(number.as_str())
        .bind(person.as_str())
        .fetch_one(&mut *db)
        .await?;
        // Decided by another instance meanwhile: then nothing is kept.
        let known = Some(known).filter(|_| !opted_out);
        let theirs = export(db, person).await?;
        if let Some(merged) = known.and_then(|known| known.merged_into(theirs, person)) {
            import(db, &merged).await?;
        }
        erase(db, number).await?;
        transaction.commit().await?;
        Ok(())
    }

    async fn expire_memories(&self, before: Timestamp) -> Result<u64> {
        let mut transaction = self.0.begin().await?;
        let db = &mut transaction;
        let old: Vec<(i64, String)> =
            sqlx::query_as("SELECT id, caller FROM memories WHERE said_at < $1 LIMIT 1000")
                .bind(millis(before))
                .fetch_all(&mut *db)
                .await?;
        let (ids, mut callers): (Vec<i64>, Vec<String>) = old.into_iter().unzip();
        callers.sort_unstable();
        callers.dedup();
        let locked: Vec<&str> = callers.iter().map(String::as_str).collect();
        lock_callers(db, &locked).await?;
        let gone = sqlx::query("DELETE FROM memories WHERE id = ANY($1)")
            .bind(ids)
            .execute(&mut *db)
            .await?;
        sqlx::query(
            "UPDATE callers SET memories_version = nextval('memories_versions') WHERE caller = ANY($1)",
        )
        .bind(callers)
        .execute(&mut *db)
        .await?;
        transaction.commit().await?;
        Ok(gone.rows_affected())
    }

    async fn callers(&self) -> Result<Vec<CallerId>> {
        // By their bytes, as everywhere.
        let rows = sqlx::query("SELECT caller FROM callers ORDER BY caller COLLATE \"C\"")
            .fetch_all(&self.0.work)
            .await?;
        rows.iter().map(|row| rows::caller(row, "caller")).collect()
    }

    async fn export(&self, caller: &CallerId) -> Result<Option<CallerExport>> {
        let mut transaction = self.0.begin().await?;
        // All of one moment.
        sqlx::query("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
            .execute(&mut transaction)
            .await?;
        export(&mut transaction, caller).await
    }

    async fn import(&self, export: &CallerExport) -> Result<()> {
        let mut transaction = self.0.begin().await?;
        lock_caller(&mut transaction, &export.profile.phone_number).await?;
        import(&mut transaction, export).await?;
        transaction.commit().await?;
        Ok(())
    }

    async fn check_writable(&self) -> Result<()> {
        self.0.check_writable().await
    }

    async fn describe(&self) -> String {
        "PostgreSQL".to_owned()
    }
}

/// All that decides what learning a call does, read at once and under the lock.
struct Before {
    opted_out: bool,
    erased: bool,
    /// It was learned before, here or in another store.
    learned: bool,
    profile: Option<UniversalProfile>,
    state: Option<ConversationState>,
}

impl PostgresMemoryStore {
    async fn learn_in(
        &self,
        db: &mut Transaction,
        learning: &Learning,
        claim: Option<Claim>,
    ) -> Result<Learned> {
        let (caller, agent) = (lock_person(db, &learning.caller).await?, &learning.agent);
        self.check_claim(db, claim).await?;
        let Before {
            opted_out,
            erased,
            learned,
            profile,
            state,
        } = before(db, &caller, learning).await?;
        if erased || opted_out {
            return Err(StoreError::Erased);
        }
        if learned {
            // The id may come again under another caller or agent; the first stands.
            let (Some(profile), Some(state)) = (profile, state) else {
                return Err(StoreError::Corrupt(
                    "a learned call belongs to somebody else".into(),
                ));
            };
            return Ok(Learned {
                applied: false,
                profile,
                state,
                others: Vec::new(),
            });
        }
        // The call may be another number's by now.
        let learning = &Learning {
            caller: caller.clone(),
            ..learning.clone()
        };
        let (profile, state, replaced) = tiers::after_call(profile, state, learning);
        // Of another caller's call with this id, that is learned at this moment,
        // one has to wait and see.
        let noted = sqlx::query(
            "INSERT INTO learned_calls (conversation_id, caller, agent) VALUES ($1, $2, $3)
             ON CONFLICT (conversation_id) DO NOTHING",
        )
        .bind(learning.conversation_id.as_str())
        .bind(caller.as_str())
        .bind(agent.as_str())
        .execute(&mut *db)
        .await?;
        if noted.rows_affected() == 0 {
            return Err(StoreError::Unavailable(
                "the call is being learned by another caller".into(),
            ));
        }
        save_profile(db, &profile).await?;
        save_state(db, &caller, agent, &state).await?;
        let mut others = Vec::new();
        if let Some(old) = &replaced {
            others = tiers::forget_name_in(states_of(db, &caller).await?, old);
            for (other, state) in &others {
                save_state(db, &caller, other, state).await?;
            }
        }
        save_memories(db, &caller, &learning.memories).await?;
        Ok(Learned {
            applied: true,
            profile,
            state,
            others,
        })
    }

    /// That the event is still this instance's to work on.
    async fn check_claim(&self, db: &mut Transaction, claim: Option<Claim>) -> Result<()> {
        let Some(claim) = claim else {
            return Ok(());
        };
        // By its id alone: the index of what an instance is working on is full of
        // what it has worked on.
        let holds: Option<Option<bool>> = sqlx::query_scalar(
            "SELECT stage = $2 AND state = 'running' AND owner = $3 AND fence = $4
             FROM inbox WHERE id = $1 FOR SHARE",
        )
        .bind(claim.id.0)
        .bind(claim.stage.as_str())
        .bind(self.0.instance.id())
        .bind(claim.fence)
        .fetch_optional(db)
        .await?;
        if holds.flatten() != Some(true) {
            self.0.instance.note_refusal();
            return Err(StoreError::TakenOver);
        }
        Ok(())
    }
}

/// Locks a number and whoever it is by now, which another instance may have
/// decided since this one has looked: the person. A link takes these locks, too;
/// that there was no other before is for the caller to see.
async fn lock_person(db: &mut Transaction, number: &CallerId) -> Result<CallerId> {
    let row = sqlx::query("SELECT caller FROM caller_links WHERE alias = $1")
        .bind(number.as_str())
        .fetch_optional(&mut *db)
        .await?;
    let person = row.map(|row| rows::caller(&row, "caller")).transpose()?;
    let mut both = vec![number.as_str()];
    both.extend(person.as_ref().map(CallerId::as_str));
    lock_callers(db, &both).await?;
    Ok(person.unwrap_or_else(|| number.clone()))
}

async fn before(db: &mut Transaction, caller: &CallerId, learning: &Learning) -> Result<Before> {
    let mark = call_mark(&learning.conversation_id);
    let row = sqlx::query(
        "SELECT coalesce((SELECT caller FROM caller_links WHERE alias = $2), $2) AS person,
             EXISTS (SELECT 1 FROM opted_out_callers WHERE caller IN ($1, $2)) AS opted_out,
             EXISTS (SELECT 1 FROM erased_calls WHERE mark = $3) AS erased,
             EXISTS (SELECT 1 FROM learned_calls WHERE conversation_id = $4
                 OR (conversation_id = $5 AND caller = $1)) AS learned,
             c.caller, name, name_evidence, name_conversation, name_at, first_seen, total_interactions,
             s.agent, conversation_count, last_call_date, next_greeting, key_topics, sentiment,
             conversation_summary, greeted_started_at, greeted_arrival, language
         FROM (SELECT 1) AS one
             LEFT JOIN callers c ON c.caller = $1
             LEFT JOIN conversation_states s ON s.caller = $1 AND s.agent = $6",
    )
    .bind(caller.as_str())
    .bind(learning.caller.as_str())
    .bind(&mark)
    .bind(learning.conversation_id.as_str())
    .bind(marked(&mark))
    .bind(learning.agent.as_str())
    .fetch_one(db)
    .await?;
    if row.try_get::<&str, _>("person")? != caller.as_str() {
        return Err(StoreError::Unavailable("the caller is being linked".into()));
    }
    let (known, met): (Option<&str>, Option<&str>) =
        (row.try_get("caller")?, row.try_get("agent")?);
    Ok(Before {
        opted_out: row.try_get("opted_out")?,
        erased: row.try_get("erased")?,
        learned: row.try_get("learned")?,
        profile: known.map(|_| rows::profile(&row)).transpose()?,
        state: met.map(|_| rows::state(&row)).transpose()?,
    })
}

async fn profile_of(db: &mut Transaction, caller: &CallerId) -> Result<Option<UniversalProfile>> {
    let row = sqlx::query(concat!(
        "SELECT ",
        profile_columns!(),
        " FROM callers WHERE caller = $1"
    ))
    .bind(caller.as_str())
    .fetch_optional(db)
    .await?;
    row.as_ref().map(rows::profile).transpose()
}

async fn state_of(
    db: &mut Transaction,
    caller: &CallerId,
    agent: &AgentId,
) -> Result<Option<ConversationState>> {
    let row = sqlx::query(concat!(
        "SELECT ",
        state_columns!(),
        " FROM conversation_states WHERE caller = $1 AND agent = $2"
    ))
    .bind(caller.as_str())
    .bind(agent.as_str())
    .fetch_optional(db)
    .await?;
    row.as_ref().map(rows::state).transpose()
}

async fn states_of(
    db: &mut Transaction,
    caller: &CallerId,
) -> Result<Vec<(AgentId, ConversationState)>> {
    let found = sqlx::query(concat!(
        "SELECT ",
        state_columns!(),
        " FROM conversation_states WHERE caller = $1"
    ))
    .bind(caller.as_str())
    .fetch_all(db)
    .await?;
    let state = |row: &PgRow| Ok((rows::agent(row)?, rows::state(row)?));
    found.iter().map(state).collect()
}

/// In the place of the id of a call that was learned elsewhere.
fn marked(mark: &str) -> String {
    format!("mark:{mark}")
}

async fn calls_of(db: &mut Transaction, caller: &CallerId) -> Result<KnownCalls> {
    let mut calls = KnownCalls::default();
    let ids: Vec<String> = sqlx::query_scalar(
        "SELECT conversation_id FROM learned_calls WHERE caller = $1 ORDER BY learned_at, conversation_id",
    )
    .bind(caller.as_str())
    .fetch_all(&mut *db)
    .await?;
    for id in ids {
        if let Some(mark) = id.strip_prefix("mark:") {
            calls.marks.push(mark.to_owned());
        } else if let Ok(id) = ConversationId::parse(&id) {
            calls.marks.push(call_mark(&id));
            calls.conversations.push(id);
        }
    }
    // A call that was learned elsewhere is known by its mark, but its memories
    // name it.
    let told: Vec<String> =
        sqlx::query_scalar("SELECT DISTINCT conversation_id FROM memories WHERE caller = $1")
            .bind(caller.as_str())
            .fetch_all(db)
            .await?;
    let told = told.iter().filter_map(|id| ConversationId::parse(id).ok());
    calls.conversations.extend(told);
    calls.conversations.sort();
    calls.conversations.dedup();
    Ok(calls)
}

async fn erase(db: &mut Transaction, caller: &CallerId) -> Result<ErasedMemory> {
    let row = sqlx::query(
        "WITH calls AS (DELETE FROM learned_calls WHERE caller = $1),
             profile AS (DELETE FROM callers WHERE caller = $1 RETURNING 1),
             agents AS (DELETE FROM conversation_states WHERE caller = $1 RETURNING 1),
             said AS (DELETE FROM memories WHERE caller = $1 RETURNING 1)
         SELECT (SELECT count(*) FROM profile) AS profiles, (SELECT count(*) FROM agents) AS agents,
             (SELECT count(*) FROM said) AS memories",
    )
    .bind(caller.as_str())
    .fetch_one(db)
    .await?;
    Ok(ErasedMemory {
        profile: number::<u64>(&row, "profiles")? > 0,
        agents: number(&row, "agents")?,
        memories: number(&row, "memories")?,
    })
}

async fn export(db: &mut Transaction, caller: &CallerId) -> Result<Option<CallerExport>> {
    let Some(profile) = profile_of(db, caller).await? else {
        return Ok(None);
    };
    let mut states = states_of(db, caller).await?;
    states.sort_by(|(a, _), (b, _)| a.cmp(b));
    let memories = sqlx::query(concat!(
        "SELECT ",
        memory_columns!(),
        " FROM memories WHERE caller = $1 ORDER BY id"
    ))
    .bind(caller.as_str())
    .fetch_all(&mut *db)
    .await?;
    Ok(Some(CallerExport {
        profile,
        states,
        memories: memories.iter().map(rows::memory).collect::<Result<_>>()?,
        learned: calls_of(db, caller).await?.marks,
    }))
}

async fn import(db: &mut Transaction, export: &CallerExport) -> Result<()> {
    let caller = &export.profile.phone_number;
    save_profile(db, &export.profile).await?;
    for (agent, state) in &export.states {
        save_state(db, caller, agent, state).await?;
    }
    let there: Vec<(String, i64)> =
        sqlx::query_as("SELECT conversation_id, ordinal FROM memories WHERE caller = $1")
            .bind(caller.as_str())
            .fetch_all(&mut *db)
            .await?;
    let there: FxHashSet<(&str, i64)> = there.iter().map(|(id, n)| (id.as_str(), *n)).collect();
    let is_new = |m: &&Memory| !there.contains(&(m.conversation_id.as_str(), i64::from(m.ordinal)));
    let new: Vec<Memory> = export.memories.iter().filter(is_new).cloned().collect();
    save_memories(db, caller, &new).await?;
    let known: FxHashSet<String> = calls_of(db, caller).await?.marks.into_iter().collect();
    let is_new = |mark: &&String| !known.contains(*mark);
    let marks = export.learned.iter().filter(is_new);
    let marks: Vec<String> = marks.map(|mark| marked(mark)).collect();
    sqlx::query(
        "INSERT INTO learned_calls (conversation_id, caller, agent)
             SELECT DISTINCT mark, $2, '' FROM unnest($1::text[]) AS mark
         ON CONFLICT (conversation_id) DO UPDATE SET caller = excluded.caller",
    )
    .bind(marks)
    .bind(caller.as_str())
    .execute(db)
    .await?;
    Ok(())
}

/// What a profile is saved with, its memories have changed, too, or may have:
/// the version says so.
async fn save_profile(db: &mut Transaction, profile: &UniversalProfile) -> Result<()> {
    let source = profile.name_source.as_ref();
    sqlx::query(
        "INSERT INTO callers (caller, name, first_seen, total_interactions, name_evidence,
             name_conversation, name_at)
         VALUES ($1, $2, $3, $4, $5, $6, $7)
         ON CONFLICT (caller) DO UPDATE SET
             -- A name is replaced, never removed.
             name = coalesce(excluded.name, callers.name),
             name_evidence = excluded.name_evidence,
             name_conversation = excluded.name_conversation,
             name_at = excluded.name_at,
             first_seen = excluded.first_seen,
             total_interactions = excluded.total_interactions,
             memories_version = nextval('memories_versions')",
    )
    .bind(profile.phone_number.as_str())
    .bind(profile.name.as_ref().map(CallerName::as_str))
    .bind(millis(profile.first_seen))
    .bind(i64::try_from(profile.total_interactions).unwrap_or(i64::MAX))
    .bind(source.map(|source| source.evidence.as_str()))
    .bind(source.and_then(|source| source.conversation_id.as_ref().map(ConversationId::as_str)))
    .bind(source.map(|source| millis(source.at)))
    .execute(db)
    .await?;
    Ok(())
}

async fn save_state(
    db: &mut Transaction,
    caller: &CallerId,
    agent: &AgentId,
    state: &ConversationState,
) -> Result<()> {
    let topics = serde_json::Value::from(state.key_topics.clone()).to_string();
    sqlx::query(
        "INSERT INTO conversation_states
             (caller, agent, conversation_count, last_call_date, next_greeting, key_topics, sentiment,
              conversation_summary, greeted_started_at, greeted_arrival, language)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)
         ON CONFLICT (caller, agent) DO UPDATE SET
             conversation_count = excluded.conversation_count,
             last_call_date = excluded.last_call_date,
             next_greeting = excluded.next_greeting,
             key_topics = excluded.key_topics,
             sentiment = excluded.sentiment,
             conversation_summary = excluded.conversation_summary,
             greeted_started_at = excluded.greeted_started_at,
             greeted_arrival = excluded.greeted_arrival,
             language = excluded.language",
    )
    .bind(caller.as_str())
    .bind(agent.as_str())
    .bind(i64::try_from(state.conversation_count).unwrap_or(i64::MAX))
    .bind(millis(state.last_call_date))
    .bind(state.next_greeting.as_deref().map(text))
    .bind(text(&topics))
    .bind(state.sentiment.map(Sentiment::as_str))
    .bind(state.conversation_summary.as_deref().map(text))
    .bind(state.greeted_from.map(|o| millis(o.started_at)))
    .bind(state.greeted_from.map(|o| o.arrival))
    .bind(state.language.as_ref().map(Language::as_str))
    .execute(db)
    .await?;
    Ok(())
}

/// In the order in which they were said.
async fn save_memories(db: &mut Transaction, caller: &CallerId, memories: &[Memory]) -> Result<()> {
    if memories.is_empty() {
        return Ok(());
    }
    let column =
        |of: fn(&Memory) -> &str| -> Vec<_> { memories.iter().map(|m| text(of(m))).collect() };
    sqlx::query(
        "INSERT INTO memories (caller, agent, conversation_id, ordinal, kind, sector, content, said_before,
             said_after, salience, said_at, language)
         SELECT $1, agent, conversation_id, ordinal, kind, sector, content, said_before, said_after, salience,
             said_at, language
         FROM unnest($2::text[], $3::text[], $4::bigint[], $5::text[], $6::text[], $7::text[], $8::text[],
             $9::text[], $10::real[], $11::bigint[], $12::text[]) WITH ORDINALITY
             AS m (agent, conversation_id, ordinal, kind, sector, content, said_before, said_after, salience,
                 said_at, language, place)
         ORDER BY place",
    )
    .bind(caller.as_str())
    .bind(memories.iter().map(|m| m.agent.as_ref().map(AgentId::as_str)).collect::<Vec<_>>())
    .bind(column(|m| m.conversation_id.as_str()))
    .bind(memories.iter().map(|m| i64::from(m.ordinal)).collect::<Vec<_>>())
    .bind(column(|m| m.kind.as_str()))
    .bind(column(|m| m.sector.as_str()))
    .bind(column(|m| &m.content))
    .bind(column(|m| &m.before))
    .bind(column(|m| &m.after))
    .bind(memories.iter().map(|m| m.salience).collect::<Vec<_>>())
    .bind(memories.iter().map(|m| millis(m.timestamp)).collect::<Vec<_>>())
    .bind(memories.iter().map(|m| m.language.as_ref().map(Language::as_str)).collect::<Vec<_>>())
    .execute(db)
    .await?;
    Ok(())
}
