//! A shard of the router: supervises the actors of its callers' sessions.

use std::sync::Arc;
use std::time::{Duration, Instant};

use ractor::{Actor, ActorCell, ActorId, ActorProcessingErr, ActorRef, SupervisionEvent};
use rustc_hash::FxHashMap;

use crate::actors::intensity::RestartIntensity;
use crate::actors::progress::Beacon;
use crate::actors::session::{
    self, Change, Dependencies, SessionActor, SessionError, SessionTable,
};
use crate::actors::worker::WorkerActor;
use crate::domain::caller_id::CallerId;
use crate::metric_definitions::ActorKind;

/// Longest time that the actor of a session stays without a change.
const QUIET: Duration = Duration::from_secs(2);
/// Failures of one caller's sessions within a minute before they pause.
const SESSION_FAILURES: usize = 5;
/// How long changes of such a caller are refused.
const SESSION_PAUSE: Duration = Duration::from_secs(30);
/// Most callers whose failures are remembered.
const MAX_FAILING: usize = 1_024;

pub(in crate::actors) enum Message {
    /// For the caller's session.
    Change {
        caller: CallerId,
        change: Box<Change>,
    },
    /// Let go what is not used.
    Sweep,
}

/// What a shard needs to (re)start.
#[derive(Clone)]
pub(in crate::actors) struct Setup {
    pub(super) table: Arc<SessionTable>,
    pub(super) dependencies: Arc<Dependencies>,
    pub(super) idle: Duration,
}

pub(in crate::actors) struct RouterActor {
    pub beacon: Beacon,
}

pub(in crate::actors) struct State {
    setup: Setup,
    sessions: FxHashMap<CallerId, Session>,
    callers: FxHashMap<ActorId, CallerId>,
    failing: FxHashMap<CallerId, Failing>,
}

/// The actor of a session. It is stopped when it has nothing left to do, so
/// that there are never two that change one caller.
struct Session {
    actor: ActorRef<session::Message>,
    /// Shared with every change that is not made yet.
    pending: Arc<()>,
    last_change: Instant,
}

struct Failing {
    intensity: RestartIntensity,
    /// Changes are refused until then.
    pausing: Option<Instant>,
}

impl Actor for RouterActor {
    type Msg = Message;
    type State = State;
    type Arguments = Setup;

    async fn pre_start(
        &self,
        myself: ActorRef<Message>,
        setup: Setup,
    ) -> Result<State, ActorProcessingErr> {
        self.beacon.idle();
        // The actors of a shard that failed are gone with it.
        setup.table.clear();
        let period = (setup.idle / 4).clamp(Duration::from_millis(100), Duration::from_secs(1));
        myself.send_interval(period, || Message::Sweep);
        Ok(State {
            setup,
            sessions: FxHashMap::default(),
            callers: FxHashMap::default(),
            failing: FxHashMap::default(),
        })
    }

    async fn handle(
        &self,
        myself: ActorRef<Message>,
        message: Message,
        state: &mut State,
    ) -> Result<(), ActorProcessingErr> {
        self.beacon.busy();
        match message {
            Message::Change { caller, change } => state.change(&myself, caller, *change).await,
            Message::Sweep => state.sweep(),
        }
        self.beacon.idle();
        Ok(())
    }

    async fn handle_supervisor_evt(
        &self,
        _: ActorRef<Message>,
        event: SupervisionEvent,
        state: &mut State,
    ) -> Result<(), ActorProcessingErr> {
        match event {
            SupervisionEvent::ActorTerminated(cell, ..) => {
                state.ended(&cell);
            }
            SupervisionEvent::ActorFailed(cell, error) => {
                tracing::error!(%error, "A caller session failed");
                state.failed(&cell);
            }
            _ => {}
        }
        Ok(())
    }
}

impl State {
    async fn change(&mut self, myself: &ActorRef<Message>, caller: CallerId, change: Change) {
        if self.is_pausing(&caller) {
            return change.refuse(SessionError::Unavailable);
        }
        if !self.sessions.contains_key(&caller) {
            match self.start(myself, &caller).await {
                Ok(session) => {
                    self.callers.insert(session.actor.get_id(), caller.clone());
                    self.sessions.insert(caller.clone(), session);
                }
                Err(error) => {
                    tracing::error!(%error, "A caller session cannot be started");
                    return change.refuse(SessionError::Unavailable);
                }
            }
        }
        let Some(session) = self.sessions.get_mut(&caller) else {
            return;
        };
        session.last_change = Instant::now();
        let pending = Arc::clone(&session.pending);
        // If it has just failed, the reply is dropped with the message.
        let _ = session
            .actor
            .send_message(session::Message { change, pending });
    }

    async fn start(
        &self,
        myself: &ActorRef<Message>,
        caller: &CallerId,
    ) -> Result<Session, ractor::SpawnErr> {
        let setup = session::Setup {
            caller: caller.clone(),
            table: Arc::clone(&self.setup.table),
            dependencies: Arc::clone(&self.setup.dependencies),
        };
        // What a session waits for has limits of its own, and so has who waits
        // for the session: nobody reads this beacon.
        let actor = WorkerActor::<SessionActor>::new(Beacon::default());
        let (actor, _) = Actor::spawn_linked(None, actor, setup, myself.get_cell()).await?;
        Ok(Session {
            actor,
            pending: Arc::new(()),
            last_change: Instant::now(),
        })
    }

    /// The caller whose present session this was.
    fn ended(&mut self, cell: &ActorCell) -> Option<CallerId> {
        let caller = self.callers.remove(&cell.get_id())?;
        self.sessions.remove(&caller);
        Some(caller)
    }

    fn failed(&mut self, cell: &ActorCell) {
        let restarts = &self.setup.dependencies.metrics.actor_restarts;
        restarts.get(ActorKind::Session).increment(1);
        let Some(caller) = self.ended(cell) else {
            return;
        };
        // Nobody knows what it has done; the store does.
        self.setup.table.remove(&caller);
        if self.failing.len() >= MAX_FAILING {
            self.failing.clear();
        }
        let failing = self
            .failing
            .entry(caller.clone())
            .or_insert_with(|| Failing {
                intensity: RestartIntensity::new(SESSION_FAILURES, Duration::from_secs(60)),
                pausing: None,
            });
        if !failing.intensity.permits(Instant::now()) {
            let shown = self.setup.dependencies.caller_ids.show(&caller);
            tracing::error!("The session of {shown} keeps failing; it pauses");
            failing.pausing = Some(Instant::now() + SESSION_PAUSE);
        }
    }

    fn is_pausing(&mut self, caller: &CallerId) -> bool {
        let Some(until) = self.failing.get(caller).and_then(|failing| failing.pausing) else {
            return false;
        };
        let is_over = until <= Instant::now();
        if is_over {
            self.failing.remove(caller);
        }
        !is_over
    }

    /// Ends the actors that have nothing to do, and the idle sessions.
    fn sweep(&mut self) {
        let longest = if self.setup.table.is_crowded() {
            Duration::ZERO
        } else {
            self.setup.idle.min(QUIET)
        };
        let quiet = |session: &Session| {
            // Only the shard hands out changes, so none can come meanwhile.
            Arc::strong_count(&session.pending) == 1 && session.last_change.elapsed() >= longest
        };
        let (callers, table) = (&mut self.callers, &self.setup.table);
        self.sessions.retain(|caller, session| {
            let stays = !quiet(session);
            if !stays {
                callers.remove(&session.actor.get_id());
                table.release(caller);
                session.actor.stop(None);
            }
            stays
        });
        table.sweep();
    }
}
