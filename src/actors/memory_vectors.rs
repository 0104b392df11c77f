//! What memories mean: vectors of an embeddings model, where one is configured.
//!
//! - [`MemoryVectors`] is the handle. A session [notes](MemoryVectors::want) in
//!   the same change in which it learns a call that its caller lacks vectors; a
//!   search asks for the vector of its question, and does without when that
//!   takes too long.
//! - The [actor](maker) makes what is lacking, after the calls: the queue is in
//!   the database, so a restart, an outage and another model are all one case.

mod maker;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};
use tokio::sync::{Mutex as AsyncMutex, Semaphore};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::openai::{self, Budget, OpenAiLimits, Service};
use super::slot::Slot;
use crate::clients::{Embedded, Embeddings, OpenAiError, TextRole};
use crate::domain::caller_id::CallerId;
use crate::domain::memory::MemoryVector;
use crate::domain::search::MAX_INDEXED;
use crate::domain::vector::Vector;
use crate::metric_definitions::{Metrics, OpenAiOutcome, QuestionVector};
use crate::store::{StoreError, Urgency, VectorStore};

pub(super) use maker::{MakerActor, Message, Setup};

/// How long a search waits for the vector of its question: somebody is on the
/// line, and its words are searched without it.
const QUESTION_BUDGET: Duration = Duration::from_millis(200);
/// Most questions under way; others are searched by their words.
const MAX_QUESTIONS: usize = 64;
/// How much of a question is embedded, in characters.
const MAX_QUESTION_CHARS: usize = 1_000;
/// A server that asks to wait longer is asked again after this all the same.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// The handle. Cheap to clone.
#[derive(Clone)]
pub struct MemoryVectors {
    slot: Slot<Message>,
    shared: Arc<Shared>,
}

struct Shared {
    client: Embeddings,
    kind: String,
    store: Arc<dyn VectorStore>,
    metrics: Arc<Metrics>,
    /// Of the batches.
    budget: AsyncMutex<Budget>,
    /// Questions of callers on the line, beside the batches.
    questions: DefaultDirectRateLimiter,
    /// Questions under way, those that are late included.
    under_way: Arc<Semaphore>,
    service: Mutex<Service>,
}

impl MemoryVectors {
    pub(super) fn new(
        client: Embeddings,
        limits: OpenAiLimits,
        store: Arc<dyn VectorStore>,
        metrics: Arc<Metrics>,
    ) -> Self {
        Self {
            slot: Slot::default(),
            shared: Arc::new(Shared {
                kind: client.kind(),
                client,
                store,
                metrics,
                questions: RateLimiter::direct(Quota::per_minute(limits.requests_per_minute)),
                under_way: Arc::new(Semaphore::new(MAX_QUESTIONS)),
                budget: AsyncMutex::new(Budget::new(limits)),
                service: Mutex::default(),
            }),
        }
    }

    pub(super) fn slot(&self) -> &Slot<Message> {
        &self.slot
    }

    /// Notes that a caller has memories without vectors. Durable when it returns.
    pub(super) async fn want(&self, caller: &CallerId) -> Result<(), StoreError> {
        let callers = vec![caller.clone()];
        self.shared.store.want(callers, Urgency::Now).await?;
        self.slot.send(Message);
        Ok(())
    }

    /// The vectors that there are of a caller's memories. None if they cannot
    /// be read: words are searched all the same.
    pub(super) async fn of_caller(&self, caller: &CallerId) -> Vec<MemoryVector> {
        let shared = &self.shared;
        let found = shared
            .store
            .vectors(caller, &shared.kind, MAX_INDEXED)
            .await;
        found.unwrap_or_else(|error| {
            tracing::warn!(%error, "Vectors of memories cannot be read; words alone are searched");
            Vec::new()
        })
    }

    /// The vector of a question, if it can be had in time. The request goes on
    /// when it is late: its end tells how the service is, and a connection stays
    /// open for the next.
    pub(super) async fn of_question(&self, question: &str) -> Option<Vector> {
        let end = question.char_indices().nth(MAX_QUESTION_CHARS);
        let question = end.map_or(question, |(end, _)| &question[..end]);
        if question.trim().is_empty() {
            return None;
        }
        let asked = self.ask(question.to_owned());
        let result = match asked {
            Some(asked) => timeout(QUESTION_BUDGET, asked)
                .await
                .unwrap_or(Ok(Err(QuestionVector::Late)))
                .unwrap_or(Err(QuestionVector::Failed)),
            None => Err(QuestionVector::Skipped),
        };
        let outcome = result.as_ref().err().copied();
        let outcome = outcome.unwrap_or(QuestionVector::Used);
        let metrics = &self.shared.metrics;
        metrics.question_vectors.get(outcome).increment(1);
        result.ok()
    }

    /// `None` if the service is to be left alone, or too much is asked already.
    fn ask(&self, question: String) -> Option<JoinHandle<Result<Vector, QuestionVector>>> {
        let shared = Arc::clone(&self.shared);
        let place = Arc::clone(&shared.under_way).try_acquire_owned().ok()?;
        shared.questions.check().ok()?;
        shared.admit().ok()?;
        Some(tokio::spawn(async move {
            let _place = place;
            let embedded = shared.embed(&[&question], TextRole::Query).await;
            let mut vectors = embedded.map_err(|_| QuestionVector::Failed)?.vectors;
            vectors.pop().ok_or(QuestionVector::Failed)
        }))
    }
}

impl Shared {
    fn service(&self) -> MutexGuard<'_, Service> {
        self.service.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a request may be made now; if not, how long until one may.
    fn admit(&self) -> Result<(), Duration> {
        let now = Instant::now();
        let mut service = self.service();
        let pause = service.pause_until;
        match pause.and_then(|until| until.checked_duration_since(now)) {
            Some(wait) if !wait.is_zero() => Err(wait),
            _ => service.breaker.admit(now),
        }
    }

    /// Leaves the service alone: what it answers cannot be used for anybody.
    fn pause(&self) {
        let until = Instant::now() + LONGEST_PAUSE;
        let mut service = self.service();
        service.pause_until = service.pause_until.max(Some(until));
    }

    /// Makes one request, and learns from the answer how the service is.
    async fn embed(&self, texts: &[&str], role: TextRole) -> Result<Embedded, OpenAiError> {
        let result = self.client.embed(texts, role).await;
        let outcome = result
            .as_ref()
            .err()
            .map_or(OpenAiOutcome::Success, openai::outcome);
        self.metrics.embeddings_requests.get(outcome).increment(1);
        if let Ok(embedded) = &result {
            self.metrics.embeddings_tokens.increment(embedded.tokens);
        }
        let pause =
            |asked: Option<Duration>| Some(asked.unwrap_or(LONGEST_PAUSE / 6).min(LONGEST_PAUSE));
        let error = result.as_ref().err();
        let opened = self.service().judge(error, pause);
        if let Some(error) = error.filter(|_| opened) {
            tracing::warn!(%error, "Embeddings keep failing; they are left alone for a while");
        }
        result
    }
}
