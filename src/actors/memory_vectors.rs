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
use tokio::sync::Mutex as AsyncMutex;
use tokio::time::timeout;

use super::breaker::Breaker;
use super::openai::{self, Budget, OpenAiLimits};
use super::slot::Slot;
use crate::clients::{Embedded, Embeddings, OpenAiError, TextRole};
use crate::domain::caller_id::CallerId;
use crate::domain::memory::MemoryVector;
use crate::domain::vector::Vector;
use crate::metric_definitions::{Metrics, OpenAiOutcome, QuestionVector};
use crate::store::{StoreError, VectorStore};

pub(super) use maker::{MakerActor, Message, Setup};

/// How long a search waits for the vector of its question: somebody is on the
/// line, and its words are searched without it.
const QUESTION_BUDGET: Duration = Duration::from_millis(200);
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
    service: Mutex<Service>,
}

/// What is known of the service, from its answers.
#[derive(Default)]
struct Service {
    breaker: Breaker,
    /// The server has asked to be left alone until then.
    pause_until: Option<Instant>,
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
        self.shared.store.want(vec![caller.clone()]).await?;
        self.slot.send(Message);
        Ok(())
    }

    /// The vectors that there are of a caller's memories. None if they cannot
    /// be read: words are searched all the same.
    pub(super) async fn of_caller(&self, caller: &CallerId) -> Vec<MemoryVector> {
        let found = self.shared.store.vectors(caller, &self.shared.kind).await;
        found.unwrap_or_else(|error| {
            tracing::warn!(%error, "Vectors of memories cannot be read; words alone are searched");
            Vec::new()
        })
    }

    /// The vector of a question, if it can be had in time.
    pub(super) async fn of_question(&self, question: &str) -> Option<Vector> {
        let end = question.char_indices().nth(MAX_QUESTION_CHARS);
        let question = end.map_or(question, |(end, _)| &question[..end]);
        if question.trim().is_empty() {
            return None;
        }
        let asked = async {
            if self.shared.questions.check().is_err() || self.shared.must_wait().is_some() {
                return Err(QuestionVector::Skipped);
            }
            let embedded = self.shared.embed(&[question], TextRole::Query).await;
            let mut vectors = embedded.map_err(|_| QuestionVector::Failed)?.vectors;
            vectors.pop().ok_or(QuestionVector::Failed)
        };
        let result = timeout(QUESTION_BUDGET, asked).await;
        let result = result.unwrap_or(Err(QuestionVector::Late));
        let outcome = result
            .as_ref()
            .err()
            .copied()
            .unwrap_or(QuestionVector::Used);
        self.shared
            .metrics
            .question_vectors
            .get(outcome)
            .increment(1);
        result.ok()
    }
}

impl Shared {
    fn service(&self) -> MutexGuard<'_, Service> {
        self.service.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How long the service is to be left alone, if it is.
    fn must_wait(&self) -> Option<Duration> {
        let now = Instant::now();
        let service = self.service();
        let pause = service
            .pause_until
            .and_then(|until| until.checked_duration_since(now));
        pause.max(service.breaker.refuses(now))
    }

    /// Makes one request, and learns from the answer how the service is.
    async fn embed(&self, texts: &[&str], role: TextRole) -> Result<Embedded, OpenAiError> {
        let result = self.client.embed(texts, role).await;
        let outcome = result
            .as_ref()
            .err()
            .map_or(OpenAiOutcome::Success, openai::outcome);
        self.metrics.embeddings_requests.get(outcome).increment(1);
        let now = Instant::now();
        let mut service = self.service();
        match &result {
            Ok(embedded) => {
                service.breaker.succeeded();
                self.metrics.embeddings_tokens.increment(embedded.tokens);
            }
            Err(OpenAiError::Refused { .. } | OpenAiError::Unusable(_)) => {
                service.breaker.succeeded();
            }
            Err(OpenAiError::RateLimited { retry_after }) => {
                service.breaker.succeeded();
                let wait = retry_after.unwrap_or(LONGEST_PAUSE / 6).min(LONGEST_PAUSE);
                service.pause_until = service.pause_until.max(Some(now + wait));
            }
            Err(error) => {
                if service.breaker.failed(now) {
                    tracing::warn!(%error, "Embeddings keep failing; they are left alone for a while");
                }
            }
        }
        result
    }
}
