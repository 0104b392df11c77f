//! A shard of the router: supervises the sessions of its callers.

use std::collections::VecDeque;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use ractor::{Actor, ActorCell, ActorId, ActorProcessingErr, ActorRef, SupervisionEvent};
use rustc_hash::{FxHashMap, FxHashSet};
use tokio::sync::oneshot;

use super::{SessionOptions, Table};
use crate::actors::intensity::RestartIntensity;
use crate::actors::session::{self, Published, SessionActor, Tools};
use crate::domain::caller_id::CallerId;
use crate::metric_definitions::{ActorKind, Metrics};

/// Most messages kept for a caller whose session is being let go.
const MAX_WAITING: usize = 1_024;
/// Most callers of a shard that wait for others' sessions to go.
const MAX_QUEUED: usize = 1_024;
/// Sessions looked at in one go: bounds how long a shard is held.
const LOOKS_PER_SWEEP: usize = 512;
/// Failures of one caller's sessions within a minute before they pause.
const SESSION_FAILURES: usize = 5;
/// How long such a caller gets the defaults.
const SESSION_PAUSE: Duration = Duration::from_secs(30);

pub(in crate::actors) enum Message {
    Deliver {
        caller: CallerId,
        message: session::Message,
    },
    /// Let idle sessions go.
    Sweep,
    /// A session could not be let go: it is busy.
    Refused(CallerId),
}

/// What a shard needs to (re)start.
#[derive(Clone)]
pub(in crate::actors) struct Setup {
    pub(super) table: Arc<Table>,
    pub(super) tools: Arc<Tools>,
    pub(super) options: SessionOptions,
}

pub(in crate::actors) struct RouterActor;

pub(in crate::actors) struct State {
    setup: Setup,
    sessions: FxHashMap<CallerId, Session>,
    callers: FxHashMap<ActorId, CallerId>,
    /// Callers for whom there is no room yet, with what is to be delivered.
    queued: VecDeque<(CallerId, Vec<session::Message>)>,
    /// Every session once, to be looked at again when it may be idle. A look
    /// costs the same however many there are.
    looks: VecDeque<Look>,
    /// Sessions that are being let go.
    leaving: usize,
    failures: FxHashMap<CallerId, RestartIntensity>,
    pausing: FxHashMap<CallerId, Instant>,
}

/// When to look at a session again.
struct Look {
    caller: CallerId,
    queued_at: Instant,
    due: Instant,
}

struct Session {
    actor: ActorRef<session::Message>,
    /// Being let go: what waits for the next session.
    leaving: Option<Vec<session::Message>>,
}

impl Actor for RouterActor {
    type Msg = Message;
    type State = State;
    type Arguments = Setup;

    async fn pre_start(
        &self,
        _: ActorRef<Message>,
        setup: Setup,
    ) -> Result<State, ActorProcessingErr> {
        // Sessions of a shard that failed are gone with it.
        let mut table = setup.table.write().unwrap_or_else(PoisonError::into_inner);
        setup
            .tools
            .metrics
            .sessions_active
            .decrement(table.len() as f64);
        table.clear();
        drop(table);
        Ok(State {
            setup,
            sessions: FxHashMap::default(),
            callers: FxHashMap::default(),
            queued: VecDeque::new(),
            looks: VecDeque::new(),
            leaving: 0,
            failures: FxHashMap::default(),
            pausing: FxHashMap::default(),
        })
    }

    async fn post_start(
        &self,
        myself: ActorRef<Message>,
        state: &mut State,
    ) -> Result<(), ActorProcessingErr> {
        let period = (state.setup.options.idle / 4)
            .clamp(Duration::from_millis(100), Duration::from_secs(1));
        myself.send_interval(period, || Message::Sweep);
        Ok(())
    }

    async fn handle(
        &self,
        myself: ActorRef<Message>,
        message: Message,
        state: &mut State,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            Message::Deliver { caller, message } => state.deliver(&myself, caller, message).await,
            Message::Sweep => state.sweep(&myself),
            Message::Refused(caller) => state.refused(&myself, caller).await,
        }
        Ok(())
    }

    async fn handle_supervisor_evt(
        &self,
        myself: ActorRef<Message>,
        event: SupervisionEvent,
        state: &mut State,
    ) -> Result<(), ActorProcessingErr> {
        match event {
            SupervisionEvent::ActorTerminated(cell, ..) => state.ended(&myself, &cell, false).await,
            SupervisionEvent::ActorFailed(cell, error) => {
                tracing::error!(%error, "A caller session failed");
                state.ended(&myself, &cell, true).await;
            }
            _ => {}
        }
        Ok(())
    }
}

impl State {
    async fn deliver(
        &mut self,
        myself: &ActorRef<Message>,
        caller: CallerId,
        message: session::Message,
    ) {
        let message = match self.sessions.get_mut(&caller) {
            Some(Session {
                leaving: Some(waiting),
                ..
            }) => {
                if waiting.len() < MAX_WAITING {
                    waiting.push(message);
                } else {
                    refuse(message);
                }
                return;
            }
            Some(session) => match try_send(&session.actor, message) {
                Ok(()) => return,
                // It has ended, but we are not told yet: wait for that.
                Err(message) => {
                    session.leaving = Some(vec![message]);
                    self.leaving += 1;
                    return;
                }
            },
            None => message,
        };
        self.admit(myself, caller, vec![message]).await;
    }

    /// Starts a session if there is room; else lets others go and queues up.
    async fn admit(
        &mut self,
        myself: &ActorRef<Message>,
        caller: CallerId,
        messages: Vec<session::Message>,
    ) {
        if self.is_pausing(&caller) {
            messages.into_iter().for_each(refuse);
        } else if self.sessions.len() < self.setup.options.most {
            self.start(myself, caller, messages).await;
        } else {
            if let Some((_, queued)) = self.queued.iter_mut().find(|(c, _)| *c == caller) {
                queued.extend(messages);
            } else if self.queued.len() < MAX_QUEUED {
                self.queued.push_back((caller, messages));
            } else {
                messages.into_iter().for_each(refuse);
            }
            self.make_room(myself);
        }
    }

    fn is_pausing(&mut self, caller: &CallerId) -> bool {
        let pausing = self
            .pausing
            .get(caller)
            .is_some_and(|until| Instant::now() < *until);
        if !pausing {
            self.pausing.remove(caller);
        }
        pausing
    }

    async fn start(
        &mut self,
        myself: &ActorRef<Message>,
        caller: CallerId,
        messages: Vec<session::Message>,
    ) {
        let table = Arc::clone(&self.setup.table);
        let (key, metrics) = (caller.clone(), Arc::clone(&self.setup.tools.metrics));
        let publish = Box::new(move |published| insert(&table, &metrics, key, published));
        let setup = session::Setup {
            caller: caller.clone(),
            tools: Arc::clone(&self.setup.tools),
            publish,
        };
        match Actor::spawn_linked(None, SessionActor, setup, myself.get_cell()).await {
            Ok((actor, _)) => {
                for message in messages {
                    let _ = actor.send_message(message);
                }
                self.callers.insert(actor.get_id(), caller.clone());
                self.look_later(caller.clone(), Instant::now());
                self.sessions.insert(
                    caller,
                    Session {
                        actor,
                        leaving: None,
                    },
                );
            }
            Err(error) => {
                tracing::error!(%error, "A caller session cannot be started");
                messages.into_iter().for_each(refuse);
            }
        }
    }

    /// A session has ended, as asked or by a failure.
    async fn ended(&mut self, myself: &ActorRef<Message>, cell: &ActorCell, failed: bool) {
        let Some(caller) = self.callers.remove(&cell.get_id()) else {
            return;
        };
        remove(&self.setup.table, &self.setup.tools.metrics, &caller);
        let session = self.sessions.remove(&caller);
        if session.as_ref().is_some_and(|s| s.leaving.is_some()) {
            self.leaving -= 1;
        }
        if failed {
            self.setup
                .tools
                .metrics
                .actor_restarts
                .get(ActorKind::Session)
                .increment(1);
            self.note_failure(&caller);
        }
        let waiting = session.and_then(|s| s.leaving).unwrap_or_default();
        if !waiting.is_empty() {
            self.admit(myself, caller, waiting).await;
        }
        while self.sessions.len() < self.setup.options.most
            && let Some((caller, messages)) = self.queued.pop_front()
        {
            self.admit(myself, caller, messages).await;
        }
    }

    fn note_failure(&mut self, caller: &CallerId) {
        let intensity = self
            .failures
            .entry(caller.clone())
            .or_insert_with(|| RestartIntensity::new(SESSION_FAILURES, Duration::from_secs(60)));
        if !intensity.permits(Instant::now()) {
            let shown = self.setup.tools.caller_ids.show(caller);
            tracing::error!("The session of {shown} keeps failing; it pauses");
            self.pausing
                .insert(caller.clone(), Instant::now() + SESSION_PAUSE);
            self.failures.remove(caller);
        }
    }

    fn look_later(&mut self, caller: CallerId, last_used: Instant) {
        // Sessions that failed leave theirs behind.
        if self.looks.len() > 2 * self.sessions.len() + MAX_WAITING {
            let mut seen: FxHashSet<CallerId> = FxHashSet::default();
            let sessions = &self.sessions;
            self.looks.retain(|look| {
                sessions.contains_key(&look.caller) && seen.insert(look.caller.clone())
            });
        }
        self.looks.push_back(Look {
            caller,
            queued_at: Instant::now(),
            due: last_used + self.setup.options.idle,
        });
    }

    /// When a session was last used; `None` if it is not there, or leaving.
    fn last_used(&self, caller: &CallerId) -> Option<Instant> {
        self.sessions
            .get(caller)
            .filter(|session| session.leaving.is_none())?;
        let table = self
            .setup
            .table
            .read()
            .unwrap_or_else(PoisonError::into_inner);
        // Still loading, it is in use.
        let published = table.get(caller).map(|published| published.last_used());
        Some(published.unwrap_or_else(Instant::now))
    }

    /// Lets idle sessions go, a bounded number at a time.
    fn sweep(&mut self, myself: &ActorRef<Message>) {
        let now = Instant::now();
        let idle = self.setup.options.idle;
        for _ in 0..LOOKS_PER_SWEEP {
            if self.looks.front().is_none_or(|look| look.due > now) {
                break;
            }
            let Some(look) = self.looks.pop_front() else {
                break;
            };
            match self.last_used(&look.caller) {
                Some(last_used) if last_used + idle <= now => self.let_go(myself, &look.caller),
                Some(last_used) => self.look_later(look.caller, last_used),
                None => {}
            }
        }
        if !self.queued.is_empty() {
            // Those who were asked before may have been busy.
            self.make_room(myself);
        }
        self.pausing.retain(|_, until| now < *until);
        if self.failures.len() > MAX_WAITING {
            self.failures.clear();
        }
    }

    /// Lets as many sessions go as callers wait for a place: those first that
    /// were not used since they were last looked at.
    fn make_room(&mut self, myself: &ActorRef<Message>) {
        let mut wanted = self.queued.len().saturating_sub(self.leaving);
        // Whatever was used is spared once, so that two rounds find one.
        let most = (2 * self.looks.len()).min(8 * LOOKS_PER_SWEEP);
        for _ in 0..most {
            if wanted == 0 {
                return;
            }
            let Some(look) = self.looks.pop_front() else {
                return;
            };
            match self.last_used(&look.caller) {
                Some(last_used) if last_used > look.queued_at => {
                    self.look_later(look.caller, last_used);
                }
                Some(_) => {
                    self.let_go(myself, &look.caller);
                    wanted -= 1;
                }
                None => {}
            }
        }
    }

    /// Asks a session to stop. Everything sent to it before comes before.
    fn let_go(&mut self, myself: &ActorRef<Message>, caller: &CallerId) {
        let Some(session) = self.sessions.get_mut(caller) else {
            return;
        };
        if session.leaving.is_none() {
            session.leaving = Some(Vec::new());
            self.leaving += 1;
        }
        let (refused, answer) = oneshot::channel();
        let (router, caller) = (myself.clone(), caller.clone());
        tokio::spawn(async move {
            // Dropped unanswered, it has stopped; the supervisor hears of that.
            if answer.await.is_ok() {
                let _ = router.send_message(Message::Refused(caller));
            }
        });
        let _ = session
            .actor
            .send_message(session::Message::Passivate { refused });
    }

    async fn refused(&mut self, myself: &ActorRef<Message>, caller: CallerId) {
        let waiting = self
            .sessions
            .get_mut(&caller)
            .and_then(|s| s.leaving.take());
        if waiting.is_some() {
            self.leaving -= 1;
            // It is in use, and looked at again.
            self.look_later(caller.clone(), Instant::now());
        }
        for message in waiting.unwrap_or_default() {
            self.deliver(myself, caller.clone(), message).await;
        }
    }
}

fn insert(table: &Table, metrics: &Metrics, caller: CallerId, published: Arc<Published>) {
    let mut table = table.write().unwrap_or_else(PoisonError::into_inner);
    if table.insert(caller, published).is_none() {
        metrics.sessions_active.increment(1.0);
    }
}

fn remove(table: &Table, metrics: &Metrics, caller: &CallerId) {
    let mut table = table.write().unwrap_or_else(PoisonError::into_inner);
    if table.remove(caller).is_some() {
        metrics.sessions_active.decrement(1.0);
    }
}

fn try_send(
    actor: &ActorRef<session::Message>,
    message: session::Message,
) -> Result<(), session::Message> {
    match actor.send_message(message) {
        Ok(()) => Ok(()),
        Err(ractor::MessagingErr::SendErr(message)) => Err(message),
        // Nothing to give back; what the message held is dropped, and a ticket
        // in it returns its event.
        Err(_) => Ok(()),
    }
}

/// Turns a message away: whoever waits for its reply sees it dropped, and an
/// event goes back to the inbox untried.
fn refuse(message: session::Message) {
    if let session::Message::Process(ticket) = message {
        ticket.hand_back();
    }
}
