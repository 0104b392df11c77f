//! A caller session: owns one active caller's Tier 1, all its Tier 2 and its
//! search index, and serialises the changes to them.
//!
//! What it knows, it publishes: a ring reads the published view and is
//! answered at once, also while the caller's last call is being digested.
//! Only the session writes it.
//!
//! The session waits for nothing but its first load. Whatever takes time runs
//! as a task and comes back as a message. Changes in the store are made one
//! after the other, so that what is published never goes back in time;
//! greetings are generated beside them.

mod change;
mod greet;
mod index;
mod learn;
mod published;

use std::collections::VecDeque;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use ractor::{Actor, ActorProcessingErr, ActorRef, SupervisionEvent};
use tokio::sync::oneshot;
use tracing::Instrument;

use super::agent_cache::AgentCache;
use super::openai::OpenAiClient;
use super::ticket::Ticket;
use crate::compute::Compute;
use crate::domain::caller_id::CallerId;
use crate::domain::name::CallerName;
use crate::domain::search::{Index, MAX_INDEXED};
use crate::metric_definitions::{Metrics, Tier, TierResult};
use crate::store::{MemoryStore, Renamed, RetryCause, StoreError};
use crate::telemetry::CallerIdFormat;

use change::{Change, Changed};
use greet::GreetingMade;
pub(in crate::actors) use index::IndexBudget;
use learn::Read;
pub use published::{CallerView, Published};

/// What every session works with.
pub(super) struct Tools {
    pub store: Arc<dyn MemoryStore>,
    pub agents: AgentCache,
    /// `None` without `OPENAI_API_KEY`.
    pub openai: Option<OpenAiClient>,
    /// How long a greeting is tried for.
    pub greeting_retry: Duration,
    /// For indexes and searches.
    pub compute: Compute,
    /// For large events.
    pub reading: Compute,
    pub indexes: Arc<IndexBudget>,
    pub metrics: Arc<Metrics>,
    pub caller_ids: CallerIdFormat,
}

pub(super) enum Message {
    /// Say what is known, once it is loaded.
    Open {
        /// Make the memories searchable as well, for a call that may search.
        load_index: bool,
        reply: oneshot::Sender<Arc<Published>>,
    },
    /// Make the memories searchable.
    LoadIndex { reply: Option<oneshot::Sender<()>> },
    IndexLoaded {
        index: Result<Box<Index>, StoreError>,
    },
    /// Work on an event of the inbox.
    Process(Ticket),
    /// A large event was read.
    Read { ticket: Ticket, read: Box<Read> },
    GreetingMade {
        ticket: Ticket,
        made: Box<GreetingMade>,
    },
    /// An operator's name for the caller.
    Rename {
        name: CallerName,
        reply: oneshot::Sender<RenameResult>,
    },
    /// The change that was under way has ended.
    Changed(Box<Changed>),
    /// The router wants to let the session go. It stops, or says that it is busy.
    Passivate { refused: oneshot::Sender<()> },
    /// The load failed: nothing more is to be expected of this session.
    GiveUp,
    /// A task has panicked. What it was to say will not come: the session
    /// fails, and the next one starts from the store.
    TaskPanicked,
}

/// The caller with the new name, or `None` if there is no such caller.
pub(super) type RenameResult = Result<Option<Renamed>, StoreError>;

/// What a session is started with.
pub(super) struct Setup {
    pub caller: CallerId,
    pub tools: Arc<Tools>,
    /// Makes what is published visible to the handle.
    pub publish: Box<dyn FnOnce(Arc<Published>) + Send>,
}

pub(super) struct SessionActor;

pub(super) struct State {
    caller: CallerId,
    tools: Arc<Tools>,
    /// Taken when the load succeeds.
    publish: Option<Box<dyn FnOnce(Arc<Published>) + Send>>,
    /// `None` until the load succeeds.
    published: Option<Arc<Published>>,
    /// `None` unless the memories are being loaded.
    loading: Option<Loading>,
    /// Changes that wait for the one under way.
    changes: VecDeque<Change>,
    changing: bool,
    /// Tasks whose message is still to come.
    under_way: usize,
}

/// Memories that are being loaded.
#[derive(Default)]
struct Loading {
    waiting: Vec<oneshot::Sender<()>>,
    /// Memories were added since the load began; it must be repeated.
    outdated: bool,
}

impl Actor for SessionActor {
    type Msg = Message;
    type State = State;
    type Arguments = Setup;

    async fn pre_start(
        &self,
        _: ActorRef<Message>,
        setup: Setup,
    ) -> Result<State, ActorProcessingErr> {
        Ok(State {
            caller: setup.caller,
            tools: setup.tools,
            publish: Some(setup.publish),
            published: None,
            loading: None,
            changes: VecDeque::new(),
            changing: false,
            under_way: 0,
        })
    }

    /// Loads here, not in `pre_start`: the router must not wait for the store.
    async fn post_start(
        &self,
        myself: ActorRef<Message>,
        state: &mut State,
    ) -> Result<(), ActorProcessingErr> {
        match state.tools.load(&state.caller).await {
            Ok(view) => {
                let budget = Arc::clone(&state.tools.indexes);
                let published = Arc::new(Published::new(view, budget));
                if let Some(publish) = state.publish.take() {
                    publish(Arc::clone(&published));
                }
                state.published = Some(published);
            }
            Err(_) => myself.send_message(Message::GiveUp)?,
        }
        Ok(())
    }

    async fn handle(
        &self,
        myself: ActorRef<Message>,
        message: Message,
        state: &mut State,
    ) -> Result<(), ActorProcessingErr> {
        let Some(published) = state.published.clone() else {
            state.refuse(&myself, message);
            return Ok(());
        };
        match message {
            Message::Open { load_index, reply } => {
                if load_index {
                    state.load_index(&myself, &published, None);
                }
                let _ = reply.send(published);
            }
            Message::LoadIndex { reply } => state.load_index(&myself, &published, reply),
            Message::IndexLoaded { index } => state.index_loaded(&myself, index),
            Message::Process(ticket) => {
                let _span = ticket.span().entered();
                state.process(&myself, &published, ticket);
            }
            Message::Read { ticket, read } => {
                state.under_way -= 1;
                let _span = ticket.span().entered();
                state.work_on(&myself, &published, ticket, *read);
            }
            Message::GreetingMade { ticket, made } => {
                state.under_way -= 1;
                let _span = ticket.span().entered();
                state.greeting_made(&myself, ticket, *made);
            }
            Message::Rename { name, reply } => {
                state.change(&myself, Change::Rename { name, reply });
            }
            Message::Changed(changed) => state.changed(&myself, &published, *changed),
            Message::Passivate { refused } => {
                if state.under_way == 0 {
                    myself.stop(None);
                } else {
                    let _ = refused.send(());
                }
            }
            Message::GiveUp => {}
            Message::TaskPanicked => return Err("a task of the session panicked".into()),
        }
        Ok(())
    }

    /// It has no children; the default would stop it on any event.
    async fn handle_supervisor_evt(
        &self,
        _: ActorRef<Message>,
        _: SupervisionEvent,
        _: &mut State,
    ) -> Result<(), ActorProcessingErr> {
        Ok(())
    }
}

impl State {
    /// Answers while nothing could be loaded: replies are dropped, events go
    /// back to the inbox, and the session ends with what is queued.
    fn refuse(&self, myself: &ActorRef<Message>, message: Message) {
        match message {
            Message::Process(ticket) => ticket.retry(
                RetryCause::Outage,
                "the memory store does not answer".into(),
                None,
            ),
            Message::GiveUp => myself.drain().unwrap_or_else(|_| myself.stop(None)),
            _ => {}
        }
    }

    /// Starts a task whose result comes back as a message.
    fn start<F>(&mut self, myself: &ActorRef<Message>, task: F)
    where
        F: Future<Output = Message> + Send + 'static,
    {
        self.under_way += 1;
        let myself = myself.clone();
        let work = async move {
            let message = AssertUnwindSafe(task).catch_unwind().await;
            // If the session is gone, so is the message; a ticket in it gives
            // its event back.
            let _ = myself.send_message(message.unwrap_or(Message::TaskPanicked));
        };
        tokio::spawn(work.in_current_span());
    }

    fn load_index(
        &mut self,
        myself: &ActorRef<Message>,
        published: &Published,
        reply: Option<oneshot::Sender<()>>,
    ) {
        if published.is_indexed() {
            // Dropping the reply would read as a failure.
            if let Some(reply) = reply {
                let _ = reply.send(());
            }
            return;
        }
        let loads = self.loading.is_some();
        self.loading.get_or_insert_default().waiting.extend(reply);
        if !loads {
            self.read_memories(myself);
        }
    }

    fn read_memories(&mut self, myself: &ActorRef<Message>) {
        let Some(published) = self.published.clone() else {
            return;
        };
        let (tools, caller) = (Arc::clone(&self.tools), self.caller.clone());
        self.start(myself, async move {
            // A caller whom nobody knows has no memories.
            let known = published.view().profile.is_some();
            let memories = if known {
                tools.store.memories(&caller, MAX_INDEXED).await
            } else {
                Ok(Vec::new())
            };
            let index = match memories {
                Ok(memories) => tools
                    .compute
                    .run(move || Box::new(Index::new(memories)))
                    .await
                    .map_err(|e| StoreError::Unavailable(e.to_string())),
                Err(error) => Err(error),
            };
            Message::IndexLoaded { index }
        });
    }

    fn index_loaded(&mut self, myself: &ActorRef<Message>, index: Result<Box<Index>, StoreError>) {
        self.under_way -= 1;
        let (Some(loading), Some(published)) = (&mut self.loading, &self.published) else {
            return;
        };
        match index {
            Ok(_) if loading.outdated => {
                loading.outdated = false;
                self.read_memories(myself);
            }
            Ok(index) => {
                published.index().load(*index);
                for reply in loading.waiting.drain(..) {
                    let _ = reply.send(());
                }
                self.loading = None;
            }
            Err(error) => {
                tracing::error!(%error, "HTTP error querying memories for {}", self.tools.caller_ids.show(&self.caller));
                // Those who wait are told by their dropped replies.
                self.loading = None;
            }
        }
    }
}

impl Tools {
    /// Reads both tiers of a caller, counted and timed.
    async fn load(&self, caller: &CallerId) -> Result<CallerView, StoreError> {
        let (profile, states) = tokio::join!(
            self.timed(
                Tier::One,
                caller,
                self.store.universal_profile(caller),
                Option::is_some
            ),
            self.timed(
                Tier::Two,
                caller,
                self.store.conversation_states(caller),
                |s| !s.is_empty()
            ),
        );
        Ok(CallerView {
            profile: profile?,
            states: states?.into_iter().collect(),
        })
    }

    async fn timed<T>(
        &self,
        tier: Tier,
        caller: &CallerId,
        read: impl Future<Output = Result<T, StoreError>>,
        is_hit: impl FnOnce(&T) -> bool,
    ) -> Result<T, StoreError> {
        let started = std::time::Instant::now();
        let result = read.await;
        self.metrics
            .tier_duration
            .get(tier)
            .record(started.elapsed());
        let outcome = match &result {
            Ok(found) if is_hit(found) => TierResult::Hit,
            Ok(_) => TierResult::Miss,
            Err(error) => {
                let what = match tier {
                    Tier::One => "universal profile",
                    Tier::Two => "agent-specific state",
                };
                // The guide's phrase, whatever the store.
                tracing::error!(%error, "HTTP error querying {what} for {}", self.caller_ids.show(caller));
                TierResult::Error
            }
        };
        self.metrics
            .tier_queries
            .get(tier)
            .get(outcome)
            .increment(1);
        result
    }
}
