//! The way of an ended call, from top to bottom:
//!
//! > read → learn → settle → prompt → greeting → store greeting → settle
//!
//! Each event that the inbox hands out is a task that runs [`Pipeline::run`]
//! and holds the event's [`Lease`]. What it changes of a caller goes through
//! that caller's session, one change at a time. Wherever it breaks off, the
//! ledger says what is done and what is not, and all of it can be repeated.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures_util::FutureExt;
use jiff::{SignedDuration, Timestamp};
use tracing::Instrument;

use super::agent_cache::AgentCache;
use super::directory::Directory;
use super::lanes::Lease;
use super::openai::{GreetingFailure, OpenAiClient};
use super::parsed_calls::ParsedCalls;
use super::router::{SessionError, Sessions};
use crate::backoff::Backoff;
use crate::compute::Compute;
use crate::domain::agent_profile::AgentProfile;
use crate::domain::call_event::{self, Call, CallEvent};
use crate::domain::caller_id::CallerId;
use crate::domain::caller_rules::CallerRules;
use crate::domain::ids::AgentId;
use crate::domain::learning::Learning;
use crate::domain::name;
use crate::domain::profile::UniversalProfile;
use crate::domain::prompt::GreetingPrompt;
use crate::domain::standing::Standing;
use crate::domain::tiers::{Greeted, NewGreeting};
use crate::log_events;
use crate::metric_definitions::{CallOutcome, Metrics};
use crate::store::{
    InboxEvent, LONGEST_PAUSE, Ledger, RetryCause, Settled, Settlement, Stage, StoreError,
};
use crate::telemetry::CallerIdFormat;
use crate::telemetry::traces::{self, step};

/// Before an event is tried again.
const RETRY: Backoff = Backoff {
    base: Duration::from_secs(1),
    cap: LONGEST_PAUSE,
};
/// Before what was done is written down again, when a store did not take it.
const REWRITE: Backoff = Backoff {
    base: Duration::from_millis(200),
    cap: Duration::from_secs(10),
};
/// An event whose work failed by a fault of ours so often is given up.
const MAX_CRASHES: u32 = 8;
/// Greetings made for one call while an operator, or another call, gives the
/// caller another name each time.
const MAX_NAMES: usize = 3;
/// Unusable answers are paid for: so many rounds of tries, then it is given up.
const MAX_UNUSABLE: u32 = 5;

/// A call that was received so long after its start was fetched.
const OLD_CALL: SignedDuration = SignedDuration::from_hours(3);
/// By so much the wait for newer calls grows at most.
const MOST_WAITS: u32 = 6;
/// Until a greeting is tried again that waits for newer calls.
const WAIT_FOR_NEWER: Duration = Duration::from_secs(10);

/// What the work on a call needs.
pub(super) struct Pipeline {
    pub ledger: Arc<dyn Ledger>,
    pub sessions: Sessions,
    pub agents: AgentCache,
    /// `None` without `OPENAI_API_KEY`.
    pub openai: Option<OpenAiClient>,
    /// Calls that were parsed when they were received.
    pub calls: ParsedCalls,
    pub caller_rules: Arc<CallerRules>,
    /// Whose number a number is.
    pub directory: Directory,
    /// For large events.
    pub reading: Compute,
    /// How long a greeting is tried for.
    pub greeting_retry: Duration,
    pub metrics: Arc<Metrics>,
    pub caller_ids: CallerIdFormat,
    /// Whether calls of long ago are being fed: see [`Pipeline::waits_for_newer`].
    pub feeding: Arc<AtomicBool>,
}

/// Why a stage did not end as it should.
enum Failure {
    /// It is tried again, at the earliest after `at_least`.
    Retry {
        cause: RetryCause,
        error: String,
        at_least: Option<Duration>,
    },
    /// It is given up.
    Dead { error: String },
    /// It was erased meanwhile, or its caller has opted out.
    Erased,
    /// Another instance works on it now, and settles it.
    TakenOver,
    /// Its greeting would be made in vain: newer calls of its caller may follow.
    Waits,
}

impl Failure {
    fn crash(error: &str) -> Self {
        Self::Retry {
            cause: RetryCause::Crash,
            error: error.to_owned(),
            at_least: None,
        }
    }

    fn dead(error: &str) -> Self {
        Self::Dead {
            error: error.to_owned(),
        }
    }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Corrupt(error) => Self::Dead { error },
            StoreError::Erased => Self::Erased,
            StoreError::TakenOver => Self::TakenOver,
            outage => Self::Retry {
                cause: RetryCause::Outage,
                error: outage.to_string(),
                at_least: None,
            },
        }
    }
}

impl From<SessionError> for Failure {
    fn from(error: SessionError) -> Self {
        match error {
            SessionError::Store(error) => error.into(),
            SessionError::Failed => Self::crash("the session failed before it was done"),
            SessionError::Unavailable => Self::Retry {
                cause: RetryCause::Outage,
                error: error.to_string(),
                at_least: None,
            },
        }
    }
}

impl Pipeline {
    /// Works on an event until it is done, or cannot go on now.
    pub async fn run(&self, mut lease: Lease) {
        let event = lease.event();
        let shown = event.caller.as_ref().map(|c| self.caller_ids.show(c));
        let span = tracing::info_span!(
            "post-call",
            stage = event.stage.as_str(),
            conversation = %event.key.conversation_id,
            agent = event.key.agent_id.as_ref().map(tracing::field::display),
            caller = shown.as_ref().map(tracing::field::display),
        );
        traces::go_on(&span, event.trace.as_ref());
        async {
            let cancelled = lease.cancelled();
            let work = AssertUnwindSafe(self.work(&mut lease)).catch_unwind();
            let ended = tokio::select! {
                ended = work => ended.unwrap_or_else(|_| {
                    tracing::error!("The work on a post-call event panicked");
                    Err(Failure::crash("the work on it panicked"))
                }),
                () = cancelled.cancelled() => Err(Failure::Erased),
            };
            if let Err(failure) = ended {
                match self.judge(lease.event(), failure) {
                    Some(how) => drop(self.settle(&lease, how).await),
                    None => self.calls.forget(lease.event().id),
                }
            }
        }
        .instrument(span)
        .await;
    }

    async fn work(&self, lease: &mut Lease) -> Result<(), Failure> {
        let event = lease.event().clone();
        let (Some(caller), Some(agent)) = (&event.caller, &event.key.agent_id) else {
            return Err(Failure::dead("the event names no caller and agent"));
        };
        if self.directory.confirmed_standing(caller).await? == Standing::OptedOut {
            return Err(Failure::Erased);
        }
        let call = self.read(&event).await?;

        if event.stage == Stage::Learn {
            let learned = self.learn(&event, caller, &call);
            learned.instrument(step!("learn")).await?;
            let settled = self.settle(lease, Settlement::Learned).await;
            // Without a place in its lane, the greeting is made when there is one.
            if settled.next != Some(Stage::Greet) || !lease.enter(Stage::Greet) {
                return Ok(());
            }
        }

        if self.waits_for_newer(&event) {
            return Err(Failure::Waits);
        }
        let greeted = self.greet(lease, caller, agent, &call);
        let outcome = greeted.instrument(step!("greet")).await?;
        self.settle(lease, Settlement::Greeted).await;
        self.record(outcome, event.received_at);
        Ok(())
    }

    /// The call, as it was parsed at its receipt if that is not long ago.
    async fn read(&self, event: &InboxEvent) -> Result<Arc<Call>, Failure> {
        if let Some(call) = self.calls.get(event.id) {
            return Ok(call);
        }
        let Some(payload) = self.ledger.payload(event.id).await? else {
            return Err(Failure::dead("the body of the event is gone"));
        };
        let received_at = event.received_at;
        let rules = Arc::clone(&self.caller_rules);
        let parse = move || call_event::parse(&payload, received_at, &rules);
        match self.off_runtime(event, parse).await? {
            Ok(CallEvent::Transcription(call)) => {
                let call = Arc::new(call);
                self.calls
                    .keep(event.id, Arc::clone(&call), event.payload_bytes);
                Ok(call)
            }
            _ => Err(Failure::dead("the event can no longer be read as a call")),
        }
    }

    /// Whether a call of long ago was fetched by a look that goes on: of its caller's
    /// calls only the newest is worth a greeting, and that comes last.
    fn waits_for_newer(&self, event: &InboxEvent) -> bool {
        let age = event.received_at.duration_since(event.order.started_at);
        age > OLD_CALL && self.feeding.load(Ordering::Relaxed)
    }

    async fn learn(
        &self,
        event: &InboxEvent,
        caller: &CallerId,
        call: &Arc<Call>,
    ) -> Result<(), Failure> {
        let (listened, whose) = (Arc::clone(call), caller.clone());
        let mut learning = self
            .off_runtime(event, move || Learning::from_call(&listened, whose))
            .await?
            .ok_or_else(|| Failure::dead("the call names no agent"))?;
        let shown = self.caller_ids.show(caller);
        log_events::processing_memories(&shown, &learning.agent);
        // As late as can be: the number may be linked to another meanwhile, or
        // its owner have opted out.
        self.directory.catch_up().await?;
        let standing = self.directory.standing(caller);
        let Some((person, _)) = standing.person() else {
            return Err(Failure::Erased);
        };
        learning.caller = person.clone();
        self.sessions.learn(learning, event.claim()).await?;
        log_events::profile_updated(&shown);
        Ok(())
    }

    async fn greet(
        &self,
        lease: &Lease,
        caller: &CallerId,
        agent: &AgentId,
        call: &Arc<Call>,
    ) -> Result<CallOutcome, Failure> {
        let order = lease.event().order;
        let shown = self.caller_ids.show(caller);
        for _ in 0..MAX_NAMES {
            let person = self.directory.person(caller);
            let view = self.sessions.open(&person, None).await?.view();
            match view.states.get(agent) {
                Some(state) if state.lacks_greeting_of(order) => {}
                // Its own greeting was stored before a crash.
                Some(state) if state.greeted_from == Some(order) => {
                    return Ok(CallOutcome::Greeted);
                }
                Some(_) => return Ok(CallOutcome::Superseded),
                None => return Ok(CallOutcome::Learned),
            }
            let Some(openai) = &self.openai else {
                // There is no model to ask any more.
                return Ok(CallOutcome::Learned);
            };
            log_events::generating_greeting(&shown, agent);
            let prompt = self.prompt(agent, view.profile.as_ref(), call);
            let prompt = prompt.instrument(step!("agent profile")).await;
            let mut greeting = openai
                .greeting(prompt)
                .instrument(step!("openai"))
                .await
                .map_err(|failure| self.not_made(lease.event(), failure))?;
            let heard = greeting.caller_name.take();
            let (named, said) = (heard.clone(), Arc::clone(call));
            let confirmed = move || name::confirmed_by_turns(named?, &said.turns);
            let name = self.off_runtime(lease.event(), confirmed).await?;
            let known = view.profile.as_ref().and_then(|p| p.name.clone());
            if let (Some(made_up), None, None) = (heard, &name, &known) {
                // Nobody is greeted by a name that nobody gave.
                greeting.forget(&made_up);
            }
            let new = NewGreeting {
                caller: person.clone(),
                agent: agent.clone(),
                conversation_id: lease.event().key.conversation_id.clone(),
                order,
                addressed: known,
                name,
                greeting,
            };
            let stored = self.store_greeting(lease, new);
            match stored.instrument(step!("store greeting")).await? {
                Some(greeted) if greeted.misnamed => {
                    tracing::info!("{shown} was renamed; the greeting is made anew");
                }
                Some(greeted) if greeted.stored => {
                    log_events::greeting_stored(&shown, agent);
                    return Ok(CallOutcome::Greeted);
                }
                // Linked to another caller while the model was at work.
                None if self.directory.confirmed_person(caller).await? != person => {}
                _ => return Ok(CallOutcome::Superseded),
            }
        }
        Ok(CallOutcome::Learned)
    }

    /// An agent that ElevenLabs does not tell us about is still worth a greeting.
    async fn prompt(
        &self,
        agent: &AgentId,
        profile: Option<&UniversalProfile>,
        call: &Call,
    ) -> GreetingPrompt {
        let known = self.agents.profile(agent).await;
        let unknown = AgentProfile::default();
        GreetingPrompt::new(
            agent,
            known.as_deref().unwrap_or(&unknown),
            profile,
            call.started_at,
            &call.turns,
        )
    }

    /// Keeps at it while the store is away: the greeting is paid for, and
    /// would be bought again. `None` if the caller is not known any more.
    async fn store_greeting(
        &self,
        lease: &Lease,
        new: NewGreeting,
    ) -> Result<Option<Greeted>, Failure> {
        let (mut failures, mut crashes) = (0, 0);
        loop {
            let claim = lease.event().claim();
            match self.sessions.store_greeting(new.clone(), claim).await {
                Ok(greeted) => return Ok(greeted),
                Err(
                    error @ SessionError::Store(StoreError::Corrupt(_) | StoreError::TakenOver),
                ) => {
                    return Err(error.into());
                }
                Err(SessionError::Failed) if crashes + 1 >= MAX_CRASHES => {
                    return Err(SessionError::Failed.into());
                }
                Err(error) => {
                    crashes += u32::from(matches!(error, SessionError::Failed));
                    tracing::error!(%error, "A greeting cannot be stored; it is tried again");
                }
            }
            failures += 1;
            lease.beat();
            tokio::time::sleep(REWRITE.delay(failures, rand::random())).await;
        }
    }

    /// What a greeting that was not made means for its event.
    fn not_made(&self, event: &InboxEvent, failure: GreetingFailure) -> Failure {
        let (cause, error, at_least) = match failure {
            GreetingFailure::Unavailable { error, retry_after } => {
                (RetryCause::Outage, error, retry_after)
            }
            GreetingFailure::Unusable { error } => (RetryCause::Unusable, error, None),
        };
        let hopeless = cause == RetryCause::Unusable && event.unusable + 1 >= MAX_UNUSABLE;
        // Not from its receipt: it may have waited a day for the memory.
        let tried_for = event.greet_since.map_or(Duration::ZERO, |since| {
            Duration::try_from(Timestamp::now().duration_since(since)).unwrap_or_default()
        });
        if hopeless || tried_for >= self.greeting_retry {
            tracing::error!(
                conversation = %event.key.conversation_id,
                "The greeting is given up: OpenAI error: {error}"
            );
            return Failure::Dead { error };
        }
        Failure::Retry {
            cause,
            error,
            at_least,
        }
    }

    /// Large calls are worked on where they hold up no ring.
    async fn off_runtime<T: Send + 'static>(
        &self,
        event: &InboxEvent,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Failure> {
        if event.payload_bytes <= call_event::LARGE_BODY {
            return Ok(work());
        }
        let done = self.reading.run(work).await;
        done.map_err(|_| Failure::crash("reading the event panicked"))
    }

    /// What is to be written down of an event whose work failed.
    /// Nothing if it is for another instance to write.
    fn judge(&self, event: &InboxEvent, failure: Failure) -> Option<Settlement> {
        let (cause, error, at_least) = match failure {
            Failure::Dead { error } => return Some(Settlement::Dead { error }),
            Failure::Erased => {
                tracing::info!("The work on an erased call has ended");
                return Some(Settlement::Erased);
            }
            Failure::Waits => {
                return Some(Settlement::Retry {
                    // Longer each time: there may be as many as callers.
                    run_at: Timestamp::now()
                        + WAIT_FOR_NEWER * (event.attempts + 1).min(MOST_WAITS),
                    error: "newer calls of its caller may follow".into(),
                    cause: RetryCause::Outage,
                });
            }
            Failure::TakenOver => {
                tracing::warn!(
                    "Another instance has taken the event over; its work here has ended"
                );
                return None;
            }
            Failure::Retry {
                cause,
                error,
                at_least,
            } => (cause, error, at_least),
        };
        let conversation = &event.key.conversation_id;
        if cause == RetryCause::Crash && event.crashes + 1 >= MAX_CRASHES {
            tracing::error!(%conversation, error, "A post-call event is given up: the work on it failed again and again");
            return Some(Settlement::Dead { error });
        }
        tracing::warn!(%conversation, error, "A post-call event is tried again later");
        let pause = RETRY.delay(event.attempts + 1, rand::random());
        // A server may ask for anything; nobody waits longer than the cap.
        let asked = at_least.unwrap_or_default().min(RETRY.cap);
        Some(Settlement::Retry {
            run_at: Timestamp::now() + pause.max(asked),
            error,
            cause,
        })
    }

    /// Writes down how a stage ended. What was done is not done again because
    /// the ledger cannot be written: it is tried until it can.
    async fn settle(&self, lease: &Lease, how: Settlement) -> Settled {
        let event = lease.event();
        let mut failures = 0;
        let settled = loop {
            let settled = self.ledger.settle(event.claim(), how.clone());
            match settled.instrument(step!("settle")).await {
                Ok(settled) => break settled,
                Err(error) => {
                    tracing::error!(%error, event = %event.id, "The inbox cannot be written; it is tried again");
                }
            }
            failures += 1;
            lease.beat();
            tokio::time::sleep(REWRITE.delay(failures, rand::random())).await;
        };
        if settled.next.is_none() {
            self.calls.forget(event.id);
        }
        self.count(event, &how, &settled);
        settled
    }

    fn count(&self, event: &InboxEvent, how: &Settlement, settled: &Settled) {
        let outcome = match how {
            Settlement::Retry { .. } | Settlement::Erased => None,
            Settlement::Dead { .. } => Some(CallOutcome::DeadLetter),
            // Recorded with what became of the greeting.
            Settlement::Greeted => None,
            Settlement::Learned if settled.next == Some(Stage::Greet) => None,
            Settlement::Learned => Some(CallOutcome::Learned),
        };
        if let Some(outcome) = outcome {
            self.record(outcome, event.received_at);
        }
        for received_at in &settled.superseded {
            self.record(CallOutcome::Superseded, *received_at);
        }
    }

    fn record(&self, outcome: CallOutcome, received_at: Timestamp) {
        let age = Timestamp::now().duration_since(received_at).as_secs_f64();
        self.metrics.post_call.get(outcome).record(age.max(0.0));
        self.metrics.figures.call(outcome);
    }
}
