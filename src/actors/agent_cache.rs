//! Agent profiles, kept for 24 hours and over restarts.
//!
//! Readers look into a shared table and never wait for the actor; the actor
//! alone writes it. There is one fetch per agent at a time. A profile that is
//! too old is served while a new one is fetched, and goes on being served if
//! that fails. An agent that does not exist is remembered for a few minutes.

use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};

use jiff::{SignedDuration, Timestamp};
use ractor::{ActorProcessingErr, ActorRef};
use rustc_hash::FxHashMap;
use tokio::sync::{Semaphore, oneshot};
use tokio::time::timeout;

use super::backoff::Backoff;
use super::slot::Slot;
use super::worker::Worker;
use crate::clients::{ElevenLabs, ElevenLabsError};
use crate::domain::agent_profile::AgentProfile;
use crate::domain::ids::AgentId;
use crate::log_events;
use crate::metric_definitions::{CacheResult, Metrics};
use crate::store::{Ledger, StoredAgent};

/// How long an unknown agent is not asked for again.
const NOT_FOUND_TTL: Duration = Duration::from_secs(5 * 60);
/// How long to leave ElevenLabs alone after a failed fetch.
const FAILURE_PAUSE: Backoff = Backoff {
    base: Duration::from_secs(2),
    cap: Duration::from_secs(5 * 60),
};
/// Tries of one fetch.
const TRIES: u32 = 3;
/// Between the tries of one fetch.
const TRY_PAUSE: Backoff = Backoff {
    base: Duration::from_millis(300),
    cap: Duration::from_secs(5),
};
/// Most fetches at a time, over all agents.
const CONCURRENT_FETCHES: usize = 8;
/// Most agents held: bounds what a stranger with the webhook's key can fill.
const MAX_AGENTS: usize = 10_000;
/// Longest wait for a profile, fetch included.
const WAIT: Duration = Duration::from_secs(45);

enum Known {
    Profile {
        profile: Arc<AgentProfile>,
        fetched_at: Timestamp,
    },
    /// There is no such agent, as far as we were told until then.
    NotFound { until: Instant },
}

type Table = RwLock<FxHashMap<AgentId, Known>>;

/// The handle. Cheap to clone.
#[derive(Clone)]
pub struct AgentCache {
    slot: Slot<Message>,
    table: Arc<Table>,
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
}

impl AgentCache {
    /// A cache with the profiles that the ledger has kept.
    pub(super) async fn load(
        ledger: &dyn Ledger,
        ttl: Duration,
        client: Option<Arc<ElevenLabs>>,
        metrics: Arc<Metrics>,
    ) -> crate::store::Result<Self> {
        let mut table = FxHashMap::default();
        for StoredAgent {
            agent,
            profile,
            fetched_at,
        } in ledger.agents().await?
        {
            table.insert(
                agent,
                Known::Profile {
                    profile: Arc::new(profile),
                    fetched_at,
                },
            );
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

    fn look_up(&self, agent: &AgentId) -> (CacheResult, Option<Arc<AgentProfile>>) {
        let table = self.table.read().unwrap_or_else(PoisonError::into_inner);
        let (result, profile) = match table.get(agent) {
            Some(Known::Profile {
                profile,
                fetched_at,
            }) => {
                let age = Timestamp::now().duration_since(*fetched_at);
                let result = if age < self.ttl {
                    CacheResult::Hit
                } else {
                    CacheResult::Stale
                };
                (result, Some(Arc::clone(profile)))
            }
            Some(Known::NotFound { until }) if Instant::now() < *until => {
                (CacheResult::Negative, None)
            }
            _ => (CacheResult::Miss, None),
        };
        self.metrics.agent_cache_requests.get(result).increment(1);
        (result, profile)
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
        match self
            .table
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .get(agent)
        {
            Some(Known::Profile { profile, .. }) => Some(Arc::clone(profile)),
            _ => None,
        }
    }

    /// Forgets what is known of an agent (guide, "Cache Not Updating"). False
    /// if nothing was known, or nobody answered.
    pub async fn invalidate(&self, agent: &AgentId) -> bool {
        let (reply, done) = oneshot::channel();
        self.slot.send(Message::Invalidate {
            agent: agent.clone(),
            reply,
        });
        matches!(timeout(WAIT, done).await, Ok(Ok(true)))
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
    waiting: FxHashMap<AgentId, Vec<oneshot::Sender<()>>>,
    /// Failures in a row, and until when the agent is not asked for.
    failing: FxHashMap<AgentId, (u32, Instant)>,
}

impl Worker for AgentCacheActor {
    type Message = Message;
    type Setup = Setup;

    fn start(setup: Setup, _: &ActorRef<Message>) -> Self {
        Self {
            setup,
            permits: Arc::new(Semaphore::new(CONCURRENT_FETCHES)),
            waiting: FxHashMap::default(),
            failing: FxHashMap::default(),
        }
    }

    async fn handle(
        &mut self,
        myself: &ActorRef<Message>,
        message: Message,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            Message::Fetch { agent, reply } => self.fetch(myself, agent, reply),
            Message::Fetched { agent, result } => self.fetched(&agent, result),
            Message::Invalidate { agent, reply } => self.invalidate(agent, reply),
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
        if let Some(waiting) = self.waiting.get_mut(&agent) {
            waiting.extend(reply);
            return;
        }
        let paused = self
            .failing
            .get(&agent)
            .is_some_and(|(_, until)| Instant::now() < *until);
        if paused || self.waiting.len() >= MAX_AGENTS {
            return;
        }
        log_events::fetching_agent(&agent);
        self.waiting
            .insert(agent.clone(), reply.into_iter().collect());
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

    fn fetched(&mut self, agent: &AgentId, result: Result<AgentProfile, ElevenLabsError>) {
        match result {
            Ok(profile) => {
                self.failing.remove(agent);
                let fetched_at = Timestamp::now();
                self.save(StoredAgent {
                    agent: agent.clone(),
                    profile: profile.clone(),
                    fetched_at,
                });
                self.remember(
                    agent,
                    Known::Profile {
                        profile: Arc::new(profile),
                        fetched_at,
                    },
                );
            }
            Err(ElevenLabsError::NotFound) => {
                log_events::agent_not_found(agent);
                self.failing.remove(agent);
                self.remember(
                    agent,
                    Known::NotFound {
                        until: Instant::now() + NOT_FOUND_TTL,
                    },
                );
            }
            Err(error) => {
                tracing::warn!(%error, "Agent profile {agent} could not be fetched");
                let failures = self.failing.get(agent).map_or(0, |(failures, _)| *failures) + 1;
                let pause = FAILURE_PAUSE.delay(failures, rand::random());
                self.failing
                    .insert(agent.clone(), (failures, Instant::now() + pause));
            }
        }
        for reply in self.waiting.remove(agent).unwrap_or_default() {
            let _ = reply.send(());
        }
    }

    fn remember(&self, agent: &AgentId, known: Known) {
        let cache = &self.setup.cache;
        let mut table = cache.table.write().unwrap_or_else(PoisonError::into_inner);
        if table.len() >= MAX_AGENTS {
            let now = Instant::now();
            table.retain(|_, known| !matches!(known, Known::NotFound { until } if *until <= now));
        }
        if table.len() < MAX_AGENTS || table.contains_key(agent) {
            table.insert(agent.clone(), known);
        }
        cache.metrics.agent_cache_entries.set(table.len() as f64);
    }

    fn save(&self, stored: StoredAgent) {
        let ledger = Arc::clone(&self.setup.ledger);
        tokio::spawn(async move {
            if let Err(error) = ledger.save_agent(stored).await {
                // It is fetched again after the next start.
                tracing::warn!(%error, "An agent profile could not be kept");
            }
        });
    }

    fn invalidate(&mut self, agent: AgentId, reply: oneshot::Sender<bool>) {
        self.failing.remove(&agent);
        let cache = &self.setup.cache;
        let mut table = cache.table.write().unwrap_or_else(PoisonError::into_inner);
        let known = table.remove(&agent).is_some();
        cache.metrics.agent_cache_entries.set(table.len() as f64);
        drop(table);
        let ledger = Arc::clone(&self.setup.ledger);
        tokio::spawn(async move {
            if let Err(error) = ledger.forget_agent(&agent).await {
                tracing::warn!(%error, "Agent profile {agent} could not be forgotten");
            }
            let _ = reply.send(known);
        });
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
            ElevenLabsError::NotFound | ElevenLabsError::InvalidKey(_) => return Err(error),
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
