//! Nothing is kept longer than it has to be: finished events, dead letters,
//! transcripts and memories go when they are old enough.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use jiff::{SignedDuration, Timestamp};
use ractor::{ActorProcessingErr, ActorRef};
use tokio::task::JoinHandle;

use super::router::Sessions;
use super::worker::Worker;
use crate::store::{Archive, Ledger, MemoryStore, VectorStore};

/// Between two rounds.
const ROUND: Duration = Duration::from_secs(60 * 60);
/// Between two portions of a round, so that rings and calls come in between.
const PAUSE: Duration = Duration::from_millis(50);
/// How long finished events are remembered. ElevenLabs redelivers for 40
/// minutes; the memory store knows learned calls for ever.
const FINISHED: Duration = Duration::from_secs(30 * 24 * 3600);

/// How long things are kept; `None` keeps all.
#[derive(Debug, Clone, Copy, Default)]
pub struct Retention {
    /// Transcripts and recordings in the archive.
    pub payloads: Option<Duration>,
    /// What callers said, and the facts collected. The tiers stay.
    pub memories: Option<Duration>,
    pub dead_letters: Option<Duration>,
}

/// Time for a round.
pub(super) struct Message;

/// What the actor needs to (re)start.
#[derive(Clone)]
pub(super) struct Setup {
    pub retention: Retention,
    pub ledger: Arc<dyn Ledger>,
    pub store: Arc<dyn MemoryStore>,
    pub archive: Archive,
    pub sessions: Sessions,
    /// Vectors go with their memories, also when no more are made.
    pub vectors: Arc<dyn VectorStore>,
}

pub(super) struct RetentionActor {
    setup: Setup,
    round: Option<JoinHandle<()>>,
}

impl Worker for RetentionActor {
    type Message = Message;
    type Setup = Setup;

    fn start(setup: Setup, myself: &ActorRef<Message>) -> Self {
        myself.send_interval(ROUND, || Message);
        let _ = myself.send_message(Message);
        Self { setup, round: None }
    }

    async fn handle(
        &mut self,
        _: &ActorRef<Message>,
        Message: Message,
    ) -> std::result::Result<(), ActorProcessingErr> {
        // A round that takes longer than an hour is not doubled.
        if self.round.as_ref().is_none_or(JoinHandle::is_finished) {
            let setup = self.setup.clone();
            self.round = Some(tokio::spawn(async move { setup.round().await }));
        }
        Ok(())
    }
}

/// What is removed, if it is older than this.
#[derive(Clone, Copy)]
enum Old {
    Events(Timestamp),
    DeadLetters(Timestamp),
    Memories(Timestamp),
    Files(SystemTime),
}

impl Old {
    fn name(self) -> &'static str {
        match self {
            Self::Events(_) => "finished events",
            Self::DeadLetters(_) => "dead letters",
            Self::Memories(_) => "memories",
            Self::Files(_) => "files of the archive",
        }
    }
}

impl Setup {
    async fn round(&self) {
        let Retention {
            payloads,
            memories,
            dead_letters,
        } = self.retention;
        if !self.ledger.leads("retention").await.unwrap_or(false) {
            return;
        }
        let files = payloads.and_then(|keep| SystemTime::now().checked_sub(keep));
        let all = [
            ago(FINISHED).map(Old::Events),
            dead_letters.and_then(ago).map(Old::DeadLetters),
            memories.and_then(ago).map(Old::Memories),
            files.map(Old::Files),
        ];
        for old in all.into_iter().flatten() {
            self.expire(old).await;
        }
    }

    /// Removes portions until none is left.
    async fn expire(&self, old: Old) {
        let (what, mut gone) = (old.name(), 0);
        loop {
            let portion = match old {
                Old::Events(before) => self.ledger.prune(before).await,
                Old::DeadLetters(before) => self.ledger.expire_dead_letters(before).await,
                Old::Memories(before) => self.store.expire_memories(before).await,
                Old::Files(before) => self.archive.expire(before).await,
            };
            match portion {
                Ok(0) => break,
                Ok(some) => gone += some,
                Err(error) => {
                    tracing::warn!(%error, "Old {what} could not be removed");
                    break;
                }
            }
            tokio::time::sleep(PAUSE).await;
        }
        if let Old::Memories(before) = old
            && let Err(error) = self.vectors.expire(before).await
        {
            tracing::warn!(%error, "Vectors of old memories could not be removed");
        }
        if gone > 0 {
            tracing::info!("{gone} old {what} were removed");
            if matches!(old, Old::Memories(_)) {
                // What is searchable still holds them.
                self.sessions.forget_indexes();
            }
        }
    }
}

fn ago(keep: Duration) -> Option<Timestamp> {
    let keep = SignedDuration::try_from(keep).ok()?;
    Timestamp::now().checked_sub(keep).ok()
}
