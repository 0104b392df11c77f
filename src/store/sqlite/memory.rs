//! Both tiers and the memories in SQLite.

use async_trait::async_trait;
use jiff::Timestamp;
use rusqlite::types::ValueRef;
use rusqlite::{Connection, named_params, params};
use rustc_hash::FxHashSet;

use super::SqliteDatabase;
use super::register::is_erased;
use super::rows::{self, first, millis, query};
use crate::domain::caller_id::CallerId;
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

/// [`MemoryStore`] on SQLite.
#[derive(Clone)]
pub struct SqliteMemoryStore(SqliteDatabase);

impl SqliteMemoryStore {
    /// The memory store in this database.
    #[must_use]
    pub fn new(database: SqliteDatabase) -> Self {
        Self(database)
    }
}

#[async_trait]
impl MemoryStore for SqliteMemoryStore {
    async fn tiers(&self, caller: &CallerId) -> Result<Tiers> {
        let caller = caller.clone();
        self.0.read(move |db| tiers_of(db, &caller)).await
    }

    async fn learn(&self, learning: &Learning, _: Option<Claim>) -> Result<Learned> {
        let learning = learning.clone();
        self.0.write(move |db| learn(db, &learning)).await
    }

    async fn store_greeting(
        &self,
        greeting: &NewGreeting,
        _: Option<Claim>,
    ) -> Result<Option<Greeted>> {
        let greeting = greeting.clone();
        self.0.write(move |db| store_greeting(db, &greeting)).await
    }

    async fn rename(
        &self,
        caller: &CallerId,
        name: &CallerName,
        now: Timestamp,
    ) -> Result<Option<Renamed>> {
        let (caller, name) = (caller.clone(), name.clone());
        self.0
            .write(move |db| rename(db, &caller, &name, now))
            .await
    }

    async fn memories(&self, caller: &CallerId, limit: usize) -> Result<Vec<Memory>> {
        let caller = caller.clone();
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        self.0
            .read(move |db| {
                let sql = "SELECT * FROM memories WHERE caller = ?1 ORDER BY id DESC LIMIT ?2";
                let mut newest = query(db, sql, params![caller.as_str(), limit], rows::memory)?;
                newest.reverse();
                Ok(newest)
            })
            .await
    }

    async fn calls(&self, caller: &CallerId) -> Result<KnownCalls> {
        let caller = caller.clone();
        self.0.read(move |db| calls_of(db, &caller)).await
    }

    async fn erase(&self, caller: &CallerId) -> Result<ErasedMemory> {
        let caller = caller.clone();
        self.0.write(move |db| erase(db, &caller)).await
    }

    /// In one transaction: it is done once, or not at all.
    async fn merge(&self, number: &CallerId, person: &CallerId) -> Result<()> {
        let (number, person) = (number.clone(), person.clone());
        self.0
            .write(move |db| {
                let Some(known) = export(db, &number)? else {
                    return Ok(());
                };
                if let Some(merged) = known.merged_into(export(db, &person)?, &person) {
                    import(db, &merged)?;
                }
                erase(db, &number)?;
                Ok(())
            })
            .await
    }

    async fn expire_memories(&self, before: Timestamp) -> Result<u64> {
        self.0
            .write(move |db| {
                // In portions: the writer is not to be held up for long.
                let sql = "DELETE FROM memories WHERE id IN
                    (SELECT id FROM memories WHERE said_at < ?1 LIMIT 1000)";
                Ok(db.prepare_cached(sql)?.execute([millis(before)])? as u64)
            })
            .await
    }

    async fn callers(&self) -> Result<Vec<CallerId>> {
        let sql = "SELECT caller FROM callers ORDER BY caller";
        self.0
            .read(move |db| query(db, sql, [], rows::caller))
            .await
    }

    async fn export(&self, caller: &CallerId) -> Result<Option<CallerExport>> {
        let caller = caller.clone();
        self.0.read(move |db| export(db, &caller)).await
    }

    async fn import(&self, export: &CallerExport) -> Result<()> {
        let export = export.clone();
        self.0.write(move |db| import(db, &export)).await
    }

    async fn check_writable(&self) -> Result<()> {
        self.0.check_writable().await
    }

    async fn describe(&self) -> String {
        "SQLite".to_owned()
    }
}

/// One statement, so both tiers are of one moment, and the cheapest read that
/// a ring can have: no transaction around it to be parsed and locked.
fn tiers_of(db: &Connection, caller: &CallerId) -> Result<Tiers> {
    let sql = "SELECT c.caller AS caller, name, name_evidence, name_conversation, name_at,
                   first_seen, total_interactions, agent, conversation_count, last_call_date, next_greeting, key_topics, sentiment,
                   conversation_summary, greeted_started_at, greeted_arrival, language
               FROM callers c LEFT JOIN conversation_states s ON s.caller = c.caller
               WHERE c.caller = ?1";
    let mut statement = db.prepare_cached(sql)?;
    let mut rows = statement.query([caller.as_str()])?;
    let mut tiers = Tiers::default();
    while let Some(row) = rows.next()? {
        if tiers.profile.is_none() {
            tiers.profile = Some(rows::profile(row)?);
        }
        // A caller without calls, copied from elsewhere, has no agent.
        if !matches!(row.get_ref("agent")?, ValueRef::Null) {
            tiers.states.push((rows::agent(row)?, rows::state(row)?));
        }
    }
    Ok(tiers)
}

fn profile_of(db: &Connection, caller: &CallerId) -> Result<Option<UniversalProfile>> {
    first(
        db,
        "SELECT * FROM callers WHERE caller = ?1",
        [caller.as_str()],
        rows::profile,
    )
}

fn states_of(db: &Connection, caller: &CallerId) -> Result<Vec<(AgentId, ConversationState)>> {
    let sql = "SELECT * FROM conversation_states WHERE caller = ?1";
    query(db, sql, [caller.as_str()], |row| {
        Ok((rows::agent(row)?, rows::state(row)?))
    })
}

fn rename(
    db: &Connection,
    caller: &CallerId,
    name: &CallerName,
    now: Timestamp,
) -> Result<Option<Renamed>> {
    let Some(profile) = profile_of(db, caller)? else {
        return Ok(None);
    };
    let renamed = Renamed::to(name, now, profile, states_of(db, caller)?);
    save_profile(db, &renamed.profile)?;
    for (agent, state) in &renamed.states {
        if renamed.changed.contains(agent) {
            save_state(db, caller, agent, state)?;
        }
    }
    Ok(Some(renamed))
}

fn state_of(
    db: &Connection,
    caller: &CallerId,
    agent: &AgentId,
) -> Result<Option<ConversationState>> {
    let sql = "SELECT * FROM conversation_states WHERE caller = ?1 AND agent = ?2";
    first(db, sql, [caller.as_str(), agent.as_str()], rows::state)
}

fn learn(db: &Connection, learning: &Learning) -> Result<Learned> {
    let (caller, agent) = (&learning.caller, &learning.agent);
    if is_erased(db, &learning.conversation_id)? {
        return Err(StoreError::Erased);
    }
    // Learned in another store, it is known by its mark alone.
    let imported = first(
        db,
        "SELECT 1 FROM learned_calls WHERE conversation_id = ?1 AND caller = ?2",
        params![
            marked(&call_mark(&learning.conversation_id)),
            caller.as_str()
        ],
        |_| Ok(()),
    )?;
    let applied = imported.is_none()
        && db
            .prepare_cached(
                "INSERT INTO learned_calls (conversation_id, caller, agent, learned_at)
                 VALUES (?1, ?2, ?3, unixepoch('subsec')) ON CONFLICT DO NOTHING",
            )?
            .execute([
                learning.conversation_id.as_str(),
                caller.as_str(),
                agent.as_str(),
            ])?
            == 1;
    let (profile, state) = (profile_of(db, caller)?, state_of(db, caller, agent)?);
    if !applied {
        // The id may come again under another caller or agent; the first stands.
        let (Some(profile), Some(state)) = (profile, state) else {
            return Err(StoreError::Corrupt(
                "a learned call belongs to somebody else".into(),
            ));
        };
        return Ok(Learned {
            applied,
            profile,
            state,
            others: Vec::new(),
        });
    }
    let (profile, state, replaced) = tiers::after_call(profile, state, learning);
    save_profile(db, &profile)?;
    save_state(db, caller, agent, &state)?;
    let mut others = Vec::new();
    if let Some(old) = &replaced {
        others = tiers::forget_name_in(states_of(db, caller)?, old);
        for (other, state) in &others {
            save_state(db, caller, other, state)?;
        }
    }
    for memory in &learning.memories {
        save_memory(db, caller, memory)?;
    }
    Ok(Learned {
        applied,
        profile,
        state,
        others,
    })
}

/// In the place of the id of a call that was learned elsewhere.
fn marked(mark: &str) -> String {
    format!("mark:{mark}")
}

fn calls_of(db: &Connection, caller: &CallerId) -> Result<KnownCalls> {
    let mut calls = KnownCalls::default();
    let sql = "SELECT conversation_id FROM learned_calls WHERE caller = ?1 ORDER BY learned_at";
    let ids = query(db, sql, [caller.as_str()], |row| {
        Ok(row.get::<_, String>("conversation_id")?)
    })?;
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
    let sql = "SELECT DISTINCT conversation_id FROM memories WHERE caller = ?1";
    let told = query(db, sql, [caller.as_str()], |row| {
        Ok(row.get::<_, String>("conversation_id")?)
    })?;
    let told = told.iter().filter_map(|id| ConversationId::parse(id).ok());
    calls.conversations.extend(told);
    calls.conversations.sort();
    calls.conversations.dedup();
    Ok(calls)
}

fn erase(db: &Connection, caller: &CallerId) -> Result<ErasedMemory> {
    let delete = |table: &str| -> Result<u64> {
        let sql = format!("DELETE FROM {table} WHERE caller = ?1");
        Ok(db.prepare_cached(&sql)?.execute([caller.as_str()])? as u64)
    };
    delete("learned_calls")?;
    Ok(ErasedMemory {
        profile: delete("callers")? > 0,
        agents: delete("conversation_states")?,
        memories: delete("memories")?,
    })
}

fn export(db: &Connection, caller: &CallerId) -> Result<Option<CallerExport>> {
    let Some(profile) = profile_of(db, caller)? else {
        return Ok(None);
    };
    let mut states = states_of(db, caller)?;
    states.sort_by(|(a, _), (b, _)| a.cmp(b));
    let sql = "SELECT * FROM memories WHERE caller = ?1 ORDER BY id";
    let memories = query(db, sql, [caller.as_str()], rows::memory)?;
    Ok(Some(CallerExport {
        profile,
        states,
        memories,
        learned: calls_of(db, caller)?.marks,
    }))
}

fn import(db: &Connection, export: &CallerExport) -> Result<()> {
    let caller = &export.profile.phone_number;
    save_profile(db, &export.profile)?;
    for (agent, state) in &export.states {
        save_state(db, caller, agent, state)?;
    }
    let sql = "SELECT conversation_id, ordinal FROM memories WHERE caller = ?1";
    let there: FxHashSet<(String, u32)> = query(db, sql, [caller.as_str()], |row| {
        Ok((row.get("conversation_id")?, row.get("ordinal")?))
    })?
    .into_iter()
    .collect();
    for memory in &export.memories {
        if !there.contains(&(memory.conversation_id.to_string(), memory.ordinal)) {
            save_memory(db, caller, memory)?;
        }
    }
    for mark in &export.learned {
        db.prepare_cached(
            "INSERT INTO learned_calls (conversation_id, caller, agent, learned_at)
             VALUES (?1, ?2, '', unixepoch('subsec'))
             ON CONFLICT (conversation_id) DO UPDATE SET caller = excluded.caller",
        )?
        .execute([marked(mark), caller.as_str().to_owned()])?;
    }
    Ok(())
}

fn store_greeting(db: &Connection, new: &NewGreeting) -> Result<Option<Greeted>> {
    if is_erased(db, &new.conversation_id)? {
        return Ok(None);
    }
    let profile = profile_of(db, &new.caller)?;
    let state = state_of(db, &new.caller, &new.agent)?;
    let (Some(profile), Some(state)) = (profile, state) else {
        return Ok(None);
    };
    let greeted = Greeted::by(profile, state, new);
    if greeted.named {
        save_profile(db, &greeted.profile)?;
    }
    if greeted.stored {
        save_state(db, &new.caller, &new.agent, &greeted.state)?;
    }
    Ok(Some(greeted))
}

fn save_profile(db: &Connection, profile: &UniversalProfile) -> Result<()> {
    let source = profile.name_source.as_ref();
    db.prepare_cached(
        "INSERT INTO callers (caller, name, first_seen, total_interactions, name_evidence,
             name_conversation, name_at)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)
         ON CONFLICT (caller) DO UPDATE SET
             -- A name is replaced, never removed.
             name = coalesce(excluded.name, name),
             name_evidence = excluded.name_evidence,
             name_conversation = excluded.name_conversation,
             name_at = excluded.name_at,
             first_seen = excluded.first_seen,
             total_interactions = excluded.total_interactions",
    )?
    .execute(params![
        profile.phone_number.as_str(),
        profile.name.as_ref().map(CallerName::as_str),
        millis(profile.first_seen),
        i64::try_from(profile.total_interactions).unwrap_or(i64::MAX),
        source.map(|source| source.evidence.as_str()),
        source.and_then(|source| source.conversation_id.as_ref().map(ConversationId::as_str)),
        source.map(|source| millis(source.at)),
    ])?;
    Ok(())
}

fn save_state(
    db: &Connection,
    caller: &CallerId,
    agent: &AgentId,
    state: &ConversationState,
) -> Result<()> {
    db.prepare_cached(
        "INSERT OR REPLACE INTO conversation_states
            (caller, agent, conversation_count, last_call_date, next_greeting, key_topics, sentiment,
             conversation_summary, greeted_started_at, greeted_arrival, language)
         VALUES (:caller, :agent, :count, :last_call, :greeting, :topics, :sentiment, :summary,
             :greeted_started_at, :greeted_arrival, :language)",
    )?
    .execute(named_params! {
        ":caller": caller.as_str(),
        ":agent": agent.as_str(),
        ":count": i64::try_from(state.conversation_count).unwrap_or(i64::MAX),
        ":last_call": millis(state.last_call_date),
        ":greeting": state.next_greeting,
        ":topics": serde_json::Value::from(state.key_topics.clone()).to_string(),
        ":sentiment": state.sentiment.map(crate::domain::greeting::Sentiment::as_str),
        ":summary": state.conversation_summary,
        ":greeted_started_at": state.greeted_from.map(|o| millis(o.started_at)),
        ":greeted_arrival": state.greeted_from.map(|o| o.arrival),
        ":language": state.language.as_ref().map(Language::as_str),
    })?;
    Ok(())
}

fn save_memory(db: &Connection, caller: &CallerId, memory: &Memory) -> Result<()> {
    db.prepare_cached(
        "INSERT INTO memories
            (caller, agent, conversation_id, ordinal, sector, content, said_before, said_after, salience, said_at, kind,
             language)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12)",
    )?
    .execute(params![
        caller.as_str(),
        memory.agent.as_ref().map(AgentId::as_str),
        memory.conversation_id.as_str(),
        memory.ordinal,
        memory.sector.as_str(),
        memory.content,
        memory.before,
        memory.after,
        memory.salience,
        millis(memory.timestamp),
        memory.kind.as_str(),
        memory.language.as_ref().map(Language::as_str),
    ])?;
    Ok(())
}
