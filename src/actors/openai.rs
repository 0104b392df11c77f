//! The rate-limited OpenAI client.
//!
//! The actor is a [dispatcher] that admits one request after the other.
//! Whoever was admitted makes the request, and tells the breaker what came of
//! it.

mod budget;
mod dispatcher;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};
use tokio::time::{sleep, timeout};

use super::breaker::Breaker;
use super::slot::Slot;
use crate::backoff::Backoff;
use crate::clients::{OpenAi, OpenAiAnswer, OpenAiError};
use crate::domain::greeting::Greeting;
use crate::domain::prompt::GreetingPrompt;
use crate::metric_definitions::{Metrics, OpenAiOutcome, TokenKind};

pub(super) use budget::Budget;
pub use budget::OpenAiLimits;
pub(super) use dispatcher::{Message, OpenAiActor, Setup};

/// Tries of one greeting before it goes back to the inbox.
const TRIES: u32 = 3;
/// Between those tries.
const PAUSE: Backoff = Backoff {
    base: Duration::from_millis(500),
    cap: Duration::from_secs(10),
};
/// A server that asks to wait longer than this is left to the inbox.
const LONGEST_PAUSE: Duration = Duration::from_secs(20);
/// Most greetings that wait. The inbox hands out fewer.
const MAX_QUEUE: usize = 1_024;
/// Longest wait for a greeting, over the queue and all tries.
const WAIT: Duration = Duration::from_secs(10 * 60);

/// Why there is no greeting.
#[derive(Debug, Clone)]
pub enum GreetingFailure {
    /// OpenAI cannot be had now; the inbox tries again later.
    Unavailable {
        /// What to log.
        error: String,
        /// How long the server, or the breaker, asks to wait.
        retry_after: Option<Duration>,
    },
    /// OpenAI answers, but refuses this request, or not with a usable greeting.
    /// Trying again for long would not help.
    Unusable {
        /// What to log.
        error: String,
    },
}

impl GreetingFailure {
    fn unavailable(error: &str, retry_after: Option<Duration>) -> Self {
        Self::Unavailable {
            error: error.to_owned(),
            retry_after,
        }
    }
}

/// The handle. Cheap to clone.
#[derive(Clone)]
pub struct OpenAiClient {
    slot: Slot<Message>,
    shared: Arc<Shared>,
}

struct Shared {
    client: OpenAi,
    metrics: Arc<Metrics>,
    /// Bounds the mailbox.
    queue: Semaphore,
    service: Mutex<Service>,
}

/// What is known of the service, from its answers.
#[derive(Default)]
pub(super) struct Service {
    pub breaker: Breaker,
    /// The server has asked to be left alone until then.
    pub pause_until: Option<Instant>,
}

impl Service {
    /// Learns from an answer; `pause` is how long a 429 is obeyed, by how long it
    /// asks to wait. True if this opened the breaker.
    pub fn judge(
        &mut self,
        error: Option<&OpenAiError>,
        pause: impl FnOnce(Option<Duration>) -> Option<Duration>,
    ) -> bool {
        let now = Instant::now();
        match error {
            // A refused or unusable request says that the service works.
            None | Some(OpenAiError::Refused { .. } | OpenAiError::Unusable(_)) => {
                self.breaker.succeeded();
                false
            }
            // Not a fault of the service; everybody waits as long as asked,
            // and no other answer shortens that.
            Some(OpenAiError::RateLimited { retry_after }) => {
                self.breaker.succeeded();
                let asked = pause(*retry_after).map(|wait| now + wait);
                self.pause_until = self.pause_until.max(asked);
                false
            }
            Some(_) => self.breaker.failed(now),
        }
    }
}

/// What became of one try.
struct Failed {
    failure: GreetingFailure,
    outcome: OpenAiOutcome,
    /// When to try once more, if that may help.
    again: Option<Duration>,
}

impl OpenAiClient {
    pub(super) fn new(client: OpenAi, metrics: Arc<Metrics>) -> Self {
        Self {
            slot: Slot::default(),
            shared: Arc::new(Shared {
                client,
                metrics,
                queue: Semaphore::new(MAX_QUEUE),
                service: Mutex::default(),
            }),
        }
    }

    /// Makes a greeting.
    ///
    /// # Errors
    /// [`GreetingFailure`]
    pub async fn greeting(&self, prompt: GreetingPrompt) -> Result<Greeting, GreetingFailure> {
        let Ok(_place) = self.shared.queue.try_acquire() else {
            return Err(GreetingFailure::unavailable(
                "too many greetings wait",
                None,
            ));
        };
        let late = "no answer of the OpenAI client in time";
        timeout(WAIT, self.tries(&prompt))
            .await
            .unwrap_or_else(|_| Err(GreetingFailure::unavailable(late, None)))
    }

    async fn tries(&self, prompt: &GreetingPrompt) -> Result<Greeting, GreetingFailure> {
        let mut tried = 0;
        loop {
            let permit = self.admission(prompt, tried == 0).await?;
            tried += 1;
            let result = self.shared.ask(prompt, tried).await;
            drop(permit);
            let (outcome, result) = match result {
                Ok(greeting) => (OpenAiOutcome::Success, Ok(greeting)),
                Err(Failed {
                    again: Some(pause), ..
                }) if tried < TRIES => {
                    sleep(pause).await;
                    continue;
                }
                Err(failed) => (failed.outcome, Err(failed.failure)),
            };
            self.shared
                .metrics
                .openai_requests
                .get(outcome)
                .increment(1);
            return result;
        }
    }

    /// Waits for the dispatcher.
    async fn admission(
        &self,
        prompt: &GreetingPrompt,
        first: bool,
    ) -> Result<OwnedSemaphorePermit, GreetingFailure> {
        let (reply, admitted) = oneshot::channel();
        let tokens = self.shared.client.estimated_tokens(prompt);
        let queued_at = Instant::now();
        self.slot.send(Message { tokens, reply });
        let metrics = &self.shared.metrics;
        match admitted.await {
            Ok(Ok(permit)) => {
                if first {
                    metrics.openai_limiter_wait.record(queued_at.elapsed());
                }
                Ok(permit)
            }
            Ok(Err(wait)) => {
                let outcome = OpenAiOutcome::BreakerOpen;
                metrics.openai_requests.get(outcome).increment(1);
                let error = "OpenAI is not asked for now: too many errors in a row";
                Err(GreetingFailure::unavailable(error, Some(wait)))
            }
            Err(_) => {
                let error = "the OpenAI client was restarted";
                Err(GreetingFailure::unavailable(error, None))
            }
        }
    }

    pub(super) fn slot(&self) -> &Slot<Message> {
        &self.slot
    }
}

impl Shared {
    fn service(&self) -> MutexGuard<'_, Service> {
        self.service.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes one request.
    async fn ask(&self, prompt: &GreetingPrompt, tried: u32) -> Result<Greeting, Failed> {
        let started = Instant::now();
        let result = self.client.complete(prompt).await;
        self.metrics.openai_duration.record(started.elapsed());
        let attempt = result
            .as_ref()
            .err()
            .map_or(OpenAiOutcome::Success, outcome);
        self.metrics.openai_attempts.get(attempt).increment(1);
        self.judge(&result);
        match result {
            Ok(answer) => self.read(&answer),
            Err(error) => {
                tracing::warn!("{error}");
                Err(failed(&error, tried))
            }
        }
    }

    /// Tells the breaker what the answer says about the service.
    fn judge(&self, result: &Result<OpenAiAnswer, OpenAiError>) {
        let mut service = self.service();
        let error = result.as_ref().err();
        if service.judge(error, |asked| asked.map(|wait| wait.min(LONGEST_PAUSE))) {
            tracing::warn!("OpenAI keeps failing; it is left alone for a while");
        }
        let open = f64::from(u8::from(service.breaker.is_open()));
        self.metrics.openai_breaker_open.set(open);
    }

    fn read(&self, answer: &OpenAiAnswer) -> Result<Greeting, Failed> {
        for (kind, tokens) in [
            (TokenKind::Prompt, answer.prompt_tokens),
            (TokenKind::Completion, answer.completion_tokens),
        ] {
            self.metrics.openai_tokens.get(kind).increment(tokens);
        }
        let (prompt, completion) = (answer.prompt_tokens, answer.completion_tokens);
        let cost = self.client.cost(prompt, completion);
        self.metrics.openai_cost.increment(cost);
        self.metrics.figures.answer(prompt, completion, cost);
        Greeting::from_answer(&answer.content).map_err(|error| {
            tracing::warn!(%error, "OpenAI API error: unusable answer");
            Failed {
                failure: GreetingFailure::Unusable {
                    error: error.to_string(),
                },
                outcome: OpenAiOutcome::Unusable,
                // The model may do better at once.
                again: Some(Duration::ZERO),
            }
        })
    }
}

fn failed(error: &OpenAiError, tried: u32) -> Failed {
    let asked = match error {
        OpenAiError::RateLimited { retry_after } | OpenAiError::Server { retry_after, .. } => {
            *retry_after
        }
        _ => None,
    };
    let lasting = matches!(
        error,
        OpenAiError::QuotaExhausted | OpenAiError::InvalidKey(_) | OpenAiError::Refused { .. }
    );
    let pause = asked.unwrap_or_else(|| PAUSE.delay(tried, rand::random()));
    let failure = match error {
        // What is refused for its content is refused the next time as well.
        OpenAiError::Unusable(_)
        | OpenAiError::Refused {
            status: 400 | 422, ..
        } => GreetingFailure::Unusable {
            error: error.to_string(),
        },
        _ => GreetingFailure::unavailable(&error.to_string(), asked),
    };
    Failed {
        failure,
        outcome: outcome(error),
        again: Some(pause).filter(|pause| !lasting && *pause <= LONGEST_PAUSE),
    }
}

pub(super) fn outcome(error: &OpenAiError) -> OpenAiOutcome {
    match error {
        OpenAiError::RateLimited { .. } => OpenAiOutcome::RateLimited,
        OpenAiError::QuotaExhausted => OpenAiOutcome::Quota,
        OpenAiError::InvalidKey(_) => OpenAiOutcome::InvalidKey,
        OpenAiError::Server { .. } => OpenAiOutcome::ServerError,
        OpenAiError::Refused { .. } => OpenAiOutcome::Refused,
        OpenAiError::Timeout => OpenAiOutcome::Timeout,
        OpenAiError::Network(_) => OpenAiOutcome::Network,
        OpenAiError::Unusable(_) => OpenAiOutcome::Unusable,
    }
}
