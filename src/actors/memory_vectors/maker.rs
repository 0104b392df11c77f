//! Makes the vectors that memories lack: one caller after the other, one batch
//! at a time, within the limits of requests and tokens.

use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use ractor::{ActorProcessingErr, ActorRef};
use rustc_hash::FxHashSet;
use tokio::time::sleep;
use tokio_util::task::AbortOnDropHandle;

use super::{MemoryVectors, Shared};
use crate::actors::router::Sessions;
use crate::actors::worker::Worker;
use crate::clients::{OpenAiError, TextRole};
use crate::domain::memory::{Memory, MemoryVector};
use crate::domain::search::MAX_INDEXED;
use crate::domain::vector::Vector;
use crate::store::{Ledger, MemoryStore, StoreError, WantingCaller};

/// Looks for work so often, if nobody says that there is some.
const ROUND: Duration = Duration::from_secs(2);
/// Memories embedded with one request.
const BATCH: usize = 64;
/// Callers queued at once, when all are.
const PORTION: usize = 1_000;
/// A caller whose memories cannot be embedded now comes again after this.
const PUT_OFF: SignedDuration = SignedDuration::from_secs(60);
/// A token has about so many characters; less of them cost more than was reckoned.
const CHARS_PER_TOKEN: usize = 3;

/// There may be work.
pub(in crate::actors) struct Message;

/// What the actor needs to (re)start.
#[derive(Clone)]
pub(in crate::actors) struct Setup {
    pub vectors: MemoryVectors,
    pub ledger: Arc<dyn Ledger>,
    pub store: Arc<dyn MemoryStore>,
    pub sessions: Sessions,
}

pub(in crate::actors) struct MakerActor {
    setup: Setup,
    /// Ends with the actor.
    round: Option<AbortOnDropHandle<()>>,
}

/// Why a caller's vectors were not made.
enum Failure {
    /// The service cannot be had now: nobody's vectors can be made.
    Service(OpenAiError),
    /// Its answers for this caller cannot be used.
    Caller(OpenAiError),
    Store(StoreError),
    /// The caller was erased meanwhile.
    Gone,
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

impl Worker for MakerActor {
    type Message = Message;
    type Setup = Setup;

    fn start(setup: Setup, myself: &ActorRef<Message>) -> Self {
        myself.send_interval(ROUND, || Message);
        Self { setup, round: None }
    }

    async fn handle(
        &mut self,
        _: &ActorRef<Message>,
        Message: Message,
    ) -> Result<(), ActorProcessingErr> {
        if self
            .round
            .as_ref()
            .is_none_or(AbortOnDropHandle::is_finished)
        {
            let setup = self.setup.clone();
            self.round = Some(AbortOnDropHandle::new(tokio::spawn(async move {
                if let Err(error) = setup.round().await {
                    tracing::warn!(%error, "Vectors of memories cannot be made now");
                }
            })));
        }
        Ok(())
    }
}

impl Setup {
    fn shared(&self) -> &Shared {
        &self.vectors.shared
    }

    /// Works until the queue is empty, or the service cannot be had.
    async fn round(&self) -> Result<(), StoreError> {
        let shared = self.shared();
        if !self.ledger.leads("vectors").await? {
            return Ok(());
        }
        if shared.store.kind().await?.as_ref() != Some(&shared.kind) {
            self.queue_everybody().await?;
        }
        while let Some(wanting) = shared.store.next(Timestamp::now()).await? {
            match self.make(&wanting).await {
                Ok(()) => shared.store.done(&wanting).await?,
                Err(Failure::Gone) => {}
                Err(Failure::Store(error)) => return Err(error),
                Err(Failure::Caller(error)) => {
                    tracing::warn!(%error, "A caller's memories cannot be embedded");
                    let later = Timestamp::now().saturating_add(PUT_OFF);
                    shared
                        .store
                        .postpone(&wanting, later.unwrap_or(Timestamp::MAX))
                        .await?;
                }
                Err(Failure::Service(error)) => {
                    tracing::warn!(%error, "Memories cannot be embedded now; they wait");
                    break;
                }
            }
            self.count().await?;
        }
        self.count().await
    }

    async fn count(&self) -> Result<(), StoreError> {
        let waiting = self.shared().store.waiting().await?;
        let waiting = u32::try_from(waiting).unwrap_or(u32::MAX);
        self.shared()
            .metrics
            .vectors_waiting
            .set(f64::from(waiting));
        Ok(())
    }

    /// The model is another than the one whose vectors there are, or the first.
    async fn queue_everybody(&self) -> Result<(), StoreError> {
        let shared = self.shared();
        let callers = self.store.callers().await?;
        tracing::info!(
            "The memories of {} callers are embedded with {}",
            callers.len(),
            shared.kind
        );
        for portion in callers.chunks(PORTION) {
            shared.store.want(portion.to_vec()).await?;
        }
        shared.store.set_kind(&shared.kind).await
    }

    /// Makes what one caller lacks, the newest first.
    async fn make(&self, wanting: &WantingCaller) -> Result<(), Failure> {
        let shared = self.shared();
        let caller = &wanting.caller;
        let memories = self.store.memories(caller, MAX_INDEXED).await?;
        let there = shared.store.vectors(caller, &shared.kind).await?;
        let there: FxHashSet<(&str, u32)> = there
            .iter()
            .map(|v| (v.conversation_id.as_str(), v.ordinal))
            .collect();
        let lacking: Vec<&Memory> = memories
            .iter()
            .rev()
            .filter(|m| !there.contains(&(m.conversation_id.as_str(), m.ordinal)))
            .collect();
        for batch in lacking.chunks(BATCH) {
            let made = self.embed(batch).await?;
            if !shared
                .store
                .keep(wanting, &shared.kind, made.clone())
                .await?
            {
                return Err(Failure::Gone);
            }
            self.sessions.attach(caller, made).await;
        }
        Ok(())
    }

    /// The vectors of some memories. Of a batch that is refused for its content,
    /// each memory is tried for itself, and what is refused then has no vector.
    async fn embed(&self, memories: &[&Memory]) -> Result<Vec<MemoryVector>, Failure> {
        let passages: Vec<String> = memories.iter().map(|m| m.passage()).collect();
        let made = match self.request(&passages).await {
            Err(Failure::Caller(OpenAiError::Refused { .. })) if passages.len() > 1 => {
                let mut made = Vec::new();
                for (memory, passage) in memories.iter().zip(&passages) {
                    match self.request(std::slice::from_ref(passage)).await {
                        Ok(one) => {
                            made.extend(one.into_iter().map(|v| MemoryVector::of(memory, v)))
                        }
                        Err(Failure::Caller(OpenAiError::Refused { .. })) => {}
                        Err(other) => return Err(other),
                    }
                }
                return Ok(made);
            }
            Err(Failure::Caller(OpenAiError::Refused { .. })) => Vec::new(),
            other => other?,
        };
        let made = memories.iter().zip(made);
        Ok(made
            .map(|(memory, vector)| MemoryVector::of(memory, vector))
            .collect())
    }

    async fn request(&self, passages: &[String]) -> Result<Vec<Vector>, Failure> {
        let shared = self.shared();
        while let Some(wait) = shared.must_wait() {
            sleep(wait).await;
        }
        let chars: usize = passages.iter().map(|p| p.chars().count()).sum();
        let tokens = u32::try_from(chars / CHARS_PER_TOKEN).unwrap_or(u32::MAX);
        {
            let mut budget = shared.budget.lock().await;
            budget.take(tokens).await;
            budget.spend(tokens);
        }
        let texts: Vec<&str> = passages.iter().map(String::as_str).collect();
        let embedded = shared.embed(&texts, TextRole::Passage).await;
        embedded.map(|e| e.vectors).map_err(|error| match error {
            OpenAiError::Refused {
                status: 400 | 413 | 422,
                ..
            }
            | OpenAiError::Unusable(_) => Failure::Caller(error),
            _ => Failure::Service(error),
        })
    }
}
