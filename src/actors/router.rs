//! The session router: one session per active caller, never two.
//!
//! Callers are spread over shards by a hash. Each shard supervises the
//! sessions of its callers and is the only way to them, so it can keep their
//! order while a session comes or goes: a session that is being let go keeps
//! its place, and what arrives meanwhile waits for the next one.
//!
//! What sessions publish lies in a table that the handle reads directly. A
//! ring for an active caller touches no mailbox.

mod shard;

use std::hash::BuildHasher;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use rustc_hash::{FxBuildHasher, FxHashMap, FxHashSet};
use tokio::sync::oneshot;

use super::session::{self, Published, Tools};
use super::slot::Slot;
use super::ticket::Ticket;
use crate::compute::Compute;
use crate::domain::caller_id::CallerId;
use crate::domain::ids::AgentId;
use crate::domain::memory::Memory;
use crate::domain::name::CallerName;
use crate::domain::profile::UniversalProfile;
use crate::store::StoreError;

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
    /// After this long without a call a session is let go.
    pub idle: Duration,
}

/// Why a session did not answer.
#[derive(Debug, Clone, thiserror::Error)]
pub enum SessionError {
    /// The store failed, the session crashed, or there are too many sessions.
    #[error("the caller's session is not available")]
    Unavailable,
    /// The store failed in a change.
    #[error(transparent)]
    Store(#[from] StoreError),
}

type Table = RwLock<FxHashMap<CallerId, Arc<Published>>>;

/// The handle of all sessions. Cheap to clone.
#[derive(Clone)]
pub struct Sessions {
    shards: Arc<[Shard]>,
    searching: Arc<SearchingAgents>,
    compute: Compute,
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

#[derive(Default)]
struct Shard {
    slot: Slot<Message>,
    table: Arc<Table>,
}

impl Sessions {
    pub(super) fn new(compute: Compute) -> Self {
        Self {
            searching: Arc::default(),
            compute,
            shards: std::iter::repeat_with(Shard::default)
                .take(SHARDS)
                .collect(),
        }
    }

    fn shard(&self, caller: &CallerId) -> &Shard {
        let hash = FxBuildHasher.hash_one(caller);
        // The low bits choose the bucket inside the table; take high ones here.
        &self.shards[(hash >> 48) as usize % SHARDS]
    }

    /// What the caller's session has published, if the caller is active.
    #[must_use]
    pub fn active(&self, caller: &CallerId) -> Option<Arc<Published>> {
        let table = self
            .shard(caller)
            .table
            .read()
            .unwrap_or_else(PoisonError::into_inner);
        table.get(caller).cloned()
    }

    /// What is known of a caller who rings: at once if the caller is active,
    /// else from a new session. If `agent` is one that searches, the memories
    /// are loaded in the background, for the searches that the call will bring.
    ///
    /// # Errors
    /// [`SessionError`]; the wait is for the caller of this to limit.
    pub async fn open(
        &self,
        caller: &CallerId,
        agent: Option<&AgentId>,
    ) -> Result<Arc<Published>, SessionError> {
        let load_index = agent.is_some_and(|agent| self.searching.contains(agent));
        if let Some(published) = self.active(caller) {
            published.touch();
            if load_index && !published.is_indexed() {
                self.send(caller, session::Message::LoadIndex { reply: None });
            }
            return Ok(published);
        }
        let (reply, opened) = oneshot::channel();
        self.send(caller, session::Message::Open { load_index, reply });
        opened.await.map_err(|_| SessionError::Unavailable)
    }

    /// The caller's profile and the memories that `agent` may know and that
    /// match `query`, best first.
    ///
    /// # Errors
    /// [`SessionError`]; the wait is for the caller of this to limit.
    pub async fn search(
        &self,
        caller: &CallerId,
        agent: &AgentId,
        query: &str,
    ) -> Result<(Arc<Published>, Vec<Memory>), SessionError> {
        self.searching.insert(agent);
        let published = self.open(caller, None).await?;
        if let Some(found) = self.look_up(&published, query, agent).await? {
            return Ok((published, found));
        }
        let (reply, loaded) = oneshot::channel();
        self.send(caller, session::Message::LoadIndex { reply: Some(reply) });
        loaded.await.map_err(|_| SessionError::Unavailable)?;
        // A session that was restarted meanwhile publishes anew.
        let published = self.active(caller).unwrap_or(published);
        let found = self
            .look_up(&published, query, agent)
            .await?
            .ok_or(SessionError::Unavailable)?;
        Ok((published, found))
    }

    /// `None` if the memories are not loaded.
    async fn look_up(
        &self,
        published: &Published,
        query: &str,
        agent: &AgentId,
    ) -> Result<Option<Vec<Memory>>, SessionError> {
        if !published.is_indexed() {
            return Ok(None);
        }
        let (index, query, agent) = (published.index(), query.to_owned(), agent.clone());
        let search = move || index.search(&query, &agent);
        let found = self.compute.run(search).await;
        found.map_err(|_| SessionError::Unavailable)
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
        self.send(caller, session::Message::Rename { name, reply });
        let renamed = renamed.await.map_err(|_| SessionError::Unavailable)??;
        Ok(renamed.map(|r| r.profile))
    }

    /// Hands an event to its caller's session.
    pub(super) fn process(&self, caller: &CallerId, ticket: Ticket) {
        self.send(caller, session::Message::Process(ticket));
    }

    fn send(&self, caller: &CallerId, message: session::Message) {
        self.shard(caller).slot.send(Message::Deliver {
            caller: caller.clone(),
            message,
        });
    }

    /// The shards for the supervisor to start: the slot of each and its setup.
    pub(super) fn setups(
        &self,
        tools: &Arc<Tools>,
        options: SessionOptions,
    ) -> Vec<(Slot<Message>, Setup)> {
        let most = options.most.div_ceil(SHARDS);
        let options = SessionOptions { most, ..options };
        self.shards
            .iter()
            .map(|shard| {
                let setup = Setup {
                    table: Arc::clone(&shard.table),
                    tools: Arc::clone(tools),
                    options,
                };
                (shard.slot.clone(), setup)
            })
            .collect()
    }
}
