//! The archive's own lane: writes the bodies of events to the archive, in
//! batches, beside learning and greeting, which never wait for it.
//!
//! A volume that fails or hangs stops this lane alone; bodies wait in the
//! ledger until it is back.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use ractor::{ActorProcessingErr, ActorRef};

use super::progress::{Beacon, Watched};
use super::slot::Slot;
use super::worker::Worker;
use crate::backoff::Backoff;
use crate::domain::ids::ConversationId;
use crate::metric_definitions::{CallOutcome, Metrics};
use crate::store::{Archive, EventId, LONGEST_PAUSE, Ledger, Unarchived};

/// How often the lane looks for bodies by itself.
const TICK: Duration = Duration::from_secs(1);
/// Most bodies in a batch: they become durable together.
const BATCH: usize = 256;
/// Most memory for a batch, in bytes, but for a single larger body.
const BATCH_BYTES: usize = 16 * 1024 * 1024;
/// How long a body waits that could not be written while others could.
const POSTPONE: Duration = LONGEST_PAUSE;
/// Batches in a row after which an event that is alone is put off, too.
const TRIES: u32 = 5;
/// How long the lane leaves a volume alone that takes nothing.
const PAUSE: Backoff = Backoff {
    base: Duration::from_millis(500),
    cap: Duration::from_secs(30),
};

/// How long the lane may have something to archive and archive nothing.
const PATIENCE: Duration = Duration::from_secs(60);

/// The handle. Cheap to clone.
#[derive(Clone, Default)]
pub(super) struct Archiver {
    slot: Slot<Message>,
    /// Busy while a batch is under way.
    progress: Beacon,
}

impl Archiver {
    /// There may be something to archive.
    pub fn wake(&self) {
        self.slot.send(Message::Wake);
    }

    pub fn slot(&self) -> &Slot<Message> {
        &self.slot
    }

    pub fn watched(&self) -> Watched {
        Watched {
            name: "archiving",
            beacon: self.progress.clone(),
            limit: PATIENCE,
            // No restart cures a volume that hangs.
            vital: false,
        }
    }
}

pub(super) enum Message {
    Wake,
    /// A batch has ended.
    Ended(Batch),
}

/// How a batch ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Batch {
    /// There was nothing more to do.
    Last,
    /// There may be more.
    More,
    /// Nothing could be read or written.
    Failed,
}

/// What the actor needs to (re)start.
#[derive(Clone)]
pub(super) struct Setup {
    pub archiver: Archiver,
    pub ledger: Arc<dyn Ledger>,
    pub archive: Archive,
    pub metrics: Arc<Metrics>,
}

pub(super) struct ArchiverActor {
    setup: Setup,
    /// A batch, or the pause after one that failed, is under way.
    busy: bool,
    /// There was news meanwhile.
    again: bool,
    failures: u32,
}

impl Worker for ArchiverActor {
    type Message = Message;
    type Setup = Setup;

    fn start(setup: Setup, myself: &ActorRef<Message>) -> Self {
        myself.send_interval(TICK, || Message::Wake);
        let _ = myself.send_message(Message::Wake);
        Self {
            setup,
            busy: false,
            again: false,
            failures: 0,
        }
    }

    async fn handle(
        &mut self,
        myself: &ActorRef<Message>,
        message: Message,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            Message::Wake if self.busy => self.again = true,
            Message::Wake => self.batch(myself, Duration::ZERO),
            Message::Ended(batch) => self.ended(myself, batch),
        }
        Ok(())
    }
}

impl ArchiverActor {
    fn batch(&mut self, myself: &ActorRef<Message>, pause: Duration) {
        (self.busy, self.again) = (true, false);
        let (setup, myself) = (self.setup.clone(), myself.clone());
        let failures = self.failures;
        tokio::spawn(async move {
            tokio::time::sleep(pause).await;
            // A task of its own, so that a panic is heard of.
            let batch = tokio::spawn(async move { setup.batch(failures).await });
            let ended = batch.await.unwrap_or(Batch::Failed);
            let _ = myself.send_message(Message::Ended(ended));
        });
    }

    fn ended(&mut self, myself: &ActorRef<Message>, batch: Batch) {
        self.busy = false;
        let progress = &self.setup.archiver.progress;
        match batch {
            Batch::Last => progress.idle(),
            Batch::More => progress.busy(),
            Batch::Failed => progress.still_busy(),
        }
        self.failures = match batch {
            Batch::Failed => self.failures + 1,
            Batch::Last | Batch::More => 0,
        };
        if batch == Batch::Failed {
            let pause = PAUSE.delay(self.failures, rand::random());
            self.batch(myself, pause);
        } else if batch == Batch::More || self.again {
            self.batch(myself, Duration::ZERO);
        }
    }
}

impl Setup {
    /// `failures`: batches before this one that failed.
    async fn batch(&self, failures: u32) -> Batch {
        let turn = match self.archive.begin_batch().await {
            Ok(turn) => turn,
            Err(error) => {
                tracing::error!(%error, "Post-call events cannot be archived");
                return Batch::Failed;
            }
        };
        let due = self
            .ledger
            .to_archive(Timestamp::now(), BATCH, BATCH_BYTES)
            .await;
        let due = match due {
            Ok(due) if due.is_empty() => return Batch::Last,
            Ok(due) => due,
            Err(error) => {
                tracing::error!(%error, "What is to be archived cannot be read");
                return Batch::Failed;
            }
        };
        let bodies = due.iter().map(|e| (e.key.clone(), e.payload.clone()));
        let results = match self.archive.store_all(bodies.collect(), turn).await {
            Ok(results) => results,
            Err(error) => {
                tracing::error!(%error, "Post-call events cannot be archived");
                return Batch::Failed;
            }
        };
        let (mut written, mut refused) = (Vec::new(), Vec::new());
        for (event, result) in due.iter().zip(results) {
            match result {
                Ok(()) => written.push(event),
                Err(error) => {
                    tracing::error!(%error, event = %event.id, "A post-call event cannot be archived");
                    refused.push(event.id);
                }
            }
        }
        let ids: Vec<EventId> = written.iter().map(|event| event.id).collect();
        // Those that others show to be at fault themselves; else it is the archive,
        // but a large one that is alone must not keep the others out for good.
        let at_fault = !written.is_empty() || (due.len() == 1 && failures >= TRIES);
        let later = if at_fault { POSTPONE } else { Duration::ZERO };
        let later = Timestamp::now() + later;
        let noted = tokio::try_join!(
            self.ledger.archived(ids),
            self.ledger.archive_later(refused, later)
        );
        let gone = match noted {
            Ok((written, refused)) => [written, refused].concat(),
            Err(error) => {
                // What is written is written again, with the same content.
                tracing::error!(%error, "The inbox cannot be written; events will be archived again");
                return Batch::Failed;
            }
        };
        // What was refused may be there as well: an answer can be lost.
        self.remove_erased(&due, &gone).await;
        self.count(&written);
        if written.is_empty() {
            Batch::Failed
        } else {
            Batch::More
        }
    }

    /// Of calls that another instance has erased meanwhile nothing stays.
    async fn remove_erased(&self, due: &[Unarchived], gone: &[EventId]) {
        let erased = due.iter().filter(|event| gone.contains(&event.id));
        let erased: Vec<ConversationId> = erased
            .map(|event| event.key.conversation_id.clone())
            .collect();
        if !erased.is_empty()
            && let Err(error) = self.archive.remove(erased).await
        {
            tracing::error!(%error, "Files of an erased call cannot be removed yet");
        }
    }

    /// Events with a caller are counted when they are learned or greeted.
    fn count(&self, written: &[&Unarchived]) {
        for event in written.iter().filter(|event| !event.has_caller) {
            let age = Timestamp::now().duration_since(event.received_at);
            self.metrics
                .post_call
                .get(CallOutcome::Archived)
                .record(age.as_secs_f64().max(0.0));
        }
    }
}
