//! The root of the tree: starts every actor, restarts what fails, and gives
//! up when failures come too fast, so that the process ends and is started
//! anew by whoever watches it.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use ractor::{Actor, ActorCell, ActorId, ActorProcessingErr, ActorRef, SupervisionEvent};
use rustc_hash::FxHashMap;
use tokio::task::JoinHandle;

use super::agent_cache::{self, AgentCache, AgentCacheActor};
use super::archiver::{self, Archiver, ArchiverActor};
use super::callers::Callers;
use super::connection::{Connection, Place};
use super::directory::Directory;
use super::fleet::{FleetSize, FleetWatch};
use super::health::Health;
use super::inbox::{self, Inbox, InboxActor, Intake};
use super::intensity::RestartIntensity;
use super::memory_vectors::{self, MakerActor, MemoryVectors};
use super::openai::{self, OpenAiActor, OpenAiClient, OpenAiLimits};
use super::parsed_calls::ParsedCalls;
use super::pipeline::Pipeline;
use super::progress::{Beacon, Watched};
use super::reconciler::{self, Reconciler, ReconcilerActor};
use super::retention::{self, Retention, RetentionActor};
use super::router::{self, RouterActor, SessionOptions, Sessions};
use super::session::Dependencies;
use super::slot::Slot;
use super::webhook_watch::{self, WebhookWatch};
use super::worker::{Worker, WorkerActor};
use crate::account::Account;
use crate::clients::{ElevenLabs, Embeddings, OpenAi};
use crate::compute::Compute;
use crate::domain::caller_rules::CallerRules;
use crate::domain::connection::PublicUrl;
use crate::metric_definitions::{ActorKind, Label, Metrics};
use crate::store::{Archive, Ledger, MemoryStore, Register, StoreError, VectorStore};
use crate::telemetry::CallerIdFormat;

/// Restarts within [`RESTART_WINDOW`] before the root gives up.
const MAX_RESTARTS: usize = 20;
/// See [`MAX_RESTARTS`].
const RESTART_WINDOW: Duration = Duration::from_secs(60);
/// How long an actor may handle one message. They start tasks for what waits.
const HANDLER_PATIENCE: Duration = Duration::from_secs(30);
/// The same for the dispatcher of requests to OpenAI, which waits for whoever
/// is first in its queue, and they for ten minutes at most.
const OPENAI_PATIENCE: Duration = Duration::from_secs(15 * 60);
/// How long the actors may take to stop.
const STOP_TIMEOUT: Duration = Duration::from_secs(5);

/// What the actors work with and how.
pub struct SystemOptions {
    /// The inbox, dead letters and agent profiles.
    pub ledger: Arc<dyn Ledger>,
    /// Both tiers and the memories.
    pub store: Arc<dyn MemoryStore>,
    /// What operators decided about callers.
    pub register: Arc<dyn Register>,
    /// Transcripts and recordings.
    pub archive: Archive,
    /// `None` without `ELEVENLABS_API_KEY`.
    pub elevenlabs: Option<ElevenLabs>,
    /// `PUBLIC_URL`
    pub public_url: Option<PublicUrl>,
    /// `ELEVENLABS_WEBHOOK_ID`
    pub webhook_id: Option<String>,
    /// `RECONCILE_INTERVAL_MINUTES`
    pub reconcile_interval: Option<Duration>,
    /// `None` without `OPENAI_API_KEY`: no greetings are made.
    pub openai: Option<(OpenAi, OpenAiLimits)>,
    /// `None` without `EMBEDDINGS_MODEL`: words alone are searched.
    pub embeddings: Option<(Embeddings, OpenAiLimits)>,
    /// Where vectors of memories are kept.
    pub vector_store: Arc<dyn VectorStore>,
    /// How long an agent profile is fresh.
    pub agent_ttl: Duration,
    /// How long a greeting is tried for.
    pub greeting_retry: Duration,
    /// How long things are kept.
    pub retention: Retention,
    /// For work that nobody on the line waits for.
    pub background: Compute,
    /// Caller sessions.
    pub sessions: SessionOptions,
    /// Where everything is counted.
    pub metrics: Arc<Metrics>,
    /// How callers appear in logs.
    pub caller_ids: CallerIdFormat,
    /// How callers are told from what events say.
    pub caller_rules: Arc<CallerRules>,
    /// False leaves calls in the inbox: for an operator's command.
    pub works: bool,
}

/// Why the actors cannot be started.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The agent profiles cannot be read.
    #[error(transparent)]
    Ledger(#[from] StoreError),
    /// An actor failed at once.
    #[error("the actors cannot be started: {0}")]
    Actor(#[from] ractor::SpawnErr),
}

/// The running actors: their handles, and their end.
pub struct ActorSystem {
    /// Caller sessions.
    pub sessions: Sessions,
    /// Agent profiles.
    pub agents: AgentCache,
    pub inbox: Inbox,
    /// Finds calls whose webhook never came.
    pub reconciler: Reconciler,
    /// What operators do with callers.
    pub callers: Callers,
    /// What they decided.
    pub directory: Directory,
    /// Whether all of it works.
    pub health: Health,
    root: ActorRef<Message>,
    ended: JoinHandle<()>,
    /// Goes on with erasures that were broken off, and keeps up with others'
    /// decisions.
    going_on: JoinHandle<()>,
}

impl ActorSystem {
    /// Starts every actor.
    ///
    /// # Errors
    /// If the ledger cannot be read, or an actor cannot be started.
    pub async fn start(options: SystemOptions) -> Result<Self, StartError> {
        let SystemOptions {
            ledger,
            store,
            archive,
            metrics,
            ..
        } = options;
        let elevenlabs = options.elevenlabs.map(Arc::new);
        let agents = AgentCache::load(
            &*ledger,
            options.agent_ttl,
            elevenlabs.clone(),
            Arc::clone(&metrics),
        )
        .await?;
        let vectors = options.embeddings.map(|(client, limits)| {
            let store = Arc::clone(&options.vector_store);
            MemoryVectors::new(client, limits, store, Arc::clone(&metrics))
        });
        if vectors.is_none() && options.works {
            // From now on it is not noted whose calls lack vectors.
            options.vector_store.forget_kind().await?;
        }
        let directory = Directory::load(Arc::clone(&options.register)).await?;
        let dependencies = Arc::new(Dependencies {
            store: Arc::clone(&store),
            ledger: Arc::clone(&ledger),
            register: Arc::clone(&options.register),
            // Somebody on the line waits for a search.
            compute: Compute::foreground(),
            vectors: vectors.clone(),
            vector_store: Arc::clone(&options.vector_store),
            indexes: Arc::default(),
            metrics: Arc::clone(&metrics),
            caller_ids: options.caller_ids.clone(),
        });
        let (is_shared, fleet_size) = (store.is_shared(), FleetSize::default());
        let (fleet_ledger, fleet_metrics) = (Arc::clone(&ledger), Arc::clone(&metrics));
        let sessions = Sessions::new(dependencies, options.sessions);
        let openai = options.openai.map(|(client, limits)| {
            let client = OpenAiClient::new(client, Arc::clone(&metrics));
            let setup = openai::Setup {
                client: client.clone(),
                limits,
                fleet: fleet_size.clone(),
            };
            (client, setup)
        });
        let archiver = Archiver::default();
        let calls = ParsedCalls::default();
        let intake = Intake {
            archive: archive.clone(),
            reading: options.background.clone(),
            caller_rules: Arc::clone(&options.caller_rules),
            metrics: Arc::clone(&metrics),
            greetings: openai.is_some(),
            directory: directory.clone(),
            register: Arc::clone(&options.register),
        };
        let inbox = Inbox::new(Arc::clone(&ledger), intake, calls.clone(), archiver.clone());
        if !options.works {
            inbox.lanes().close();
        }
        let place = Place {
            public_url: options.public_url,
            webhook_id: options.webhook_id,
        };
        let connection = elevenlabs
            .clone()
            .map(|client| Connection::new(Account::new(client), place));
        let feeding = Arc::new(AtomicBool::new(false));
        let reconciler = Reconciler::new(
            connection.clone(),
            inbox.clone(),
            Arc::clone(&ledger),
            options.background.clone(),
            Arc::clone(&metrics),
            Arc::clone(&feeding),
            Arc::clone(&options.caller_rules),
        );
        let callers = Callers {
            sessions: sessions.clone(),
            directory: directory.clone(),
            store: Arc::clone(&store),
            register: Arc::clone(&options.register),
            archive: archive.clone(),
            lanes: inbox.lanes().clone(),
            calls: calls.clone(),
            elevenlabs,
            reconciler: reconciler.clone(),
            ledger: Arc::clone(&ledger),
            payload_retention: options.retention.payloads,
            finished_links: Arc::default(),
        };
        let pipeline = Arc::new(Pipeline {
            ledger: Arc::clone(&ledger),
            directory: directory.clone(),
            sessions: sessions.clone(),
            agents: agents.clone(),
            openai: openai.as_ref().map(|(handle, _)| handle.clone()),
            calls,
            reading: options.background,
            caller_rules: options.caller_rules,
            greeting_retry: options.greeting_retry,
            metrics: Arc::clone(&metrics),
            caller_ids: options.caller_ids,
            feeding,
        });

        let mut children = vec![
            Child::new(Kind::AgentCache(
                agents.slot().clone(),
                agent_cache::Setup {
                    cache: agents.clone(),
                    ledger: Arc::clone(&ledger),
                },
            )),
            Child::new(Kind::Archiver(
                archiver.slot().clone(),
                archiver::Setup {
                    archiver: archiver.clone(),
                    ledger: Arc::clone(&ledger),
                    archive: archive.clone(),
                    metrics: Arc::clone(&metrics),
                },
            )),
        ];
        if let Some((handle, setup)) = openai {
            children.push(Child::new(Kind::OpenAi(handle.slot().clone(), setup)));
        }
        for (slot, setup) in sessions.setups() {
            children.push(Child::new(Kind::Router(slot, setup)));
        }
        children.push(Child::new(Kind::Retention(
            Slot::default(),
            retention::Setup {
                retention: options.retention,
                ledger: Arc::clone(&ledger),
                store: Arc::clone(&store),
                archive: archive.clone(),
                sessions: sessions.clone(),
                vectors: options.vector_store,
            },
        )));
        if let Some(vectors) = vectors.filter(|_| options.works) {
            children.push(Child::new(Kind::VectorMaker(
                vectors.slot().clone(),
                memory_vectors::Setup {
                    vectors,
                    ledger: Arc::clone(&ledger),
                    store: Arc::clone(&store),
                    sessions: sessions.clone(),
                },
            )));
        }
        if options.works {
            children.push(Child::new(Kind::Reconciler(
                reconciler.slot().clone(),
                reconciler::Setup {
                    reconciler: reconciler.clone(),
                    interval: options.reconcile_interval,
                },
            )));
            children.push(Child::new(Kind::WebhookWatch(
                Slot::default(),
                webhook_watch::Setup {
                    connection,
                    metrics: Arc::clone(&metrics),
                    told: Arc::default(),
                },
            )));
        }
        // The inbox comes last: what it hands out finds everybody in place.
        children.push(Child::new(Kind::Inbox(
            inbox.slot().clone(),
            inbox::Setup {
                inbox: inbox.clone(),
                pipeline,
                metrics: Arc::clone(&metrics),
            },
        )));

        let mut watched: Vec<Watched> = children.iter().map(Child::watched).collect();
        watched.extend(inbox.lanes().watched());
        watched.push(archiver.watched());
        let health = Health::new(ledger, store, archive, inbox.clone(), watched);
        let (root, ended) = Actor::spawn(None, RootSupervisor, (children, metrics)).await?;
        let going_on = callers.clone();
        let others = FleetWatch {
            ledger: fleet_ledger,
            directory: directory.clone(),
            agents: agents.clone(),
            size: fleet_size,
            metrics: fleet_metrics,
        };
        let going_on = tokio::spawn(async move {
            match (options.works, is_shared) {
                (true, true) => drop(tokio::join!(going_on.keep_on(), others.keep_up())),
                (true, false) => going_on.keep_on().await,
                // A command ends before either would do anything.
                (false, _) => {}
            }
        });
        Ok(Self {
            callers,
            directory,
            sessions,
            agents,
            inbox,
            reconciler,
            health,
            root,
            ended,
            going_on,
        })
    }

    /// Returns when the supervisor has given up. Never before, unless stopped.
    pub async fn failed(&mut self) {
        let _ = (&mut self.ended).await;
    }

    /// Stops the actors in order: first the inbox hands out nothing more and
    /// what is under way may end, for at most `grace`; then everything stops.
    pub async fn stop(self, grace: Duration) {
        self.going_on.abort();
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
struct Child {
    kind: Kind,
    /// Shows how long it handles its present message.
    beacon: Beacon,
}

#[derive(Clone)]
enum Kind {
    AgentCache(Slot<agent_cache::Message>, agent_cache::Setup),
    OpenAi(Slot<openai::Message>, openai::Setup),
    Router(Slot<router::Message>, router::Setup),
    Inbox(Slot<inbox::Message>, inbox::Setup),
    Archiver(Slot<archiver::Message>, archiver::Setup),
    Retention(Slot<retention::Message>, retention::Setup),
    VectorMaker(Slot<memory_vectors::Message>, memory_vectors::Setup),
    Reconciler(Slot<reconciler::Message>, reconciler::Setup),
    WebhookWatch(Slot<webhook_watch::Message>, webhook_watch::Setup),
}

impl Child {
    fn new(kind: Kind) -> Self {
        Self {
            kind,
            beacon: Beacon::default(),
        }
    }

    fn actor_kind(&self) -> ActorKind {
        match &self.kind {
            Kind::AgentCache(..) => ActorKind::AgentCache,
            Kind::OpenAi(..) => ActorKind::OpenAi,
            Kind::Router(..) => ActorKind::Router,
            Kind::Inbox(..) => ActorKind::Inbox,
            Kind::Archiver(..) => ActorKind::Archiver,
            Kind::Retention(..) => ActorKind::Retention,
            Kind::VectorMaker(..) => ActorKind::VectorMaker,
            Kind::Reconciler(..) => ActorKind::Reconciler,
            Kind::WebhookWatch(..) => ActorKind::WebhookWatch,
        }
    }

    fn watched(&self) -> Watched {
        let limit = match &self.kind {
            // It waits in its handler, for limits counted by the minute.
            Kind::OpenAi(..) => OPENAI_PATIENCE,
            _ => HANDLER_PATIENCE,
        };
        Watched {
            name: self.actor_kind().as_str(),
            beacon: self.beacon.clone(),
            limit,
            vital: true,
        }
    }

    async fn start(&self, root: ActorCell) -> Result<ActorId, ractor::SpawnErr> {
        let beacon = self.beacon.clone();
        match self.kind.clone() {
            Kind::AgentCache(slot, setup) => {
                start(worker::<AgentCacheActor>(beacon), slot, setup, root).await
            }
            Kind::OpenAi(slot, setup) => {
                start(worker::<OpenAiActor>(beacon), slot, setup, root).await
            }
            Kind::Router(slot, setup) => start(RouterActor { beacon }, slot, setup, root).await,
            Kind::Inbox(slot, setup) => {
                start(worker::<InboxActor>(beacon), slot, setup, root).await
            }
            Kind::Archiver(slot, setup) => {
                start(worker::<ArchiverActor>(beacon), slot, setup, root).await
            }
            Kind::Retention(slot, setup) => {
                start(worker::<RetentionActor>(beacon), slot, setup, root).await
            }
            Kind::VectorMaker(slot, setup) => {
                start(worker::<MakerActor>(beacon), slot, setup, root).await
            }
            Kind::Reconciler(slot, setup) => {
                start(worker::<ReconcilerActor>(beacon), slot, setup, root).await
            }
            Kind::WebhookWatch(slot, setup) => {
                start(worker::<WebhookWatch>(beacon), slot, setup, root).await
            }
        }
    }
}

fn worker<W: Worker>(beacon: Beacon) -> WorkerActor<W> {
    WorkerActor::new(beacon)
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
        let kind = child.actor_kind();
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
