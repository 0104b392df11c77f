//! Agent profiles, kept for 24 hours and over restarts.
//!
//! Readers look into a shared table and never wait for the actor; the actor
//! alone writes it. There is one fetch per agent at a time. A profile that is
//! too old, or was invalidated, is served while a new one is fetched, and goes
//! on being served if that fails. An agent that does not exist is remembered
//! for a few minutes; one that did is given up when it was not found several
//! times.

mod pauses;
mod table;

use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};
use std::time::{Duration, Instant};

use jiff::{SignedDuration, Timestamp};
use ractor::{ActorProcessingErr, ActorRef};
use rustc_hash::FxHashMap;
use tokio::sync::{Semaphore, oneshot};
use tokio::time::timeout;

use super::slot::Slot;
use super::worker::Worker;
use crate::backoff::Backoff;
use crate::clients::{ElevenLabs, ElevenLabsError};
use crate::domain::agent_profile::AgentProfile;
use crate::domain::ids::AgentId;
use crate::log_events;
use crate::metric_definitions::{CacheResult, Metrics};
use crate::store::{Ledger, StoredAgent};
use pauses::Pauses;
use table::{Absence, MAX_AGENTS, NOT_FOUND_TTL, STALE, Table};

/// Tries of one fetch.
const TRIES: u32 = 3;
/// Between the tries of one fetch.
const TRY_PAUSE: Backoff = Backoff {
    base: Duration::from_millis(300),
    cap: Duration::from_secs(5),
};
/// Most fetches at a time, over all agents.
const CONCURRENT_FETCHES: usize = 8;
/// Longest wait for a profile, fetch included.
const WAIT: Duration = Duration::from_secs(45);

/// The handle. Cheap to clone.
#[derive(Clone)]
pub struct AgentCache {
    slot: Slot<Message>,
    table: Arc<RwLock<Table>>,
    metrics: Arc<Metrics>,
    ttl: SignedDuration,
    /// `None` without `ELEVENLABS_API_KEY`: then nothing is ever fetched.
    client: Option<Arc<ElevenLabs>>,
}

pub(super) enum Message {
    /// Fetch a profile, and tell those who wait for it.
    Fetch {
        agent: AgentId,
        reply: Option<oneshot::Sender<()>>,
    },
    Fetched {
        agent: AgentId,
        result: Result<AgentProfile, ElevenLabsError>,
    },
    Invalidate {
        agent: AgentId,
        reply: oneshot::Sender<bool>,
    },
    /// Other instances have saved these.
    Changed(Vec<StoredAgent>),
}

impl AgentCache {
    /// A cache with the profiles that the ledger has kept.
    pub(super) async fn load(
        ledger: &dyn Ledger,
        ttl: Duration,
        client: Option<Arc<ElevenLabs>>,
        metrics: Arc<Metrics>,
    ) -> crate::store::Result<Self> {
        let mut table = Table::default();
        for StoredAgent {
            agent,
            profile,
            fetched_at,
        } in ledger.agents().await?
        {
            table.keep(&agent, Arc::new(profile), fetched_at, Instant::now());
        }
        metrics.agent_cache_entries.set(table.len() as f64);
        Ok(Self {
            slot: Slot::default(),
            table: Arc::new(RwLock::new(table)),
            metrics,
            ttl: SignedDuration::try_from(ttl).unwrap_or(SignedDuration::MAX),
            client,
        })
    }

    fn table(&self) -> RwLockReadGuard<'_, Table> {
        self.table.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn look_up(&self, agent: &AgentId) -> (CacheResult, Option<Arc<AgentProfile>>) {
        let now = (Timestamp::now(), Instant::now());
        let (result, profile) = self.table().look_up(agent, self.ttl, now);
        self.metrics.agent_cache_requests.get(result).increment(1);
        (result, profile)
    }

    /// Changes what is known. Only for the actor.
    fn change<T>(&self, change: impl FnOnce(&mut Table) -> T) -> T {
        let mut table = self.table.write().unwrap_or_else(PoisonError::into_inner);
        let changed = change(&mut table);
        self.metrics.agent_cache_entries.set(table.len() as f64);
        changed
    }

    /// The profile if it is here, however old. Never waits; what is missing or
    /// old is fetched in the background.
    #[must_use]
    pub fn peek(&self, agent: &AgentId) -> Option<Arc<AgentProfile>> {
        let (result, profile) = self.look_up(agent);
        match result {
            CacheResult::Hit | CacheResult::Negative => {}
            CacheResult::Miss | CacheResult::Stale => self.fetch(agent, None),
        }
        profile
    }

    fn fetch(&self, agent: &AgentId, reply: Option<oneshot::Sender<()>>) {
        if self.client.is_some() {
            self.slot.send(Message::Fetch {
                agent: agent.clone(),
                reply,
            });
        }
    }

    /// The profile, fetched if it is missing. `None` if there is none to be had.
    pub async fn profile(&self, agent: &AgentId) -> Option<Arc<AgentProfile>> {
        let (result, profile) = self.look_up(agent);
        match result {
            CacheResult::Hit => {
                log_events::agent_cache_hit(agent);
                return profile;
            }
            CacheResult::Negative => return None,
            CacheResult::Stale => {
                self.fetch(agent, None);
                return profile;
            }
            CacheResult::Miss => {}
        }
        let (reply, fetched) = oneshot::channel();
        self.fetch(agent, Some(reply));
        // Whatever came of it is in the table.
        let _ = timeout(WAIT, fetched).await;
        self.table().profile(agent)
    }

    /// Has what is known of an agent fetched anew (guide, "Cache Not
    /// Updating"); a profile stands until the new one is there. False if
    /// nothing was known, or nobody answered.
    pub async fn invalidate(&self, agent: &AgentId) -> bool {
        let (reply, done) = oneshot::channel();
        self.slot.send(Message::Invalidate {
            agent: agent.clone(),
            reply,
        });
        matches!(timeout(WAIT, done).await, Ok(Ok(true)))
    }

    /// Takes the profiles that other instances have saved.
    pub(super) fn catch_up(&self, changed: Vec<StoredAgent>) {
        if !changed.is_empty() {
            self.slot.send(Message::Changed(changed));
        }
    }

    pub(super) fn slot(&self) -> &Slot<Message> {
        &self.slot
    }
}

/// What the actor needs to (re)start.
#[derive(Clone)]
pub(super) struct Setup {
    pub cache: AgentCache,
    pub ledger: Arc<dyn Ledger>,
}

pub(super) struct AgentCacheActor {
    setup: Setup,
    permits: Arc<Semaphore>,
    fetches: FxHashMap<AgentId, Fetch>,
    pauses: Pauses,
}

/// A fetch that is under way.
#[derive(Default)]
struct Fetch {
    waiting: Vec<oneshot::Sender<()>>,
    /// What it brings was asked for before an invalidation.
    outdated: bool,
}

impl Worker for AgentCacheActor {
    type Message = Message;
    type Setup = Setup;

    fn start(setup: Setup, _: &ActorRef<Message>) -> Self {
        Self {
            setup,
            permits: Arc::new(Semaphore::new(CONCURRENT_FETCHES)),
            fetches: FxHashMap::default(),
            pauses: Pauses::default(),
        }
    }

    async fn handle(
        &mut self,
        myself: &ActorRef<Message>,
        message: Message,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            Message::Fetch { agent, reply } => self.fetch(myself, agent, reply),
            Message::Fetched { agent, result } => self.fetched(myself, agent, result),
            Message::Invalidate { agent, reply } => self.invalidate(myself, agent, reply),
            Message::Changed(agents) => self.changed(agents),
        }
        Ok(())
    }
}

impl AgentCacheActor {
    fn fetch(
        &mut self,
        myself: &ActorRef<Message>,
        agent: AgentId,
        reply: Option<oneshot::Sender<()>>,
    ) {
        let Some(client) = &self.setup.cache.client else {
            return;
        };
        if let Some(fetch) = self.fetches.get_mut(&agent) {
            fetch.waiting.extend(reply);
            return;
        }
        if self.pauses.contains(&agent, Instant::now()) || self.fetches.len() >= MAX_AGENTS {
            return;
        }
        log_events::fetching_agent(&agent);
        let fetch = Fetch {
            waiting: reply.into_iter().collect(),
            outdated: false,
        };
        self.fetches.insert(agent.clone(), fetch);
        let (client, permits, myself) = (
            Arc::clone(client),
            Arc::clone(&self.permits),
            myself.clone(),
        );
        tokio::spawn(async move {
            let _permit = permits.acquire_owned().await;
            let result = fetch_with_retries(&client, &agent).await;
            // Nobody listens after the actor has stopped.
            let _ = myself.send_message(Message::Fetched { agent, result });
        });
    }

    fn fetched(
        &mut self,
        myself: &ActorRef<Message>,
        agent: AgentId,
        result: Result<AgentProfile, ElevenLabsError>,
    ) {
        let Fetch { waiting, outdated } = self.fetches.remove(&agent).unwrap_or_default();
        let now = Instant::now();
        match result {
            Ok(profile) => {
                self.pauses.end(&agent);
                let fetched_at = if outdated { STALE } else { Timestamp::now() };
                let profile = Arc::new(profile);
                tokio::spawn(self.save(&agent, &profile, fetched_at));
                let cache = &self.setup.cache;
                cache.change(|table| table.keep(&agent, profile, fetched_at, now));
            }
            Err(ElevenLabsError::NotFound) => {
                log_events::agent_not_found(&agent);
                self.not_found(&agent, now);
            }
            Err(error) => {
                tracing::warn!(%error, "Agent profile {agent} could not be fetched");
                self.pauses.failed(&agent, now, rand::random());
            }
        }
        for reply in waiting {
            let _ = reply.send(());
        }
        if outdated {
            self.pauses.end(&agent);
            self.fetch(myself, agent, None);
        }
    }

    /// What is saved stands, whoever has saved it: a profile that is stale there is
    /// fetched by whoever needs it first.
    fn changed(&mut self, agents: Vec<StoredAgent>) {
        let now = Instant::now();
        for stored in agents {
            let StoredAgent {
                agent,
                profile,
                fetched_at,
            } = stored;
            let (profile, cache) = (Arc::new(profile), &self.setup.cache);
            cache.change(|table| table.keep(&agent, profile, fetched_at, now));
        }
    }

    fn not_found(&mut self, agent: &AgentId, now: Instant) {
        self.pauses.end(agent);
        let cache = &self.setup.cache;
        match cache.change(|table| table.not_found(agent, now)) {
            Absence::Doubted => {
                tracing::warn!("The profile known of agent {agent} is used until that repeats");
                self.pauses.rest(agent, now, NOT_FOUND_TTL);
            }
            Absence::Gone => self.forget(agent),
            Absence::Unknown => {}
        }
    }

    fn save(
        &self,
        agent: &AgentId,
        profile: &AgentProfile,
        fetched_at: Timestamp,
    ) -> impl Future<Output = ()> + use<> {
        let stored = StoredAgent {
            agent: agent.clone(),
            profile: profile.clone(),
            fetched_at,
        };
        let ledger = Arc::clone(&self.setup.ledger);
        async move {
            if let Err(error) = ledger.save_agent(stored).await {
                // It is fetched again after the next start.
                tracing::warn!(%error, "An agent profile could not be kept");
            }
        }
    }

    fn forget(&self, agent: &AgentId) {
        let (ledger, agent) = (Arc::clone(&self.setup.ledger), agent.clone());
        tokio::spawn(async move {
            if let Err(error) = ledger.forget_agent(&agent).await {
                tracing::warn!(%error, "Agent profile {agent} could not be forgotten");
            }
        });
    }

    fn invalidate(
        &mut self,
        myself: &ActorRef<Message>,
        agent: AgentId,
        reply: oneshot::Sender<bool>,
    ) {
        self.pauses.end(&agent);
        let cache = &self.setup.cache;
        let known = cache.change(|table| table.invalidate(&agent));
        let profile = cache.table().profile(&agent);
        // So that it is stale after a crash as well.
        let saved = profile.map(|profile| self.save(&agent, &profile, STALE));
        tokio::spawn(async move {
            if let Some(saved) = saved {
                saved.await;
            }
            let _ = reply.send(known);
        });
        match self.fetches.get_mut(&agent) {
            Some(fetch) => fetch.outdated = true,
            None if known => self.fetch(myself, agent, None),
            None => {}
        }
    }
}

async fn fetch_with_retries(
    client: &ElevenLabs,
    agent: &AgentId,
) -> Result<AgentProfile, ElevenLabsError> {
    let mut tried = 0;
    loop {
        tried += 1;
        let error = match client.agent(agent).await {
            Err(error) if tried < TRIES => error,
            result => return result,
        };
        let pause = match error {
            ElevenLabsError::NotFound
            | ElevenLabsError::InvalidKey(_)
            | ElevenLabsError::Forbidden { .. } => return Err(error),
            ElevenLabsError::Status {
                retry_after: Some(wait),
                ..
            } if wait > TRY_PAUSE.cap => return Err(error),
            ElevenLabsError::Status {
                retry_after: Some(wait),
                ..
            } => wait,
            _ => TRY_PAUSE.delay(tried, rand::random()),
        };
        tokio::time::sleep(pause).await;
    }
}
