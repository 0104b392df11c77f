//! The session router: one session per active caller, never two.
//!
//! Callers are spread over shards by a hash. A shard has a table of sessions,
//! which the handle reads directly: a ring for an active caller touches no
//! mailbox, and one for another caller waits for one read of the store. What
//! changes a caller goes through the shard's actor, which supervises the
//! actors of its sessions.

mod shard;

use std::hash::BuildHasher;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use jiff::Timestamp;
use rustc_hash::{FxBuildHasher, FxHashSet};
use tokio::sync::oneshot;

use super::directory::Directory;
use super::session::{Change, Dependencies, Published, SessionTable};
use super::single_flight::SingleFlight;
use super::slot::Slot;
use crate::domain::caller_id::CallerId;
use crate::domain::ids::AgentId;
use crate::domain::learning::Learning;
use crate::domain::memory::MemoryVector;
use crate::domain::name::CallerName;
use crate::domain::profile::UniversalProfile;
use crate::domain::search::{Hit, Query};
use crate::domain::standing::Standing;
use crate::domain::tiers::{Greeted, Learned, NewGreeting};
use crate::store::{Claim, Erasure, StoreError};

pub use super::session::SessionError;
pub(super) use shard::{Message, RouterActor, Setup};

/// Shards: enough that no mailbox of a shard is ever long.
const SHARDS: usize = 16;
/// Most agents known to search: bounds what a stranger with the key can fill.
const MAX_SEARCHING_AGENTS: usize = 10_000;

/// How many sessions there may be, and for how long.
#[derive(Debug, Clone, Copy)]
pub struct SessionOptions {
    /// `MAX_SESSIONS`
    pub most: usize,
    /// After this long without a call a session is passivated.
    pub idle: Duration,
}

/// The handle of all sessions. Cheap to clone.
#[derive(Clone)]
pub struct Sessions {
    shards: Arc<[Shard]>,
    searching: Arc<SearchingAgents>,
    index_loads: Arc<SingleFlight<CallerId, Result<(), StoreError>>>,
    dependencies: Arc<Dependencies>,
    idle: Duration,
    /// Other instances change what is stored.
    is_shared: bool,
}

/// Agents that have searched since the start: their callers' memories are
/// loaded when the phone rings. Those of others are never needed.
#[derive(Default)]
struct SearchingAgents(RwLock<FxHashSet<AgentId>>);

impl SearchingAgents {
    fn contains(&self, agent: &AgentId) -> bool {
        let agents = self.0.read().unwrap_or_else(PoisonError::into_inner);
        agents.contains(agent)
    }

    fn insert(&self, agent: &AgentId) {
        if !self.contains(agent) {
            let mut agents = self.0.write().unwrap_or_else(PoisonError::into_inner);
            if agents.len() < MAX_SEARCHING_AGENTS {
                agents.insert(agent.clone());
            }
        }
    }
}

struct Shard {
    slot: Slot<Message>,
    table: Arc<SessionTable>,
}

impl Sessions {
    pub(super) fn new(dependencies: Arc<Dependencies>, options: SessionOptions) -> Self {
        let most = options.most.div_ceil(SHARDS);
        let shard = || Shard {
            slot: Slot::default(),
            table: Arc::new(SessionTable::new(
                Arc::clone(&dependencies),
                most,
                options.idle,
            )),
        };
        Self {
            shards: std::iter::repeat_with(shard).take(SHARDS).collect(),
            searching: Arc::default(),
            index_loads: Arc::default(),
            idle: options.idle,
            is_shared: dependencies.store.is_shared(),
            dependencies,
        }
    }

    fn shard(&self, caller: &CallerId) -> &Shard {
        let hash = FxBuildHasher.hash_one(caller);
        // The low bits choose the bucket inside the table; take high ones here.
        &self.shards[(hash >> 48) as usize % SHARDS]
    }

    /// What is known of a caller who rings: at once if the caller is active,
    /// else from the store; always from the store if other instances change it.
    /// If `agent` is one that searches, the memories
    /// are loaded in the background, for the searches that the call will bring.
    ///
    /// # Errors
    /// If the store fails; the wait is for the caller of this to limit.
    pub async fn open(
        &self,
        caller: &CallerId,
        agent: Option<&AgentId>,
    ) -> Result<Arc<Published>, StoreError> {
        let table = &self.shard(caller).table;
        let published = if self.is_shared {
            let published = table.open_fresh(caller).await?;
            published.index().expect(published.view().memories);
            published
        } else {
            table.open(caller).await?
        };
        if !published.index().is_loaded()
            && agent.is_some_and(|agent| self.searching.contains(agent))
        {
            let (sessions, caller) = (self.clone(), caller.clone());
            let published = Arc::clone(&published);
            tokio::spawn(async move {
                // Without it, the first search loads them.
                let _ = sessions.load_index(&caller, &published).await;
            });
        }
        Ok(published)
    }

    /// How a caller is to be treated, and what is known of whoever it is; `None`
    /// if nothing is kept. Both are as the store has them now, whichever
    /// instance changed them.
    ///
    /// # Errors
    /// If the store fails; the wait is for the caller of this to limit.
    pub async fn meet(
        &self,
        directory: &Directory,
        caller: &CallerId,
        agent: &AgentId,
    ) -> Result<(Standing, Option<Arc<Published>>), StoreError> {
        loop {
            let standing = directory.standing(caller);
            let person = standing.person().map(|(person, _)| person);
            let published = match person {
                Some(person) => Some(self.open(person, Some(agent)).await?),
                // Asked all the same, for the decisions.
                None if self.is_shared => Some(self.open(caller, None).await?),
                None => None,
            };
            let decisions = published.as_ref().map_or(0, |p| p.decisions());
            if directory.is_outdated(decisions) {
                directory.refresh().await?;
                continue;
            }
            let known = published.filter(|_| person.is_some());
            return Ok((standing, known));
        }
    }

    /// The memories of a caller whom we have [met](Self::meet) that `agent` may
    /// know and that match `query`, best first.
    ///
    /// # Errors
    /// If the store fails; the wait is for the caller of this to limit.
    pub async fn search(
        &self,
        caller: &CallerId,
        published: &Arc<Published>,
        agent: &AgentId,
        query: &str,
    ) -> Result<Vec<Hit>, StoreError> {
        self.searching.insert(agent);
        let vector = async {
            let vectors = self.dependencies.vectors.as_ref()?;
            if !published.index().may_have_vectors() {
                return None;
            }
            vectors.of_question(query).await
        };
        let (loaded, vector) = tokio::join!(self.load_index(caller, published), vector);
        loaded?;
        let (index, query, agent) = (
            Arc::clone(published.index()),
            query.to_owned(),
            agent.clone(),
        );
        let search = move || {
            index.search(&Query {
                text: &query,
                agent: &agent,
                now: Timestamp::now(),
                vector: vector.as_ref(),
            })
        };
        // Evicted just now, there is no time to load it again.
        match self.dependencies.compute.run(search).await {
            Ok(Some(found)) => Ok(found),
            Ok(None) => Err(StoreError::Unavailable("the memories did not fit".into())),
            Err(error) => Err(StoreError::Unavailable(error.to_string())),
        }
    }

    /// What some of a caller's memories mean is known now.
    pub(super) async fn attach(&self, caller: &CallerId, vectors: Vec<MemoryVector>) {
        let Some(published) = self.shard(caller).table.get(caller) else {
            return;
        };
        let index = Arc::clone(published.index());
        let attached = move || index.attach(vectors);
        // A panic leaves out nothing that searches cannot do without.
        let _ = self.dependencies.compute.run(attached).await;
    }

    /// Memories were removed from the store: whoever searches loads them anew.
    pub(super) fn forget_indexes(&self) {
        self.dependencies.indexes.forget_all();
    }

    /// Makes a caller's memories searchable.
    async fn load_index(
        &self,
        caller: &CallerId,
        published: &Arc<Published>,
    ) -> Result<(), StoreError> {
        if published.index().is_loaded() {
            return Ok(());
        }
        let load = || {
            let (dependencies, caller) = (Arc::clone(&self.dependencies), caller.clone());
            let published = Arc::clone(published);
            async move { dependencies.load_index(&caller, &published).await }
        };
        let loaded = self.index_loads.run(caller, load).await;
        loaded.unwrap_or_else(|_| Err(StoreError::Unavailable("a load panicked".into())))
    }

    /// Applies a call to its caller, once however often it is asked.
    pub(super) async fn learn(
        &self,
        learning: Learning,
        claim: Claim,
    ) -> Result<Learned, SessionError> {
        let (reply, learned) = oneshot::channel();
        let caller = learning.caller.clone();
        let change = Change::Learn {
            learning,
            claim,
            reply,
        };
        self.change(&caller, change);
        learned.await.unwrap_or(Err(SessionError::Failed))
    }

    /// Stores a greeting unless a newer one is stored. `None` if the caller and
    /// agent have no call.
    pub(super) async fn store_greeting(
        &self,
        greeting: NewGreeting,
        claim: Claim,
    ) -> Result<Option<Greeted>, SessionError> {
        let (reply, greeted) = oneshot::channel();
        let caller = greeting.caller.clone();
        let change = Change::StoreGreeting {
            greeting,
            claim,
            reply,
        };
        self.change(&caller, change);
        greeted.await.unwrap_or(Err(SessionError::Failed))
    }

    /// Replaces a caller's name. `None` if there is no such caller.
    ///
    /// # Errors
    /// [`SessionError`]; the wait is for the caller of this to limit.
    pub async fn rename(
        &self,
        caller: &CallerId,
        name: CallerName,
    ) -> Result<Option<UniversalProfile>, SessionError> {
        let (reply, renamed) = oneshot::channel();
        self.change(caller, Change::Rename { name, reply });
        let renamed = renamed.await.unwrap_or(Err(SessionError::Failed))?;
        Ok(renamed.map(|renamed| renamed.profile))
    }

    /// Removes everything of a caller from the stores. `None` if it is to be
    /// `resumed`, and has ended since.
    pub(super) async fn erase(
        &self,
        caller: &CallerId,
        resumed: bool,
    ) -> Result<Option<Erasure>, SessionError> {
        let (reply, erased) = oneshot::channel();
        self.change(caller, Change::Erase { resumed, reply });
        erased.await.unwrap_or(Err(SessionError::Failed))
    }

    /// Gives what is known of a number to another caller, who is `person`.
    pub(super) async fn hand_over(
        &self,
        number: &CallerId,
        person: &CallerId,
    ) -> Result<(), SessionError> {
        let (ready, is_ready) = oneshot::channel();
        let (did, done) = oneshot::channel();
        let (reply, handed_over) = oneshot::channel();
        self.change(number, Change::HandOver { ready, done, reply });
        is_ready.await.map_err(|_| SessionError::Failed)?;
        let (reply, merged) = oneshot::channel();
        let number = number.clone();
        self.change(person, Change::Merge { number, reply });
        merged.await.unwrap_or(Err(SessionError::Failed))?;
        // The number's session may have stopped waiting; it is asked again.
        let _ = did.send(());
        handed_over.await.unwrap_or(Err(SessionError::Failed))
    }

    /// Queues a change with the caller's session. Its reply comes within the
    /// session's limit for each change before it and for itself, or is dropped.
    fn change(&self, caller: &CallerId, change: Change) {
        self.shard(caller).slot.send(Message::Change {
            caller: caller.clone(),
            change: Box::new(change),
        });
    }

    /// The shards for the supervisor to start: the slot of each and its setup.
    pub(super) fn setups(&self) -> Vec<(Slot<Message>, Setup)> {
        self.shards
            .iter()
            .map(|shard| {
                let setup = Setup {
                    table: Arc::clone(&shard.table),
                    dependencies: Arc::clone(&self.dependencies),
                    idle: self.idle,
                };
                (shard.slot.clone(), setup)
            })
            .collect()
    }
}
