//! The inbox: takes events in, and hands each out when its turn comes.
//!
//! Events are durable before the actor hears of them; it only decides when
//! each is worked on. It holds a window of the backlog, never all of it: as
//! many events as the [`Lanes`] have room for. What happens to an event then
//! is in [`pipeline`](super::pipeline).

mod intake;

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use jiff::{SignedDuration, Timestamp};
use ractor::{ActorProcessingErr, ActorRef};
use rustc_hash::FxHashMap;
use strum::IntoEnumIterator;
use tokio::time::timeout;

use super::archiver::Archiver;
use super::lanes::Lanes;
use super::parsed_calls::ParsedCalls;
use super::pipeline::Pipeline;
use super::slot::Slot;
use super::worker::Worker;
use crate::metric_definitions::Metrics;
use crate::store::{Claim, Claimed, DeadLetter, EventId, Ledger, Settlement, Stage, StoreError};

pub(super) use intake::Intake;
pub use intake::{Delivery, Receipt, Recording};

/// How often the inbox looks for events whose retry has come due.
const TICK: Duration = Duration::from_millis(500);
/// Ticks between two measurements of the inbox.
const TICKS_PER_MEASUREMENT: u64 = 4;
/// Readiness: how long claiming may fail before the inbox counts as stuck.
const STUCK_AFTER: SignedDuration = SignedDuration::from_secs(15);
/// Longest wait for a look.
const LONGEST_LOOK: Duration = Duration::from_secs(10);
/// Most dead letters listed.
const MAX_DEAD_LETTERS: usize = 1_000;

/// The handle. Cheap to clone.
#[derive(Clone)]
pub struct Inbox {
    slot: Slot<Message>,
    ledger: Arc<dyn Ledger>,
    intake: Arc<Intake>,
    lanes: Lanes,
    calls: ParsedCalls,
    archiver: Archiver,
    /// Milliseconds since 1970 of the last look into the inbox that succeeded.
    last_look: Arc<AtomicI64>,
}

impl Inbox {
    pub(super) fn new(
        ledger: Arc<dyn Ledger>,
        intake: Intake,
        calls: ParsedCalls,
        archiver: Archiver,
    ) -> Self {
        let now = Timestamp::now().as_millisecond();
        let slot: Slot<Message> = Slot::default();
        let freed = slot.clone();
        Self {
            slot,
            ledger,
            intake: Arc::new(intake),
            lanes: Lanes::new(move || {
                freed.send(Message::Wake);
            }),
            calls,
            archiver,
            last_look: Arc::new(AtomicI64::new(now)),
        }
    }

    /// A new event is durable.
    fn news(&self) {
        self.slot.send(Message::Wake);
        self.archiver.wake();
    }

    /// What was given up or never understood, newest first.
    ///
    /// # Errors
    /// If the ledger fails.
    pub async fn dead_letters(&self) -> crate::store::Result<Vec<DeadLetter>> {
        self.ledger.dead_letters(MAX_DEAD_LETTERS).await
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

    /// A dead letter with its body. `None` if there is none with this id.
    ///
    /// # Errors
    /// If the ledger fails.
    pub async fn dead_letter(
        &self,
        id: EventId,
    ) -> crate::store::Result<Option<(DeadLetter, Bytes)>> {
        self.ledger.dead_letter(id).await
    }

    /// Drops a dead letter for good. False if there is none with this id.
    ///
    /// # Errors
    /// If the ledger fails.
    pub async fn discard(&self, id: EventId) -> crate::store::Result<bool> {
        self.ledger.discard(id).await
    }

    /// Whether the inbox moves: it has looked for work lately.
    pub(super) fn is_moving(&self) -> bool {
        let last = Timestamp::from_millisecond(self.last_look.load(Ordering::Relaxed));
        last.is_ok_and(|last| Timestamp::now().duration_since(last) < STUCK_AFTER)
    }

    /// Hands out no more events and waits until those under way are settled,
    /// but no longer than `limit`. What is not done by then is done after the
    /// next start.
    pub(super) async fn drain(&self, limit: Duration) {
        let _ = timeout(limit, self.lanes.drain()).await;
    }

    pub(super) fn slot(&self) -> &Slot<Message> {
        &self.slot
    }

    pub(super) fn lanes(&self) -> &Lanes {
        &self.lanes
    }
}

pub(super) enum Message {
    /// There may be work, or a place for it.
    Wake,
    Tick,
    Claimed {
        stage: Stage,
        claimed: crate::store::Result<Claimed>,
    },
}

/// What the actor needs to (re)start.
#[derive(Clone)]
pub(super) struct Setup {
    pub inbox: Inbox,
    pub pipeline: Arc<Pipeline>,
    pub metrics: Arc<Metrics>,
}

pub(super) struct InboxActor {
    setup: Setup,
    claiming: FxHashMap<Stage, Claiming>,
    ticks: u64,
}

/// A look into the inbox is under way.
#[derive(Clone, Copy, PartialEq)]
enum Claiming {
    Once,
    /// There was news meanwhile; look again.
    Again,
}

impl Worker for InboxActor {
    type Message = Message;
    type Setup = Setup;

    fn start(setup: Setup, myself: &ActorRef<Message>) -> Self {
        myself.send_interval(TICK, || Message::Tick);
        let _ = myself.send_message(Message::Tick);
        Self {
            setup,
            claiming: FxHashMap::default(),
            ticks: 0,
        }
    }

    async fn handle(
        &mut self,
        myself: &ActorRef<Message>,
        message: Message,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            Message::Wake => self.claim_all(myself),
            Message::Tick => self.tick(myself),
            Message::Claimed { stage, claimed } => self.claimed(myself, stage, claimed),
        }
        Ok(())
    }
}

impl InboxActor {
    fn tick(&mut self, myself: &ActorRef<Message>) {
        self.claim_all(myself);
        let ledger = &self.setup.inbox.ledger;
        if self.ticks.is_multiple_of(TICKS_PER_MEASUREMENT) {
            let (ledger, metrics) = (Arc::clone(ledger), Arc::clone(&self.setup.metrics));
            tokio::spawn(async move { measure(&*ledger, &metrics).await });
        }
        self.ticks += 1;
    }

    fn claim_all(&mut self, myself: &ActorRef<Message>) {
        for stage in Stage::iter() {
            // Without a model greetings wait for a start with one.
            if stage != Stage::Greet || self.setup.inbox.intake.greetings {
                self.claim(myself, stage);
            }
        }
    }

    fn claim(&mut self, myself: &ActorRef<Message>, stage: Stage) {
        if let Some(claiming) = self.claiming.get_mut(&stage) {
            *claiming = Claiming::Again;
            return;
        }
        let (busy, free) = self.setup.inbox.lanes.room(stage);
        if free == 0 {
            return;
        }
        self.claiming.insert(stage, Claiming::Once);
        let (ledger, myself) = (Arc::clone(&self.setup.inbox.ledger), myself.clone());
        tokio::spawn(async move {
            // What a claim that came too late has taken is found by the next.
            let claimed = ledger.claim(stage, Timestamp::now(), free, busy);
            let claimed = timeout(LONGEST_LOOK, claimed)
                .await
                .unwrap_or_else(|_| Err(StoreError::Unavailable("no answer in time".into())));
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
        // It has looked, even if in vain: no restart brings a database back.
        let now = Timestamp::now().as_millisecond();
        self.setup.inbox.last_look.store(now, Ordering::Relaxed);
        match claimed {
            Ok(Claimed { events, unreadable }) => {
                let inbox = &self.setup.inbox;
                for event in events {
                    if let Some(lease) = inbox.lanes.take(event) {
                        let pipeline = Arc::clone(&self.setup.pipeline);
                        tokio::spawn(async move { pipeline.run(lease).await });
                    }
                }
                for (claim, error) in unreadable {
                    self.bury(claim, error);
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
    fn bury(&self, claim: Claim, error: String) {
        tracing::error!(event = %claim.id, error, "An event of the inbox cannot be read; it is a dead letter");
        let ledger = Arc::clone(&self.setup.inbox.ledger);
        tokio::spawn(async move {
            // If this fails, the next look finds it again.
            let _ = ledger.settle(claim, Settlement::Dead { error }).await;
        });
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
