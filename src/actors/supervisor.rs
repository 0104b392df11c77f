//! The root of the tree: starts every actor, restarts what fails, and gives
//! up when failures come too fast, so that the process ends and is started
//! anew by whoever watches it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use ractor::{Actor, ActorCell, ActorId, ActorProcessingErr, ActorRef, SupervisionEvent};
use rustc_hash::FxHashMap;
use tokio::task::JoinHandle;

use super::agent_cache::{self, AgentCache, AgentCacheActor};
use super::archiver::{self, Archiver, ArchiverActor};
use super::inbox::{self, Inbox, InboxActor};
use super::intensity::RestartIntensity;
use super::openai::{self, OpenAiActor, OpenAiClient, OpenAiLimits};
use super::router::{self, RouterActor, SessionOptions, Sessions};
use super::session::Tools;
use super::slot::Slot;
use crate::clients::{ElevenLabs, OpenAi};
use crate::compute::Compute;
use crate::metric_definitions::{ActorKind, Metrics};
use crate::store::{Archive, Ledger, MemoryStore, StoreError};
use crate::telemetry::CallerIdFormat;

/// Restarts within [`RESTART_WINDOW`] before the root gives up.
const MAX_RESTARTS: usize = 20;
/// See [`MAX_RESTARTS`].
const RESTART_WINDOW: Duration = Duration::from_secs(60);
/// How long the actors may take to stop.
const STOP_TIMEOUT: Duration = Duration::from_secs(5);

/// What the actors work with and how.
pub struct SystemOptions {
    /// The inbox, dead letters and agent profiles.
    pub ledger: Arc<dyn Ledger>,
    /// Both tiers and the memories.
    pub store: Arc<dyn MemoryStore>,
    /// Transcripts and recordings.
    pub archive: Archive,
    /// `None` without `ELEVENLABS_API_KEY`.
    pub elevenlabs: Option<ElevenLabs>,
    /// `None` without `OPENAI_API_KEY`: no greetings are made.
    pub openai: Option<(OpenAi, OpenAiLimits)>,
    /// How long an agent profile is fresh.
    pub agent_ttl: Duration,
    /// How long a greeting is tried for.
    pub greeting_retry: Duration,
    /// For work that nobody on the line waits for.
    pub background: Compute,
    /// Caller sessions.
    pub sessions: SessionOptions,
    /// Where everything is counted.
    pub metrics: Arc<Metrics>,
    /// How callers appear in logs.
    pub caller_ids: CallerIdFormat,
}

/// The running actors: their handles, and their end.
pub struct ActorSystem {
    /// Caller sessions.
    pub sessions: Sessions,
    /// Agent profiles.
    pub agents: AgentCache,
    /// The durable queue.
    pub inbox: Inbox,
    root: ActorRef<Message>,
    ended: JoinHandle<()>,
}

impl ActorSystem {
    /// Starts every actor.
    ///
    /// # Errors
    /// If the ledger cannot be read, or an actor cannot be started.
    pub async fn start(options: SystemOptions) -> Result<Self, StoreError> {
        let failed = |e: &dyn std::fmt::Display| {
            StoreError::Unavailable(format!("the actors cannot be started: {e}"))
        };
        let ledger = options.ledger;
        let agents =
            AgentCache::load(&*ledger, options.agent_ttl, Arc::clone(&options.metrics)).await?;
        // Somebody on the line waits for a search.
        let compute = Compute::foreground();
        let sessions = Sessions::new(compute.clone());
        let archiver = Archiver::default();
        let inbox = Inbox::new(Arc::clone(&ledger), archiver.clone());
        let openai = options.openai.map(|(client, limits)| {
            let client = OpenAiClient::new(client, Arc::clone(&options.metrics));
            let setup = openai::Setup {
                client: client.clone(),
                limits,
            };
            (client, setup)
        });
        let greetings = openai.is_some();
        let tools = Arc::new(Tools {
            store: options.store,
            agents: agents.clone(),
            openai: openai.as_ref().map(|(handle, _)| handle.clone()),
            greeting_retry: options.greeting_retry,
            compute,
            reading: options.background,
            indexes: Arc::default(),
            metrics: Arc::clone(&options.metrics),
            caller_ids: options.caller_ids.clone(),
        });

        let mut children = vec![Child::AgentCache(
            agents.slot().clone(),
            agent_cache::Setup {
                cache: agents.clone(),
                client: options.elevenlabs.map(Arc::new),
                ledger: Arc::clone(&ledger),
            },
        )];
        children.push(Child::Archiver(
            archiver.slot().clone(),
            archiver::Setup {
                ledger,
                archive: options.archive,
                metrics: Arc::clone(&options.metrics),
            },
        ));
        children.extend(openai.map(|(handle, setup)| Child::OpenAi(handle.slot().clone(), setup)));
        let shards = sessions.setups(&tools, options.sessions);
        children.extend(
            shards
                .into_iter()
                .map(|(slot, setup)| Child::Router(slot, setup)),
        );
        // The inbox comes last: what it hands out finds everybody in place.
        children.push(Child::Inbox(
            inbox.slot().clone(),
            inbox::Setup {
                inbox: inbox.clone(),
                sessions: sessions.clone(),
                greetings,
                metrics: Arc::clone(&options.metrics),
                caller_ids: options.caller_ids,
            },
        ));
        let (root, ended) = Actor::spawn(None, RootSupervisor, (children, options.metrics))
            .await
            .map_err(|e| failed(&e))?;
        Ok(Self {
            sessions,
            agents,
            inbox,
            root,
            ended,
        })
    }

    /// Whether the supervisor is alive.
    #[must_use]
    pub fn is_alive(&self) -> bool {
        !self.ended.is_finished()
    }

    /// Returns when the supervisor has given up. Never before, unless stopped.
    pub async fn failed(&mut self) {
        let _ = (&mut self.ended).await;
    }

    /// Stops the actors in order: first the inbox hands out nothing more and
    /// what is under way may end, for at most `grace`; then everything stops.
    pub async fn stop(self, grace: Duration) {
        self.inbox.drain(grace).await;
        if self
            .root
            .stop_and_wait(None, Some(STOP_TIMEOUT))
            .await
            .is_err()
        {
            tracing::warn!("The actors did not stop in time");
        }
    }
}

/// An actor under the root, with what it takes to start it again.
#[derive(Clone)]
enum Child {
    AgentCache(Slot<agent_cache::Message>, agent_cache::Setup),
    OpenAi(Slot<openai::Message>, openai::Setup),
    Router(Slot<router::Message>, router::Setup),
    Inbox(Slot<inbox::Message>, inbox::Setup),
    Archiver(Slot<archiver::Message>, archiver::Setup),
}

impl Child {
    fn kind(&self) -> ActorKind {
        match self {
            Self::AgentCache(..) => ActorKind::AgentCache,
            Self::OpenAi(..) => ActorKind::OpenAi,
            Self::Router(..) => ActorKind::Router,
            Self::Inbox(..) => ActorKind::Inbox,
            Self::Archiver(..) => ActorKind::Archiver,
        }
    }

    async fn start(&self, root: ActorCell) -> Result<ActorId, ractor::SpawnErr> {
        match self.clone() {
            Self::AgentCache(slot, setup) => start(AgentCacheActor, slot, setup, root).await,
            Self::OpenAi(slot, setup) => start(OpenAiActor, slot, setup, root).await,
            Self::Router(slot, setup) => start(RouterActor, slot, setup, root).await,
            Self::Inbox(slot, setup) => start(InboxActor, slot, setup, root).await,
            Self::Archiver(slot, setup) => start(ArchiverActor, slot, setup, root).await,
        }
    }
}

async fn start<A: Actor>(
    actor: A,
    slot: Slot<A::Msg>,
    setup: A::Arguments,
    root: ActorCell,
) -> Result<ActorId, ractor::SpawnErr> {
    let (started, _) = Actor::spawn_linked(None, actor, setup, root).await?;
    let id = started.get_id();
    slot.set(started);
    Ok(id)
}

/// The root takes no messages of its own.
pub(super) enum Message {}

struct RootSupervisor;

struct State {
    children: FxHashMap<ActorId, Child>,
    intensity: RestartIntensity,
    metrics: Arc<Metrics>,
}

impl Actor for RootSupervisor {
    type Msg = Message;
    type State = State;
    type Arguments = (Vec<Child>, Arc<Metrics>);

    async fn pre_start(
        &self,
        myself: ActorRef<Message>,
        (children, metrics): Self::Arguments,
    ) -> Result<State, ActorProcessingErr> {
        let mut state = State {
            children: FxHashMap::default(),
            intensity: RestartIntensity::new(MAX_RESTARTS, RESTART_WINDOW),
            metrics,
        };
        for child in children {
            let id = child.start(myself.get_cell()).await?;
            state.children.insert(id, child);
        }
        Ok(state)
    }

    async fn handle(
        &self,
        _: ActorRef<Message>,
        message: Message,
        _: &mut State,
    ) -> Result<(), ActorProcessingErr> {
        match message {}
    }

    async fn handle_supervisor_evt(
        &self,
        myself: ActorRef<Message>,
        event: SupervisionEvent,
        state: &mut State,
    ) -> Result<(), ActorProcessingErr> {
        let (cell, error) = match event {
            SupervisionEvent::ActorTerminated(cell, _, reason) => {
                (cell, reason.unwrap_or_default())
            }
            SupervisionEvent::ActorFailed(cell, error) => (cell, error.to_string()),
            _ => return Ok(()),
        };
        let Some(child) = state.children.remove(&cell.get_id()) else {
            return Ok(());
        };
        let kind = child.kind();
        tracing::error!(error, ?kind, "An actor failed; it is restarted");
        state.metrics.actor_restarts.get(kind).increment(1);
        if !state.intensity.permits(Instant::now()) {
            tracing::error!("Actors fail too often; the service gives up");
            myself.stop(Some("restart intensity exceeded".into()));
            return Ok(());
        }
        let id = child.start(myself.get_cell()).await?;
        state.children.insert(id, child);
        Ok(())
    }
}
