//! OpenMemory as the memory store, in both generations of its API.
//!
//! - Tier 1 and each Tier 2 are one record, read exactly and updated in place;
//!   each memory is a record of its own. What we need rides in the metadata.
//! - There are no transactions. Learning marks its beginning in the caller's
//!   profile, adds what is missing, counts in Tier 2, and last in Tier 1, each
//!   with the marks of the calls it holds. So it can be repeated from any
//!   point and counts once.
//! - A `deduplicated` answer means that nothing was stored; the record is
//!   offered again with another content.
//! - The first generation is asked by user id. In the second all records have
//!   one tenant: they are found by the ids that the [`RecordIndex`] keeps,
//!   which can be rebuilt from the server.

mod find;
mod legacy;
mod records;

pub use legacy::Adopted;

use std::hash::BuildHasher;
use std::sync::Arc;

use async_trait::async_trait;
use futures_util::{StreamExt, TryStreamExt, stream};
use jiff::Timestamp;
use rustc_hash::{FxBuildHasher, FxHashSet};
use tokio::sync::{Mutex, MutexGuard, RwLock, Semaphore};

use super::{
    CallerExport, Greeted, IndexedRecord, Learned, MemoryStore, NewGreeting, RecordIndex, Renamed,
    Result, StoreError, call_mark,
};
use crate::clients::{Added, Generation, OpenMemory, OpenMemoryError, Record};
use crate::domain::caller_id::CallerId;
use crate::domain::ids::AgentId;
use crate::domain::learning::Learning;
use crate::domain::memory::Memory;
use crate::domain::name::CallerName;
use crate::domain::profile::{ConversationState, UniversalProfile};
use records::{
    MemoryRecord, Metadata, ProfileRecord, StateRecord, content, legacy_memory, memories_key, note,
    profile_key, state_key,
};

/// Changes of one caller exclude each other; callers share so many locks.
const LOCKS: usize = 256;
/// Reads under way at a time: the server is often a small one.
const CONCURRENT_REQUESTS: usize = 16;
/// Changes under way at a time. The server makes them one after the other in
/// any case; waiting here does not count against their time-out.
const CONCURRENT_WRITES: usize = 1;
/// Contents tried before a record counts as refused.
const ATTEMPTS: u32 = 8;

impl From<OpenMemoryError> for StoreError {
    fn from(error: OpenMemoryError) -> Self {
        Self::Unavailable(error.to_string())
    }
}

/// [`MemoryStore`] on an OpenMemory server.
pub struct OpenMemoryStore {
    client: OpenMemory,
    index: Arc<dyn RecordIndex>,
    /// `None` until the server has told.
    generation: RwLock<Option<Generation>>,
    locks: Box<[Mutex<()>]>,
    requests: Semaphore,
    writes: Semaphore,
}

/// A record of ours with its metadata read.
struct Found<T> {
    id: String,
    value: T,
}

impl OpenMemoryStore {
    /// The store on this server. It is asked for its generation when it is
    /// first needed; it may be down now.
    #[must_use]
    pub fn new(client: OpenMemory, index: Arc<dyn RecordIndex>) -> Self {
        Self {
            client,
            index,
            generation: RwLock::new(None),
            locks: std::iter::repeat_with(Mutex::default).take(LOCKS).collect(),
            requests: Semaphore::new(CONCURRENT_REQUESTS),
            writes: Semaphore::new(CONCURRENT_WRITES),
        }
    }

    /// Which generation the server is of.
    ///
    /// # Errors
    /// If it cannot be asked.
    pub async fn generation(&self) -> Result<Generation> {
        if let Some(known) = *self.generation.read().await {
            return Ok(known);
        }
        let mut generation = self.generation.write().await;
        if let Some(known) = *generation {
            return Ok(known);
        }
        let found = self.client.generation().await?;
        tracing::info!("OpenMemory is connected ({found})");
        if found == Generation::Second {
            self.catch_up().await?;
        }
        *generation = Some(found);
        Ok(found)
    }

    async fn lock(&self, caller: &CallerId) -> MutexGuard<'_, ()> {
        let hash = FxBuildHasher.hash_one(caller);
        self.locks[(hash >> 48) as usize % LOCKS].lock().await
    }

    /// Adds a record under a key, however often its content is refused.
    async fn add(&self, metadata: &Metadata, text: &str, unique: &str) -> Result<()> {
        let generation = self.generation().await?;
        let user = (generation == Generation::First).then(|| metadata.key().to_owned());
        let value = to_json(metadata)?;
        for attempt in 0..ATTEMPTS {
            let content = content(text, unique, attempt);
            let added = {
                let _permit = permit(&self.writes).await?;
                self.client
                    .add(user.as_deref(), &content, &["elaoms"], &value)
                    .await
            };
            match self.noticed(added).await? {
                Added::Stored { id, sector } => {
                    if generation == Generation::Second {
                        let created_at = Timestamp::now().as_millisecond();
                        let record = indexed(metadata, id, sector, created_at, &value);
                        self.index.insert(vec![record]).await?;
                    }
                    return Ok(());
                }
                Added::Refused => {
                    tracing::debug!("OpenMemory takes a record for another's; it is offered again");
                }
            }
        }
        Err(StoreError::Unavailable(
            "OpenMemory refuses a record as a duplicate again and again".into(),
        ))
    }

    async fn update(&self, id: &str, metadata: &Metadata) -> Result<()> {
        let value = to_json(metadata)?;
        let _permit = permit(&self.writes).await?;
        let updated = self.client.update(id, &value).await;
        self.noticed(updated).await
    }

    /// A server that was upgraded under us is asked for its generation anew.
    async fn noticed<T>(&self, result: std::result::Result<T, OpenMemoryError>) -> Result<T> {
        if let Err(OpenMemoryError::TenantMismatch) = &result {
            *self.generation.write().await = None;
        }
        Ok(result?)
    }

    async fn profile_record(&self, caller: &CallerId) -> Result<Option<Found<ProfileRecord>>> {
        let records = self.find(&profile_key(caller), 10).await?;
        let found = records
            .into_iter()
            .filter_map(|record| match Metadata::of(&record) {
                Some(Metadata::Profile(value)) if value.caller == caller.as_str() => Some(Found {
                    id: record.id,
                    value,
                }),
                _ => None,
            });
        // An addition whose answer was lost may have been repeated: the one
        // that was counted in since is the one that is kept up.
        Ok(found.max_by(|a, b| {
            let rank =
                |f: &Found<ProfileRecord>| (f.value.total_interactions, f.value.learned.len());
            rank(a).cmp(&rank(b)).then_with(|| b.id.cmp(&a.id))
        }))
    }

    async fn state_record(
        &self,
        caller: &CallerId,
        agent: &AgentId,
    ) -> Result<Option<Found<StateRecord>>> {
        let records = self.find(&state_key(caller, agent), 10).await?;
        let found = records
            .into_iter()
            .filter_map(|record| match Metadata::of(&record) {
                Some(Metadata::State(value))
                    if value.caller == caller.as_str() && value.agent == agent.as_str() =>
                {
                    Some(Found {
                        id: record.id,
                        value,
                    })
                }
                _ => None,
            });
        Ok(found.max_by(|a, b| {
            let rank = |f: &Found<StateRecord>| (f.value.conversation_count, f.value.learned.len());
            rank(a).cmp(&rank(b)).then_with(|| b.id.cmp(&a.id))
        }))
    }

    /// Marks the beginning of a call. True if it had been begun before, so
    /// that some of its memories may be there.
    async fn begin(
        &self,
        learning: &Learning,
        known: Option<Found<ProfileRecord>>,
        mark: &str,
    ) -> Result<bool> {
        let caller = &learning.caller;
        match known {
            Some(found) if found.value.pending.iter().any(|m| m == mark) => Ok(true),
            Some(mut found) => {
                found.value.pending.push(mark.to_owned());
                self.update(&found.id, &Metadata::Profile(found.value))
                    .await?;
                Ok(false)
            }
            None => {
                let mut provisional = ProfileRecord::new(caller, learning.started_at);
                provisional.pending.push(mark.to_owned());
                self.save_profile(None, provisional).await?;
                Ok(false)
            }
        }
    }

    async fn add_memories(
        &self,
        caller: &CallerId,
        memories: &[Memory],
        check: bool,
    ) -> Result<()> {
        let mut there: FxHashSet<(String, u32)> = FxHashSet::default();
        if check {
            for memory in self.all_memories(caller, usize::MAX).await? {
                there.insert((memory.conversation_id.to_string(), memory.ordinal));
            }
        }
        for memory in memories {
            let place = (memory.conversation_id.to_string(), memory.ordinal);
            if !there.contains(&place) {
                let unique = format!("{} {} {}", caller.as_str(), place.0, place.1);
                let record = MemoryRecord::new(caller, memory);
                self.add(&Metadata::Memory(record), &memory.content, &unique)
                    .await?;
            }
        }
        Ok(())
    }

    async fn save_profile(&self, id: Option<String>, record: ProfileRecord) -> Result<()> {
        if let Some(id) = id {
            return self.update(&id, &Metadata::Profile(record)).await;
        }
        let key = record.key.clone();
        self.add(&Metadata::Profile(record), "Universal caller profile", &key)
            .await
    }

    async fn save_state(&self, id: Option<String>, record: StateRecord) -> Result<()> {
        if let Some(id) = id {
            return self.update(&id, &Metadata::State(record)).await;
        }
        let key = record.key.clone();
        self.add(
            &Metadata::State(record),
            "Conversation state of a caller with an agent",
            &key,
        )
        .await
    }

    /// A caller's memories in order, each once; this caller's alone.
    async fn all_memories(&self, caller: &CallerId, limit: usize) -> Result<Vec<Memory>> {
        let records = self.find(&memories_key(caller), limit).await?;
        let mut memories: Vec<(i64, Memory)> = records
            .iter()
            .filter_map(|record| {
                let memory = match Metadata::of(record) {
                    Some(Metadata::Memory(value)) if value.caller == caller.as_str() => {
                        value.memory(&record.primary_sector)
                    }
                    Some(_) => None,
                    None => legacy_memory(record),
                }?;
                Some((record.created_at, memory))
            })
            .collect();
        memories.sort_by(|(a, x), (b, y)| a.cmp(b).then(x.ordinal.cmp(&y.ordinal)));
        let mut seen: FxHashSet<(String, u32)> = FxHashSet::default();
        memories.retain(|(_, m)| seen.insert((m.conversation_id.to_string(), m.ordinal)));
        let surplus = memories.len().saturating_sub(limit);
        Ok(memories
            .into_iter()
            .skip(surplus)
            .map(|(_, memory)| memory)
            .collect())
    }
}

#[async_trait]
impl MemoryStore for OpenMemoryStore {
    async fn universal_profile(&self, caller: &CallerId) -> Result<Option<UniversalProfile>> {
        let found = self
            .profile_record(caller)
            .await?
            .filter(|f| !f.value.provisional);
        Ok(found.and_then(|f| f.value.profile()))
    }

    async fn conversation_states(
        &self,
        caller: &CallerId,
    ) -> Result<Vec<(AgentId, ConversationState)>> {
        let Some(profile) = self.profile_record(caller).await? else {
            return Ok(Vec::new());
        };
        let agents: Vec<AgentId> = profile
            .value
            .agents
            .iter()
            .filter_map(|a| AgentId::parse(a).ok())
            .collect();
        let states: Vec<Option<(AgentId, ConversationState)>> = stream::iter(agents)
            .map(async |agent| {
                let found = self.state_record(caller, &agent).await?;
                Ok::<_, StoreError>(found.map(|f| (agent, f.value.state())))
            })
            .buffered(CONCURRENT_REQUESTS)
            .try_collect()
            .await?;
        Ok(states.into_iter().flatten().collect())
    }

    async fn learn(&self, learning: &Learning) -> Result<Learned> {
        let (caller, agent) = (&learning.caller, &learning.agent);
        let _lock = self.lock(caller).await;
        let mark = call_mark(&learning.conversation_id);
        self.settle_uncertain(caller).await?;
        let known = self.profile_record(caller).await?;
        if let Some(found) = &known
            && found.value.learned.contains(&mark)
        {
            let state = self
                .state_record(caller, agent)
                .await?
                .map(|f| f.value.state());
            let (Some(profile), Some(state)) = (found.value.profile(), state) else {
                return Err(StoreError::Corrupt(
                    "a learned call belongs to somebody else".into(),
                ));
            };
            return Ok(Learned {
                applied: false,
                profile,
                state,
            });
        }

        self.note_uncertain(caller).await?;
        let begun_before = self.begin(learning, known, &mark).await?;
        self.add_memories(caller, &learning.memories, begun_before)
            .await?;

        let found = self.state_record(caller, agent).await?;
        let (id, mut record) = match found {
            Some(found) => (Some(found.id), Some(found.value)),
            None => (None, None),
        };
        let counted = record.as_ref().is_some_and(|r| r.learned.contains(&mark));
        let state = if counted {
            record.as_ref().map(StateRecord::state)
        } else {
            let state =
                ConversationState::after_call(record.as_ref().map(StateRecord::state), learning);
            let mut learned = record.take().map(|r| r.learned).unwrap_or_default();
            note(&mut learned, &mark);
            let record = StateRecord {
                learned,
                ..StateRecord::new(caller, agent, &state)
            };
            self.save_state(id, record).await?;
            Some(state)
        };
        let state = state.ok_or_else(|| StoreError::Corrupt("a state vanished".into()))?;

        let Some(Found {
            id,
            value: mut record,
        }) = self.profile_record(caller).await?
        else {
            return Err(StoreError::Unavailable(
                "OpenMemory has lost a profile that it stored".into(),
            ));
        };
        let before = record.profile().filter(|_| !record.provisional);
        let profile = UniversalProfile::after_call(before, learning);
        record.set(&profile);
        note(&mut record.learned, &mark);
        record.pending.retain(|m| *m != mark);
        if !record.agents.iter().any(|a| a == agent.as_str()) {
            record.agents.push(agent.to_string());
        }
        self.update(&id, &Metadata::Profile(record)).await?;
        self.forget_uncertain(caller).await?;
        Ok(Learned {
            applied: true,
            profile,
            state,
        })
    }

    async fn store_greeting(&self, new: &NewGreeting) -> Result<Option<Greeted>> {
        let _lock = self.lock(&new.caller).await;
        let profile = self
            .profile_record(&new.caller)
            .await?
            .filter(|f| !f.value.provisional);
        let state = self.state_record(&new.caller, &new.agent).await?;
        let (Some(mut profile_record), Some(state_record)) = (profile, state) else {
            return Ok(None);
        };
        if profile_record.value.name.is_none() && new.name.is_some() {
            profile_record.value.name.clone_from(&new.name);
            self.update(
                &profile_record.id,
                &Metadata::Profile(profile_record.value.clone()),
            )
            .await?;
        }
        let profile = profile_record
            .value
            .profile()
            .ok_or_else(|| StoreError::Corrupt("a profile has no caller".into()))?;
        let state = state_record.value.state();
        let Some(greeted) = state.with_greeting(&new.greeting, new.order) else {
            return Ok(Some(Greeted {
                stored: false,
                profile,
                state,
            }));
        };
        let record = StateRecord {
            learned: state_record.value.learned,
            ..StateRecord::new(&new.caller, &new.agent, &greeted)
        };
        self.save_state(Some(state_record.id), record).await?;
        Ok(Some(Greeted {
            stored: true,
            profile,
            state: greeted,
        }))
    }

    async fn rename(&self, caller: &CallerId, name: &CallerName) -> Result<Option<Renamed>> {
        let _lock = self.lock(caller).await;
        let found = self
            .profile_record(caller)
            .await?
            .filter(|f| !f.value.provisional);
        let Some(Found {
            id,
            value: mut record,
        }) = found
        else {
            return Ok(None);
        };
        let old = record.name.replace(name.clone());
        let agents: Vec<AgentId> = record
            .agents
            .iter()
            .filter_map(|a| AgentId::parse(a).ok())
            .collect();
        let profile = record
            .profile()
            .ok_or_else(|| StoreError::Corrupt("a profile has no caller".into()))?;
        self.update(&id, &Metadata::Profile(record)).await?;
        let mut states = Vec::new();
        for agent in agents {
            let Some(found) = self.state_record(caller, &agent).await? else {
                continue;
            };
            let mut state = found.value.state();
            if old
                .as_ref()
                .is_some_and(|old| old != name && state.forget_name(old))
            {
                let learned = found.value.learned;
                let record = StateRecord {
                    learned,
                    ..StateRecord::new(caller, &agent, &state)
                };
                self.save_state(Some(found.id), record).await?;
            }
            states.push((agent, state));
        }
        Ok(Some(Renamed { profile, states }))
    }

    async fn memories(&self, caller: &CallerId, limit: usize) -> Result<Vec<Memory>> {
        self.all_memories(caller, limit).await
    }

    async fn callers(&self) -> Result<Vec<CallerId>> {
        let mut callers: Vec<CallerId> = Vec::new();
        self.each_page(|page| {
            callers.extend(
                page.iter()
                    .filter_map(|record| match Metadata::of(record)? {
                        Metadata::Profile(profile) if !profile.provisional => {
                            CallerId::parse(&profile.caller).ok()
                        }
                        _ => None,
                    }),
            );
        })
        .await?;
        callers.sort_unstable();
        callers.dedup();
        Ok(callers)
    }

    async fn export(&self, caller: &CallerId) -> Result<Option<CallerExport>> {
        let Some(found) = self
            .profile_record(caller)
            .await?
            .filter(|f| !f.value.provisional)
        else {
            return Ok(None);
        };
        let profile = found
            .value
            .profile()
            .ok_or_else(|| StoreError::Corrupt("a profile has no caller".into()))?;
        let mut states = self.conversation_states(caller).await?;
        states.sort_by(|(a, _), (b, _)| a.cmp(b));
        let memories = self.all_memories(caller, usize::MAX).await?;
        Ok(Some(CallerExport {
            profile,
            states,
            memories,
            learned: found.value.learned,
        }))
    }

    async fn import(&self, export: &CallerExport) -> Result<()> {
        let caller = &export.profile.phone_number;
        let _lock = self.lock(caller).await;
        self.settle_uncertain(caller).await?;
        self.note_uncertain(caller).await?;
        self.add_memories(caller, &export.memories, true).await?;
        for (agent, state) in &export.states {
            let found = self.state_record(caller, agent).await?;
            let (id, learned) = found.map(|f| (f.id, f.value.learned)).unzip();
            let learned = learned.unwrap_or_default();
            let record = StateRecord {
                learned,
                ..StateRecord::new(caller, agent, state)
            };
            self.save_state(id, record).await?;
        }
        let known = self.profile_record(caller).await?;
        let (id, mut record) = match known {
            Some(found) => (Some(found.id), found.value),
            None => (None, ProfileRecord::new(caller, export.profile.first_seen)),
        };
        record.set(&export.profile);
        for mark in &export.learned {
            note(&mut record.learned, mark);
        }
        for (agent, _) in &export.states {
            if !record.agents.iter().any(|a| a == agent.as_str()) {
                record.agents.push(agent.to_string());
            }
        }
        self.save_profile(id, record).await?;
        self.forget_uncertain(caller).await
    }

    /// Asks only: a record written to prove that writing works would stay.
    async fn check_writable(&self) -> Result<()> {
        self.generation().await?;
        let page = self.client.page(1, 0).await;
        self.noticed(page).await.map(drop)
    }

    async fn describe(&self) -> String {
        match self.generation().await {
            Ok(generation) => format!("OpenMemory ({generation})"),
            Err(error) => format!("OpenMemory ({error})"),
        }
    }
}

async fn permit(semaphore: &Semaphore) -> Result<tokio::sync::SemaphorePermit<'_>> {
    semaphore
        .acquire()
        .await
        .map_err(|_| StoreError::Unavailable("the store is closed".into()))
}

/// What the index keeps of a record. A memory never changes, so that it need
/// not be fetched again.
fn indexed(
    metadata: &Metadata,
    id: String,
    sector: String,
    created_at: i64,
    value: &serde_json::Value,
) -> IndexedRecord {
    IndexedRecord {
        key: metadata.key().to_owned(),
        caller: metadata.caller().to_owned(),
        id,
        created_at,
        sector,
        metadata: matches!(metadata, Metadata::Memory(_)).then(|| value.to_string()),
    }
}

fn to_json(metadata: &Metadata) -> Result<serde_json::Value> {
    serde_json::to_value(metadata).map_err(|e| StoreError::Corrupt(e.to_string()))
}
