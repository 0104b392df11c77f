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
//!   which can be rebuilt from the server. What a record says is always read
//!   from the server: what was deleted there is nowhere else.

mod change;
mod erase;
mod field;
mod find;
mod keys;
mod legacy;
mod probe;
mod record_index;
mod records;
mod tier_records;
mod transfer;

pub use legacy::Adopted;
pub use record_index::{IndexedRecord, RecordIndex};

use std::hash::BuildHasher;
use std::sync::Arc;

use async_trait::async_trait;
use futures_util::{StreamExt, TryStreamExt, stream};
use jiff::Timestamp;
use rustc_hash::{FxBuildHasher, FxHashSet};
use tokio::sync::{Mutex, MutexGuard, RwLock, Semaphore};

use super::{
    CallerExport, Claim, ErasedMemory, KnownCalls, MemoryStore, Result, StoreError, call_mark,
};
use crate::clients::{Added, Generation, OpenMemory, OpenMemoryError, Record};
use crate::domain::caller_id::CallerId;
use crate::domain::ids::AgentId;
use crate::domain::learning::Learning;
use crate::domain::memory::Memory;
use crate::domain::name::CallerName;
use crate::domain::profile::{ConversationState, UniversalProfile};
use crate::domain::tiers::{Greeted, Learned, NewGreeting, Renamed, Tiers};
use keys::{legacy_key, memories_key, profile_key, state_key};
use probe::Probe;
use records::{MemoryRecord, Metadata, TAG, content, is_legacy, legacy_caller, legacy_memory};
use tier_records::{ProfileRecord, StateRecord};

/// Changes of one caller exclude each other; callers share so many locks.
const LOCKS: usize = 256;
/// Reads under way at a time: the server is often a small one.
const CONCURRENT_REQUESTS: usize = 16;
/// Reads of memories under way at a time, beside the others: however many
/// memories one caller has, no ring waits behind them.
const CONCURRENT_MEMORY_REQUESTS: usize = 8;
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
    probe: Probe,
    /// Callers whose legacy memories are not migrated are known from them.
    legacy_profiles: bool,
    locks: Box<[Mutex<()>]>,
    requests: Semaphore,
    memory_requests: Semaphore,
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
            probe: Probe::default(),
            legacy_profiles: false,
            locks: std::iter::repeat_with(Mutex::default).take(LOCKS).collect(),
            requests: Semaphore::new(CONCURRENT_REQUESTS),
            memory_requests: Semaphore::new(CONCURRENT_MEMORY_REQUESTS),
            writes: Semaphore::new(CONCURRENT_WRITES),
        }
    }

    /// The store of a single tier (guide, Phase 1 and "Rollback Plan"): until
    /// they are migrated, callers are known from their legacy memories, which
    /// are read and left alone.
    #[must_use]
    pub fn with_legacy_profiles(self) -> Self {
        Self {
            legacy_profiles: true,
            ..self
        }
    }

    async fn lock(&self, caller: &CallerId) -> MutexGuard<'_, ()> {
        let hash = FxBuildHasher.hash_one(caller);
        self.locks[(hash >> 48) as usize % LOCKS].lock().await
    }

    /// Adds a record under a key, however often its content is refused.
    async fn add(&self, metadata: &Metadata, text: &str, unique: &str) -> Result<()> {
        let generation = self.generation().await?;
        let user = (generation == Generation::First).then(|| metadata.key());
        let value = to_json(metadata)?;
        for attempt in 0..ATTEMPTS {
            let content = content(text, unique, attempt);
            let added = {
                let _permit = permit(&self.writes).await?;
                self.client
                    .add(user.as_deref(), &content, &[TAG], &value)
                    .await
            };
            match self.noticed(added).await? {
                Added::Stored { id, sector } => {
                    if generation == Generation::Second {
                        let created_at = Timestamp::now().as_millisecond();
                        let record = IndexedRecord::of(metadata, id, sector, created_at);
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

    async fn profile_record(&self, caller: &CallerId) -> Result<Option<Found<ProfileRecord>>> {
        let records = self.find_tier(&profile_key(caller)).await?;
        let found = records
            .into_iter()
            .filter_map(|record| match Metadata::of(&record) {
                Some(Metadata::Profile(value)) if value.is_of(caller) => Some(Found {
                    id: record.id,
                    value,
                }),
                _ => None,
            });
        Ok(present_of(found, ProfileRecord::rank))
    }

    async fn state_record(
        &self,
        caller: &CallerId,
        agent: &AgentId,
    ) -> Result<Option<Found<StateRecord>>> {
        let records = self.find_tier(&state_key(caller, agent)).await?;
        let found = records
            .into_iter()
            .filter_map(|record| match Metadata::of(&record) {
                Some(Metadata::State(value)) if value.is_of(caller, agent) => Some(Found {
                    id: record.id,
                    value,
                }),
                _ => None,
            });
        Ok(present_of(found, StateRecord::rank))
    }

    async fn states_of(
        &self,
        caller: &CallerId,
        profile: &ProfileRecord,
    ) -> Result<Vec<(AgentId, ConversationState)>> {
        let states: Vec<Option<(AgentId, ConversationState)>> = stream::iter(profile.agents())
            .map(async |agent| {
                let found = self.state_record(caller, &agent).await?;
                Ok::<_, StoreError>(found.map(|f| (agent, f.value.state())))
            })
            .buffered(CONCURRENT_REQUESTS)
            .try_collect()
            .await?;
        Ok(states.into_iter().flatten().collect())
    }

    /// A caller's memories in order, each once; this caller's alone.
    async fn memories_of(&self, caller: &CallerId, limit: usize) -> Result<Vec<Memory>> {
        let records = self.find_memories(caller, limit).await?;
        let mut memories: Vec<(i64, Memory)> = records
            .iter()
            .filter_map(|record| {
                let memory = match Metadata::of(record) {
                    Some(Metadata::Memory(value)) if value.is_of(caller) => {
                        value.memory(&record.primary_sector)
                    }
                    None if is_legacy(record) => legacy_memory(record),
                    _ => None,
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
    async fn tiers(&self, caller: &CallerId) -> Result<Tiers> {
        let record = self.profile_record(caller).await?.map(|f| f.value);
        let states = match &record {
            Some(record) => self.states_of(caller, record).await?,
            None => Vec::new(),
        };
        let profile = self.shown(caller, record.as_ref()).await?;
        Ok(Tiers {
            profile,
            states,
            ..Tiers::default()
        })
    }

    async fn learn(&self, learning: &Learning, _: Option<Claim>) -> Result<Learned> {
        change::learn(self, learning).await
    }

    async fn store_greeting(
        &self,
        greeting: &NewGreeting,
        _: Option<Claim>,
    ) -> Result<Option<Greeted>> {
        change::store_greeting(self, greeting).await
    }

    async fn rename(
        &self,
        caller: &CallerId,
        name: &CallerName,
        now: Timestamp,
    ) -> Result<Option<Renamed>> {
        change::rename(self, caller, name, now).await
    }

    async fn memories(&self, caller: &CallerId, limit: usize) -> Result<Vec<Memory>> {
        self.memories_of(caller, limit).await
    }

    async fn calls(&self, caller: &CallerId) -> Result<KnownCalls> {
        erase::calls(self, caller).await
    }

    async fn erase(&self, caller: &CallerId) -> Result<ErasedMemory> {
        erase::erase(self, caller).await
    }

    async fn expire_memories(&self, before: Timestamp) -> Result<u64> {
        erase::expire(self, before).await
    }

    async fn callers(&self) -> Result<Vec<CallerId>> {
        transfer::callers(self).await
    }

    async fn export(&self, caller: &CallerId) -> Result<Option<CallerExport>> {
        transfer::export(self, caller).await
    }

    async fn import(&self, export: &CallerExport) -> Result<()> {
        transfer::import(self, export).await
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

/// Of records with one key, the one to go on with. An addition whose answer was
/// lost may have been repeated: the one that was counted in since is the one to go on with.
fn present_of<T>(
    found: impl Iterator<Item = Found<T>>,
    rank: impl Fn(&T) -> (u64, usize),
) -> Option<Found<T>> {
    found.max_by(|a, b| {
        rank(&a.value)
            .cmp(&rank(&b.value))
            .then_with(|| b.id.cmp(&a.id))
    })
}

async fn permit(semaphore: &Semaphore) -> Result<tokio::sync::SemaphorePermit<'_>> {
    semaphore
        .acquire()
        .await
        .map_err(|_| StoreError::Unavailable("the store is closed".into()))
}

fn to_json(metadata: &Metadata) -> Result<serde_json::Value> {
    serde_json::to_value(metadata).map_err(|e| StoreError::Corrupt(e.to_string()))
}
