//! Makes the vectors that memories lack: one caller after the other, one batch
//! at a time, within the limits of requests and tokens.

use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::{SignedDuration, Timestamp};
use ractor::{ActorProcessingErr, ActorRef};
use rustc_hash::FxHashSet;
use tokio::time::sleep;
use tokio_util::task::AbortOnDropHandle;

use super::{MemoryVectors, Shared};
use crate::actors::router::Sessions;
use crate::actors::worker::Worker;
use crate::clients::{OpenAiError, TextRole};
use crate::domain::ids::ConversationId;
use crate::domain::memory::{Memory, MemoryVector};
use crate::domain::search::MAX_INDEXED;
use crate::domain::vector::Vector;
use crate::store::{Ledger, MemoryStore, StoreError, Urgency, WantingCaller};

/// Looks for work so often, if nobody says that there is some.
const ROUND: Duration = Duration::from_secs(2);
/// Memories embedded with one request: a question that comes meanwhile waits for
/// no more than that, where the model does one thing after the other.
const BATCH: usize = 16;
/// Batches of one caller before the others have a turn.
const MAX_BATCHES: usize = 64;
/// So many callers in a row whose memories cannot be read are the store's fault:
/// the round ends.
const MAX_UNREAD: u32 = 5;
/// What any model takes, to tell a text that is refused from a service that
/// refuses all.
const PROBE: &str = "When is the delivery?";
/// Callers queued at once, when all are.
const PORTION: usize = 1_000;
/// A caller whose memories cannot be read now comes again after this.
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
    /// The caller's memories cannot be read.
    Memories(StoreError),
    /// The queue's own database fails.
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

    /// Works until the queue is empty, or the service or the store cannot be had.
    async fn round(&self) -> Result<(), StoreError> {
        let shared = self.shared();
        if !self.ledger.leads("vectors").await? {
            return Ok(());
        }
        if shared.store.kind().await?.as_ref() != Some(&shared.kind) {
            self.queue_everybody().await?;
        }
        let mut unread = 0;
        let mut counted = Instant::now();
        while let Some(wanting) = shared.store.next(Timestamp::now()).await? {
            match self.make(&wanting).await {
                Ok(true) => shared.store.done(&wanting).await?,
                // The others come first.
                Ok(false) => shared.store.postpone(&wanting, Timestamp::now()).await?,
                Err(Failure::Gone) => {}
                Err(Failure::Memories(error)) => {
                    tracing::warn!(%error, "A caller's memories cannot be read to be embedded");
                    shared.store.postpone(&wanting, later()).await?;
                    unread += 1;
                    if unread >= MAX_UNREAD {
                        break;
                    }
                    continue;
                }
                Err(Failure::Store(error)) => return Err(error),
                Err(Failure::Service(error)) => {
                    tracing::warn!(%error, "Memories cannot be embedded now; they wait");
                    if !is_passing(&error) {
                        shared.pause();
                    }
                    break;
                }
            }
            unread = 0;
            if counted.elapsed() > ROUND {
                self.count().await?;
                counted = Instant::now();
            }
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
            shared
                .store
                .want(portion.to_vec(), Urgency::Sometime)
                .await?;
        }
        shared.store.set_kind(&shared.kind).await
    }

    /// Makes some of what one caller lacks, the newest first; true if that was all.
    async fn make(&self, wanting: &WantingCaller) -> Result<bool, Failure> {
        let shared = self.shared();
        let caller = &wanting.caller;
        let memories = self.store.memories(caller, MAX_INDEXED).await;
        let memories = memories.map_err(Failure::Memories)?;
        let there = shared.store.embedded(caller, &shared.kind).await?;
        let there: FxHashSet<(ConversationId, u32)> = there.into_iter().collect();
        let lacks = |m: &&Memory| !there.contains(&(m.conversation_id.clone(), m.ordinal));
        let lacking: Vec<&Memory> = memories.iter().rev().filter(lacks).collect();
        let mut batches = lacking.chunks(BATCH);
        for batch in batches.by_ref().take(MAX_BATCHES) {
            let made = self.embed(batch).await?;
            let kept = shared.store.keep(wanting, &shared.kind, made.clone());
            if !kept.await? {
                return Err(Failure::Gone);
            }
            self.sessions.attach(caller, made).await;
        }
        Ok(batches.next().is_none())
    }

    /// The vectors of some memories. Of a batch that the service does not take, or
    /// answers with nonsense, each memory is tried for itself. What is not taken
    /// then has no vector; but a service that takes nothing at all is out of order.
    async fn embed(&self, memories: &[&Memory]) -> Result<Vec<MemoryVector>, Failure> {
        let passages: Vec<String> = memories.iter().map(|m| m.passage()).collect();
        let error = match self.request(&passages).await {
            Ok(vectors) => {
                let made = memories.iter().zip(vectors);
                return Ok(made.map(|(m, v)| MemoryVector::of(m, v)).collect());
            }
            Err(error) if is_of_content(&error) => error,
            Err(error) => return Err(Failure::Service(error)),
        };
        let mut made = Vec::new();
        if passages.len() > 1 {
            for (memory, passage) in memories.iter().zip(&passages) {
                match self.request(std::slice::from_ref(passage)).await {
                    Ok(one) => made.extend(one.into_iter().map(|v| MemoryVector::of(memory, v))),
                    Err(error) if is_of_content(&error) => {}
                    Err(error) => return Err(Failure::Service(error)),
                }
            }
        }
        let takes_nothing = made.is_empty() && self.request(&[PROBE.to_owned()]).await.is_err();
        if takes_nothing {
            self.shared().pause();
            return Err(Failure::Service(error));
        }
        Ok(made)
    }

    /// One request, when the service and the limits let it pass.
    async fn request(&self, passages: &[String]) -> Result<Vec<Vector>, OpenAiError> {
        let shared = self.shared();
        let chars: usize = passages.iter().map(|p| p.chars().count()).sum();
        let tokens = u32::try_from(chars / CHARS_PER_TOKEN).unwrap_or(u32::MAX);
        {
            let mut budget = shared.budget.lock().await;
            budget.take(tokens).await;
            budget.spend(tokens);
        }
        while let Err(wait) = shared.admit() {
            sleep(wait).await;
        }
        let texts: Vec<&str> = passages.iter().map(String::as_str).collect();
        let embedded = shared.embed(&texts, TextRole::Passage).await;
        embedded.map(|embedded| embedded.vectors)
    }
}

/// Whether other texts may be taken where these are not.
fn is_of_content(error: &OpenAiError) -> bool {
    matches!(
        error,
        OpenAiError::Refused {
            status: 400 | 413 | 422,
            ..
        } | OpenAiError::Unusable(_)
    )
}

/// Whether it may be over in a moment: a wrong key or address is not.
fn is_passing(error: &OpenAiError) -> bool {
    matches!(
        error,
        OpenAiError::Server { .. }
            | OpenAiError::RateLimited { .. }
            | OpenAiError::Timeout
            | OpenAiError::Network(_)
    )
}

fn later() -> Timestamp {
    let later = Timestamp::now().saturating_add(PUT_OFF);
    later.unwrap_or(Timestamp::MAX)
}
