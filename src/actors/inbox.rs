//! The inbox: hands each caller's events to its session, in order.
//!
//! Events are durable before the actor hears of them; it only decides when
//! each is worked on. It holds a window of the backlog, never all of it, and
//! has a lane for each stage, so that slow greetings do not hold up learning.
//!
//! Whoever works on an event holds its [`Ticket`]. A ticket that is dropped,
//! because its session panicked or was stopped, gives the event back.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use ractor::{Actor, ActorProcessingErr, ActorRef, SupervisionEvent};
use rustc_hash::FxHashMap;
use tokio::sync::oneshot;
use tokio::time::timeout;

use super::archiver::Archiver;
use super::backoff::Backoff;
use super::router::Sessions;
use super::slot::Slot;
use super::ticket::{RETRY, Returned, Ticket};
use crate::domain::caller_id::CallerId;
use crate::domain::ids::AgentId;
use crate::metric_definitions::{CallOutcome, Metrics};
use crate::store::{
    Accepted, Claimed, EventId, InboxEvent, Ledger, NewEvent, RetryCause, Settled, Settlement,
    Stage,
};
use crate::telemetry::CallerIdFormat;

/// Before a settlement that the ledger did not take is tried again.
const SETTLE_RETRY: Backoff = Backoff {
    base: Duration::from_millis(200),
    cap: Duration::from_secs(10),
};
/// How often the inbox looks for events whose retry has come due.
const TICK: Duration = Duration::from_millis(500);
/// Ticks between two measurements of the inbox.
const TICKS_PER_MEASUREMENT: u64 = 4;
/// Ticks between two prunings.
const TICKS_PER_PRUNING: u64 = 7_200;
/// How long finished events are remembered. ElevenLabs redelivers for 40
/// minutes; the memory store knows learned calls for ever.
const KEEP_FINISHED: SignedDuration = SignedDuration::from_hours(30 * 24);
/// Readiness: how long claiming may fail before the inbox counts as stuck.
const STUCK_AFTER: SignedDuration = SignedDuration::from_secs(15);
/// An event whose session failed this often while it held it is given up.
const MAX_CRASHES: u32 = 8;

/// Events of a stage that are worked on at a time.
fn window(stage: Stage) -> usize {
    match stage {
        Stage::Learn => 256,
        Stage::Greet => 128,
    }
}

/// The handle. Cheap to clone.
#[derive(Clone)]
pub struct Inbox {
    slot: Slot<Message>,
    ledger: Arc<dyn Ledger>,
    archiver: Archiver,
    /// Milliseconds since 1970 of the last look into the inbox that succeeded.
    last_look: Arc<AtomicI64>,
}

impl Inbox {
    pub(super) fn new(ledger: Arc<dyn Ledger>, archiver: Archiver) -> Self {
        let now = Timestamp::now().as_millisecond();
        Self {
            slot: Slot::default(),
            ledger,
            archiver,
            last_look: Arc::new(AtomicI64::new(now)),
        }
    }

    /// Takes an event. When this returns, the event is durable.
    ///
    /// # Errors
    /// If it cannot be stored now.
    pub async fn accept(&self, event: NewEvent) -> crate::store::Result<Accepted> {
        let accepted = self.ledger.accept(event).await?;
        if accepted == Accepted::New {
            self.slot.send(Message::Wake);
            self.archiver.wake();
        }
        Ok(accepted)
    }

    /// Gives a dead letter another chance. False if there is none with this id.
    ///
    /// # Errors
    /// If the ledger fails.
    pub async fn revive(&self, id: EventId) -> crate::store::Result<bool> {
        let revived = self.ledger.revive(id, Timestamp::now()).await?;
        self.slot.send(Message::Wake);
        Ok(revived)
    }

    /// Whether the inbox moves: it has looked for work lately.
    #[must_use]
    pub fn is_moving(&self) -> bool {
        let last = Timestamp::from_millisecond(self.last_look.load(Ordering::Relaxed));
        last.is_ok_and(|last| Timestamp::now().duration_since(last) < STUCK_AFTER)
    }

    /// Hands out no more events and waits until those under way are settled,
    /// but no longer than `limit`. What is not done by then is done after the
    /// next start.
    pub async fn drain(&self, limit: Duration) {
        let (reply, drained) = oneshot::channel();
        self.slot.send(Message::Drain(reply));
        let _ = timeout(limit, drained).await;
    }

    pub(super) fn slot(&self) -> &Slot<Message> {
        &self.slot
    }
}

pub(super) enum Message {
    /// There may be work.
    Wake,
    Tick,
    Claimed {
        stage: Stage,
        claimed: crate::store::Result<Claimed>,
    },
    /// A ticket has come back.
    Returned(Returned),
    Settled {
        event: Box<InboxEvent>,
        how: Settlement,
        settled: Settled,
    },
    Drain(oneshot::Sender<()>),
}

/// What the actor needs to (re)start.
#[derive(Clone)]
pub(super) struct Setup {
    pub inbox: Inbox,
    pub sessions: Sessions,
    /// Whether there is a model to make greetings.
    pub greetings: bool,
    pub metrics: Arc<Metrics>,
    /// How callers appear in logs.
    pub caller_ids: CallerIdFormat,
}

pub(super) struct InboxActor;

pub(super) struct State {
    setup: Setup,
    /// Handed out: with the caller and agent of greetings, of which one at a
    /// time is made.
    under_way: FxHashMap<EventId, (Stage, Option<(CallerId, AgentId)>)>,
    claiming: FxHashMap<Stage, Claiming>,
    ticks: u64,
    draining: bool,
    /// Who waits for the end of draining.
    drained: Option<oneshot::Sender<()>>,
}

/// A look into the inbox is under way.
#[derive(Clone, Copy, PartialEq)]
enum Claiming {
    Once,
    /// There was news meanwhile; look again.
    Again,
}

impl Actor for InboxActor {
    type Msg = Message;
    type State = State;
    type Arguments = Setup;

    async fn pre_start(
        &self,
        _: ActorRef<Message>,
        setup: Setup,
    ) -> Result<State, ActorProcessingErr> {
        Ok(State {
            setup,
            under_way: FxHashMap::default(),
            claiming: FxHashMap::default(),
            ticks: 0,
            draining: false,
            drained: None,
        })
    }

    async fn post_start(
        &self,
        myself: ActorRef<Message>,
        _: &mut State,
    ) -> Result<(), ActorProcessingErr> {
        myself.send_interval(TICK, || Message::Tick);
        myself.send_message(Message::Tick)?;
        Ok(())
    }

    async fn handle(
        &self,
        myself: ActorRef<Message>,
        message: Message,
        state: &mut State,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            Message::Wake => state.claim_all(&myself),
            Message::Tick => state.tick(&myself),
            Message::Claimed { stage, claimed } => state.claimed(&myself, stage, claimed),
            Message::Returned(Returned::Settled { event, how }) => {
                state.settle(&myself, event, how);
            }
            Message::Settled {
                event,
                how,
                settled,
            } => state.settled(&myself, &event, &how, &settled),
            // It is claimed again with the next tick, not at once: whoever
            // handed it back is still busy.
            Message::Returned(Returned::Untried(event)) => {
                state.under_way.remove(&event.id);
            }
            Message::Returned(Returned::Abandoned(event)) => state.abandoned(&myself, event),
            Message::Drain(reply) => {
                state.draining = true;
                state.drained = Some(reply);
            }
        }
        if state.under_way.is_empty()
            && let Some(reply) = state.drained.take()
        {
            let _ = reply.send(());
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
    fn tick(&mut self, myself: &ActorRef<Message>) {
        self.claim_all(myself);
        let ledger = Arc::clone(&self.setup.inbox.ledger);
        if self.ticks.is_multiple_of(TICKS_PER_MEASUREMENT) {
            let (ledger, metrics) = (Arc::clone(&ledger), Arc::clone(&self.setup.metrics));
            tokio::spawn(async move { measure(&*ledger, &metrics).await });
        }
        if self.ticks.is_multiple_of(TICKS_PER_PRUNING) {
            tokio::spawn(async move { prune(&*ledger).await });
        }
        self.ticks += 1;
    }

    fn claim_all(&mut self, myself: &ActorRef<Message>) {
        for stage in Stage::ALL {
            // Without a model greetings wait for a start with one.
            if stage != Stage::Greet || self.setup.greetings {
                self.claim(myself, stage);
            }
        }
    }

    fn claim(&mut self, myself: &ActorRef<Message>, stage: Stage) {
        if self.draining {
            return;
        }
        if let Some(claiming) = self.claiming.get_mut(&stage) {
            *claiming = Claiming::Again;
            return;
        }
        let busy: Vec<EventId> = self
            .under_way
            .iter()
            .filter(|(_, (s, _))| *s == stage)
            .map(|(id, _)| *id)
            .collect();
        let free = window(stage).saturating_sub(busy.len());
        if free == 0 {
            return;
        }
        self.claiming.insert(stage, Claiming::Once);
        let (ledger, myself) = (Arc::clone(&self.setup.inbox.ledger), myself.clone());
        tokio::spawn(async move {
            let claimed = ledger.claim(stage, Timestamp::now(), free, busy).await;
            let _ = myself.send_message(Message::Claimed { stage, claimed });
        });
    }

    fn claimed(
        &mut self,
        myself: &ActorRef<Message>,
        stage: Stage,
        claimed: crate::store::Result<Claimed>,
    ) {
        let again = self.claiming.remove(&stage) == Some(Claiming::Again);
        match claimed {
            Ok(Claimed { events, unreadable }) => {
                let now = Timestamp::now().as_millisecond();
                self.setup.inbox.last_look.store(now, Ordering::Relaxed);
                for event in events {
                    self.hand_out(event);
                }
                for (id, error) in unreadable {
                    self.bury(id, stage, error);
                }
                if again {
                    self.claim(myself, stage);
                }
            }
            // The next tick tries again.
            Err(error) => tracing::error!(%error, "The inbox cannot be read"),
        }
    }

    /// An event that cannot be read must not be looked at for ever.
    fn bury(&self, id: EventId, stage: Stage, error: String) {
        tracing::error!(event = %id, error, "An event of the inbox cannot be read; it is a dead letter");
        let ledger = Arc::clone(&self.setup.inbox.ledger);
        tokio::spawn(async move {
            // If this fails, the next look finds it again.
            let _ = ledger.settle(id, stage, Settlement::Dead { error }).await;
        });
    }

    fn hand_out(&mut self, event: InboxEvent) {
        if self.draining || self.under_way.contains_key(&event.id) {
            return;
        }
        let greeted = match (event.stage, &event.caller, &event.key.agent_id) {
            (Stage::Greet, Some(caller), Some(agent)) => Some((caller.clone(), agent.clone())),
            _ => None,
        };
        // Another call of this pair is being greeted; its end wakes us.
        let taken = greeted.is_some() && self.under_way.values().any(|(_, pair)| *pair == greeted);
        if taken {
            return;
        }
        self.under_way.insert(event.id, (event.stage, greeted));
        let caller = event.caller.clone();
        let slot = self.setup.inbox.slot.clone();
        let return_to = Arc::new(move |returned| {
            // Lost on the way, it is claimed again by the restarted inbox.
            slot.send(Message::Returned(returned));
        });
        let ticket = Ticket::new(Box::new(event), return_to, &self.setup.caller_ids);
        match caller {
            Some(caller) => self.setup.sessions.process(&caller, ticket),
            // Such events are never handed out: there is nothing to learn.
            None => ticket.settle(Settlement::Dead {
                error: "the event has no caller".into(),
            }),
        }
    }

    fn settle(&self, myself: &ActorRef<Message>, event: Box<InboxEvent>, how: Settlement) {
        let (ledger, myself) = (Arc::clone(&self.setup.inbox.ledger), myself.clone());
        tokio::spawn(async move {
            let mut failures = 0;
            // What was done is not done again because the ledger cannot be
            // written: a greeting that is paid for would be bought twice.
            let settled = loop {
                match ledger.settle(event.id, event.stage, how.clone()).await {
                    Ok(settled) => break settled,
                    Err(error) => {
                        tracing::error!(%error, event = %event.id, "The inbox cannot be written; it is tried again");
                    }
                }
                failures += 1;
                tokio::time::sleep(SETTLE_RETRY.delay(failures, rand::random())).await;
            };
            let _ = myself.send_message(Message::Settled {
                event,
                how,
                settled,
            });
        });
    }

    fn settled(
        &mut self,
        myself: &ActorRef<Message>,
        event: &InboxEvent,
        how: &Settlement,
        settled: &Settled,
    ) {
        self.under_way.remove(&event.id);
        self.count(event, how, settled);
        self.claim_all(myself);
    }

    fn count(&self, event: &InboxEvent, how: &Settlement, settled: &Settled) {
        let outcome = match how {
            Settlement::Retry { .. } => None,
            Settlement::Dead { .. } => Some(CallOutcome::DeadLetter),
            Settlement::Greeted => Some(CallOutcome::Greeted),
            Settlement::Learned if settled.next == Some(Stage::Greet) => None,
            Settlement::Learned => Some(CallOutcome::Learned),
        };
        let age = |received_at: Timestamp| {
            Timestamp::now()
                .duration_since(received_at)
                .as_secs_f64()
                .max(0.0)
        };
        let metrics = &self.setup.metrics;
        if let Some(outcome) = outcome {
            metrics
                .post_call
                .get(outcome)
                .record(age(event.received_at));
        }
        for received_at in &settled.superseded {
            metrics
                .post_call
                .get(CallOutcome::Superseded)
                .record(age(*received_at));
        }
    }

    fn abandoned(&self, myself: &ActorRef<Message>, event: Box<InboxEvent>) {
        let error = "the session stopped before it was done".to_owned();
        let how = if event.crashes + 1 >= MAX_CRASHES {
            tracing::error!(event = %event.id, "A post-call event is given up: its session failed again and again");
            Settlement::Dead { error }
        } else {
            Settlement::Retry {
                run_at: Timestamp::now() + RETRY.delay(event.attempts + 1, rand::random()),
                error,
                cause: RetryCause::Crash,
            }
        };
        self.settle(myself, event, how);
    }
}

async fn measure(ledger: &dyn Ledger, metrics: &Metrics) {
    match ledger.stats().await {
        Ok(stats) => {
            metrics.inbox_pending.set(stats.pending as f64);
            metrics.dead_letters.set(stats.dead_letters as f64);
            let age = stats
                .oldest
                .map_or(0.0, |t| Timestamp::now().duration_since(t).as_secs_f64());
            metrics.inbox_oldest_pending.set(age.max(0.0));
        }
        Err(error) => tracing::error!(%error, "The inbox cannot be measured"),
    }
}

async fn prune(ledger: &dyn Ledger) {
    let Ok(before) = Timestamp::now().checked_sub(KEEP_FINISHED) else {
        return;
    };
    loop {
        match ledger.prune(before).await {
            Ok(0) => return,
            Ok(_) => {}
            Err(error) => {
                tracing::warn!(%error, "Finished events could not be pruned");
                return;
            }
        }
    }
}
