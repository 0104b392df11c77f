//! The rate-limited OpenAI client.
//!
//! Greetings wait in one queue, first come first served. The first of them
//! takes tokens from the token limiter, then a request from the request
//! limiter; so a large request cannot be starved by small ones. Each attempt
//! runs as a task and comes back as a message; what failed for a passing
//! reason queues up again after a pause until its tries are used up.

use std::collections::VecDeque;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::{Duration, Instant};

use governor::clock::{Clock, DefaultClock};
use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};
use ractor::{Actor, ActorProcessingErr, ActorRef, SupervisionEvent};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};
use tokio::time::timeout;
use tracing::{Instrument, Span};

use super::slot::Slot;
use crate::clients::{OpenAi, OpenAiAnswer, OpenAiError};
use crate::domain::backoff::Backoff;
use crate::domain::breaker::Breaker;
use crate::domain::greeting::Greeting;
use crate::domain::prompt::GreetingPrompt;
use crate::metric_definitions::{Metrics, OpenAiOutcome, TokenKind};

/// Tries of one greeting before it goes back to the inbox.
const TRIES: u32 = 3;
/// Between those tries.
const PAUSE: Backoff = Backoff {
    base: Duration::from_millis(500),
    cap: Duration::from_secs(10),
};
/// A server that asks to wait longer than this is left to the inbox.
const LONGEST_PAUSE: Duration = Duration::from_secs(20);
/// Most requests under way.
const CONCURRENT_REQUESTS: usize = 32;
/// Most greetings that wait. The inbox hands out fewer.
const MAX_QUEUE: usize = 1_024;
/// Longest wait for a greeting, over the queue and all tries.
const WAIT: Duration = Duration::from_secs(10 * 60);

/// `OPENAI_RPM` and `OPENAI_TPM`.
#[derive(Debug, Clone, Copy)]
pub struct OpenAiLimits {
    /// Requests a minute.
    pub requests_per_minute: NonZeroU32,
    /// Tokens a minute, question and answer together.
    pub tokens_per_minute: NonZeroU32,
}

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
    /// OpenAI answers, but not with a usable greeting.
    Unusable {
        /// What to log.
        error: String,
    },
}

/// The handle. Cheap to clone.
#[derive(Clone, Default)]
pub struct OpenAiClient {
    slot: Slot<Message>,
}

impl OpenAiClient {
    /// Makes a greeting.
    ///
    /// # Errors
    /// [`GreetingFailure`]
    pub async fn greeting(&self, prompt: GreetingPrompt) -> Result<Greeting, GreetingFailure> {
        let unavailable = |error: &str| GreetingFailure::Unavailable {
            error: error.to_owned(),
            retry_after: None,
        };
        let (reply, answer) = oneshot::channel();
        let job = Job {
            prompt,
            reply,
            queued_at: Instant::now(),
            tried: 0,
            span: Span::current(),
        };
        self.slot.send(Message::Ask(job));
        match timeout(WAIT, answer).await {
            Ok(Ok(result)) => result,
            Ok(Err(_)) => Err(unavailable("the OpenAI client was restarted")),
            Err(_) => Err(unavailable("no answer of the OpenAI client in time")),
        }
    }

    pub(super) fn slot(&self) -> &Slot<Message> {
        &self.slot
    }
}

pub(super) struct Job {
    prompt: GreetingPrompt,
    reply: oneshot::Sender<Result<Greeting, GreetingFailure>>,
    queued_at: Instant,
    tried: u32,
    /// Of the call for which it is made.
    span: Span,
}

pub(super) enum Message {
    Ask(Job),
    Answered {
        job: Job,
        result: Result<OpenAiAnswer, OpenAiError>,
        took: Duration,
    },
    /// Something the queue waited for has come about.
    Pump,
}

/// What the actor needs to (re)start.
#[derive(Clone)]
pub(super) struct Setup {
    pub client: Arc<OpenAi>,
    pub limits: OpenAiLimits,
    pub metrics: Arc<Metrics>,
}

pub(super) struct OpenAiActor;

pub(super) struct State {
    setup: Setup,
    queue: VecDeque<Job>,
    /// The first in the queue has its tokens already.
    first_has_tokens: bool,
    requests: DefaultDirectRateLimiter,
    tokens: DefaultDirectRateLimiter,
    /// Most tokens that the limiter can ever grant at once.
    token_burst: NonZeroU32,
    breaker: Breaker,
    /// The server has asked to be left alone until then.
    pause_until: Option<Instant>,
    permits: Arc<Semaphore>,
}

impl Actor for OpenAiActor {
    type Msg = Message;
    type State = State;
    type Arguments = Setup;

    async fn pre_start(
        &self,
        _: ActorRef<Message>,
        setup: Setup,
    ) -> Result<State, ActorProcessingErr> {
        let OpenAiLimits {
            requests_per_minute: requests,
            tokens_per_minute: tokens,
        } = setup.limits;
        // A full burst on top of the steady rate would let nearly twice the
        // limit through in the first minute.
        let tenth =
            |limit: NonZeroU32| NonZeroU32::new(limit.get() / 10).unwrap_or(NonZeroU32::MIN);
        let token_burst = tenth(tokens).max(NonZeroU32::new(4_000).unwrap_or(NonZeroU32::MIN));
        Ok(State {
            queue: VecDeque::new(),
            first_has_tokens: false,
            requests: RateLimiter::direct(Quota::per_minute(requests).allow_burst(tenth(requests))),
            tokens: RateLimiter::direct(Quota::per_minute(tokens).allow_burst(token_burst)),
            token_burst,
            breaker: Breaker::default(),
            pause_until: None,
            permits: Arc::new(Semaphore::new(CONCURRENT_REQUESTS)),
            setup,
        })
    }

    async fn handle(
        &self,
        myself: ActorRef<Message>,
        message: Message,
        state: &mut State,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            Message::Ask(job) => state.enqueue(job),
            Message::Answered { job, result, took } => state.answered(&myself, job, result, took),
            Message::Pump => {}
        }
        state.pump(&myself);
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
    fn enqueue(&mut self, job: Job) {
        if self.queue.len() >= MAX_QUEUE {
            let failure = GreetingFailure::Unavailable {
                error: "too many greetings wait".into(),
                retry_after: None,
            };
            let _ = job.reply.send(Err(failure));
        } else {
            self.queue.push_back(job);
        }
    }

    /// Starts what may start; if something must wait, comes back then.
    fn pump(&mut self, myself: &ActorRef<Message>) {
        loop {
            if self.queue.front().is_some_and(|job| job.reply.is_closed()) {
                self.queue.pop_front();
                self.first_has_tokens = false;
                continue;
            }
            // The message that returns a permit pumps again.
            let Some(wait) = self.start_first(myself) else {
                return;
            };
            if !wait.is_zero() {
                myself.send_after(wait, || Message::Pump);
                return;
            }
        }
    }

    /// Starts the first of the queue. `None` if there is nothing to start now,
    /// zero if it was started or refused, else how long it has to wait.
    fn start_first(&mut self, myself: &ActorRef<Message>) -> Option<Duration> {
        let now = Instant::now();
        self.queue.front()?;
        if let Some(until) = self.pause_until.filter(|until| *until > now) {
            return Some(until - now);
        }
        let permit = Arc::clone(&self.permits).try_acquire_owned().ok()?;
        if let Some(wait) = self.wait_for_limits() {
            return Some(wait.max(Duration::from_millis(1)));
        }
        self.first_has_tokens = false;
        let job = self.queue.pop_front()?;
        if let Err(wait) = self.breaker.admit(now) {
            let metrics = &self.setup.metrics;
            metrics
                .openai_requests
                .get(OpenAiOutcome::BreakerOpen)
                .increment(1);
            let error = "OpenAI is not asked for now: too many errors in a row".to_owned();
            let _ = job.reply.send(Err(GreetingFailure::Unavailable {
                error,
                retry_after: Some(wait),
            }));
            return Some(Duration::ZERO);
        }
        self.start(myself, job, permit);
        Some(Duration::ZERO)
    }

    /// Takes tokens, then a request; how long to wait if one is not to be had.
    fn wait_for_limits(&mut self) -> Option<Duration> {
        let now = DefaultClock::default().now();
        if !self.first_has_tokens {
            let prompt = &self.queue.front()?.prompt;
            let tokens = self
                .setup
                .client
                .estimated_tokens(prompt)
                .clamp(1, self.token_burst.get());
            // Clamped to the burst, the limiter can grant it.
            if let Ok(Err(not_until)) = self.tokens.check_n(NonZeroU32::new(tokens)?) {
                return Some(not_until.wait_time_from(now));
            }
            self.first_has_tokens = true;
        }
        self.requests
            .check()
            .err()
            .map(|not_until| not_until.wait_time_from(now))
    }

    fn start(&self, myself: &ActorRef<Message>, mut job: Job, permit: OwnedSemaphorePermit) {
        if job.tried == 0 {
            self.setup
                .metrics
                .openai_limiter_wait
                .record(job.queued_at.elapsed());
        }
        job.tried += 1;
        let (client, myself) = (Arc::clone(&self.setup.client), myself.clone());
        let span = job.span.clone();
        let work = async move {
            let started = Instant::now();
            let result = client.complete(&job.prompt).await;
            drop(permit);
            let _ = myself.send_message(Message::Answered {
                job,
                result,
                took: started.elapsed(),
            });
        };
        tokio::spawn(work.instrument(span));
    }

    fn answered(
        &mut self,
        myself: &ActorRef<Message>,
        job: Job,
        result: Result<OpenAiAnswer, OpenAiError>,
        took: Duration,
    ) {
        let _span = job.span.clone().entered();
        let metrics = &self.setup.metrics;
        metrics.openai_duration.record(took);
        let attempt = result
            .as_ref()
            .err()
            .map_or(OpenAiOutcome::Success, outcome);
        metrics.openai_attempts.get(attempt).increment(1);
        self.judge(&result);
        match result {
            Ok(answer) => self.use_answer(job, &answer),
            Err(error) => {
                tracing::warn!("{error}");
                self.retry_or_give_up(myself, job, &error);
            }
        }
    }

    /// Tells the breaker what the answer says about the service.
    fn judge(&mut self, result: &Result<OpenAiAnswer, OpenAiError>) {
        match result {
            // A refused or unusable request says that the service works.
            Ok(_) | Err(OpenAiError::Refused { .. } | OpenAiError::Unusable(_)) => {
                self.breaker.succeeded()
            }
            // Not a fault of the service; the whole queue waits as asked.
            Err(OpenAiError::RateLimited { retry_after }) => {
                self.breaker.succeeded();
                self.pause_until = retry_after.map(|wait| Instant::now() + wait.min(LONGEST_PAUSE));
            }
            Err(_) => {
                if self.breaker.failed(Instant::now()) {
                    tracing::warn!("OpenAI keeps failing; it is left alone for a while");
                }
            }
        }
        self.setup
            .metrics
            .openai_breaker_open
            .set(f64::from(u8::from(self.breaker.is_open())));
    }

    fn use_answer(&mut self, job: Job, answer: &OpenAiAnswer) {
        let metrics = &self.setup.metrics;
        metrics
            .openai_tokens
            .get(TokenKind::Prompt)
            .increment(answer.prompt_tokens);
        metrics
            .openai_tokens
            .get(TokenKind::Completion)
            .increment(answer.completion_tokens);
        match Greeting::from_answer(&answer.content) {
            Ok(greeting) => {
                metrics
                    .openai_requests
                    .get(OpenAiOutcome::Success)
                    .increment(1);
                let _ = job.reply.send(Ok(greeting));
            }
            Err(error) => {
                tracing::warn!(%error, "OpenAI API error: unusable answer");
                if job.tried < TRIES {
                    self.queue.push_front(job);
                    self.first_has_tokens = false;
                } else {
                    metrics
                        .openai_requests
                        .get(OpenAiOutcome::Unusable)
                        .increment(1);
                    let _ = job.reply.send(Err(GreetingFailure::Unusable {
                        error: error.to_string(),
                    }));
                }
            }
        }
    }

    fn retry_or_give_up(&mut self, myself: &ActorRef<Message>, job: Job, error: &OpenAiError) {
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
        let pause = asked.unwrap_or_else(|| PAUSE.delay(job.tried, rand::random()));
        if !lasting && job.tried < TRIES && pause <= LONGEST_PAUSE {
            myself.send_after(pause, move || Message::Ask(job));
            return;
        }
        self.setup
            .metrics
            .openai_requests
            .get(outcome(error))
            .increment(1);
        let failure = match error {
            OpenAiError::Unusable(_) => GreetingFailure::Unusable {
                error: error.to_string(),
            },
            _ => GreetingFailure::Unavailable {
                error: error.to_string(),
                retry_after: asked,
            },
        };
        let _ = job.reply.send(Err(failure));
    }
}

fn outcome(error: &OpenAiError) -> OpenAiOutcome {
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
