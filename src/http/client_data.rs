//! `POST /webhook/client-data`: the phone rings.
//!
//! Once authenticated and parsed, a ring is always answered with 200, in time:
//! ElevenLabs waits with the caller on the line.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Instant;

use bytes::Buf;
use futures_util::Stream;
use serde::Deserialize;
use tokio::time::timeout;
use tracing::Instrument;
use tracing::field::Empty;

use super::error::{self, ApiError, Response};
use super::{Shared, body};
use crate::domain::caller_id::CallerId;
use crate::domain::ids::AgentId;
use crate::domain::personalization::{Recognition, personalize, personalize_single_tier};
use crate::log_events;
use crate::metric_definitions::{Label, RingOutcome};
use crate::telemetry::traces::{self, step};

/// What ElevenLabs sends; `called_number`, `call_sid` and others are not needed.
#[derive(Deserialize)]
struct Request<'a> {
    /// Null or absent counts as withheld.
    #[serde(borrow, default)]
    caller_id: Option<Cow<'a, str>>,
    #[serde(borrow)]
    agent_id: Cow<'a, str>,
}

pub(super) async fn answer<S, B>(
    shared: &Shared,
    body: S,
    trace: Option<&str>,
    started: Instant,
) -> Result<Response, ApiError>
where
    S: Stream<Item = Result<B, warp::Error>>,
    B: Buf,
{
    let body = body::read_small(body).await?;
    let request: Request<'_> = serde_json::from_slice(&body)?;
    let agent = AgentId::parse(&request.agent_id)
        .map_err(|e| ApiError::Invalid(format!("agent_id {e}")))?;
    let caller_id = request.caller_id.as_deref().unwrap_or_default();
    let caller = shared.state.caller_rules.caller(caller_id).ok();

    let span = step!("client-data", %agent, outcome = Empty);
    traces::go_on_from(&span, trace);
    let ring = ring(shared, caller.as_ref(), &agent).instrument(span.clone());
    let (outcome, answer) = ring.await;
    span.record("outcome", outcome.as_str());
    let (metrics, took) = (&shared.state.metrics, started.elapsed());
    metrics.client_data.get(outcome).record(took);
    metrics.figures.ring(outcome, took);
    Ok(answer)
}

async fn ring(
    shared: &Shared,
    caller: Option<&CallerId>,
    agent: &AgentId,
) -> (RingOutcome, Response) {
    let state = &shared.state;
    let profile = state.agents.peek(agent);
    let defaults = || error::json(&personalize(None, None, profile.as_deref()).1);
    let Some(caller) = caller else {
        log_events::ring_withheld(agent);
        return (RingOutcome::Withheld, defaults());
    };
    let shown = state.caller_ids.show(caller);
    let Ok(_permit) = shared.rings.try_acquire() else {
        log_events::ring_failed(&shown, agent, &"too many rings at once");
        return (RingOutcome::Error, defaults());
    };
    let meeting = state.sessions.meet(&state.directory, caller, agent);
    let (standing, published) = match timeout(state.client_data_deadline, meeting).await {
        Ok(Ok(met)) => met,
        Ok(Err(error)) => {
            log_events::ring_failed(&shown, agent, &error);
            return (RingOutcome::Error, defaults());
        }
        Err(_) => {
            log_events::ring_failed(&shown, agent, &"no answer from the store in time");
            return (RingOutcome::Deadline, defaults());
        }
    };
    let (Some(published), Some((caller, is_shared))) = (published, standing.person()) else {
        log_events::ring_withheld(agent);
        return (RingOutcome::Withheld, defaults());
    };
    let shown = state.caller_ids.show(caller);
    if is_shared {
        // Who of them rings is not known yet.
        log_events::ring_shared(&shown, agent);
        let answer = personalize(None, None, profile.as_deref()).1.of(caller);
        return (RingOutcome::NewCaller, error::json(&answer));
    }
    let view = published.view();
    let answer_from = if state.two_tier {
        personalize
    } else {
        personalize_single_tier
    };
    let (recognition, answer) = answer_from(
        view.profile.as_ref(),
        view.states.get(agent).map(Arc::as_ref),
        profile.as_deref(),
    );
    log_events::ring_answered(&shown, agent, recognition);
    let outcome = match recognition {
        Recognition::Greeting => RingOutcome::Greeting,
        Recognition::Profile => RingOutcome::Profile,
        Recognition::Unknown => RingOutcome::NewCaller,
    };
    (outcome, error::json(&answer.of(caller)))
}
