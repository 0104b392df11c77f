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

use super::error::{self, ApiError, Response};
use super::{Shared, authorize, body};
use crate::actors::Published;
use crate::domain::agent_profile::AgentProfile;
use crate::domain::caller_id::CallerId;
use crate::domain::ids::AgentId;
use crate::domain::personalization::{
    Personalization, Recognition, personalize, personalize_single_tier,
};
use crate::metric_definitions::RingOutcome;

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
    key: Option<&str>,
    body: S,
    started: Instant,
) -> Result<Response, ApiError>
where
    S: Stream<Item = Result<B, warp::Error>>,
    B: Buf,
{
    authorize(key, &shared.state.client_data_key)?;
    let body = body::read_small(body).await?;
    let request: Request<'_> = serde_json::from_slice(&body)?;
    let agent = AgentId::parse(&request.agent_id)
        .map_err(|e| ApiError::Invalid(format!("agent_id {e}")))?;
    let caller = CallerId::parse(request.caller_id.as_deref().unwrap_or_default()).ok();

    let shown = caller.as_ref().map(|c| shared.state.caller_ids.show(c));
    let span = tracing::info_span!(
        "client-data",
        %agent,
        caller = shown.as_ref().map(tracing::field::display),
    );
    let (outcome, answer) = ring(shared, caller.as_ref(), &agent).instrument(span).await;
    shared
        .state
        .metrics
        .client_data
        .get(outcome)
        .record(started.elapsed());
    Ok(error::json(&answer))
}

async fn ring(
    shared: &Shared,
    caller: Option<&CallerId>,
    agent: &AgentId,
) -> (RingOutcome, Personalization) {
    let state = &shared.state;
    let profile = state.agents.peek(agent);
    let defaults = || personalize(None, None, profile.as_deref()).1;
    let Some(caller) = caller else {
        tracing::info!("Client-data webhook called for caller: withheld, agent: {agent}");
        return (RingOutcome::Withheld, defaults());
    };
    let shown = state.caller_ids.show(caller);
    tracing::info!("Client-data webhook called for caller: {shown}, agent: {agent}");
    let Ok(_permit) = shared.rings.try_acquire() else {
        tracing::error!("Too many rings at once - using agent defaults");
        return (RingOutcome::Error, defaults());
    };
    match timeout(
        state.client_data_deadline,
        state.sessions.open(caller, Some(agent)),
    )
    .await
    {
        Ok(Ok(published)) => recognise(state.two_tier, &published, agent, profile.as_ref(), &shown),
        Ok(Err(error)) => {
            tracing::error!(%error, "{shown} is not recognised - using agent defaults");
            (RingOutcome::Error, defaults())
        }
        Err(_) => {
            tracing::error!("No answer from the store in time for {shown} - using agent defaults");
            (RingOutcome::Deadline, defaults())
        }
    }
}

fn recognise(
    two_tier: bool,
    published: &Published,
    agent: &AgentId,
    profile: Option<&Arc<AgentProfile>>,
    shown: &impl std::fmt::Display,
) -> (RingOutcome, Personalization) {
    let view = published.view();
    let answer_from = if two_tier {
        personalize
    } else {
        personalize_single_tier
    };
    let (recognition, answer) = answer_from(
        view.profile.as_ref(),
        view.states.get(agent).map(Arc::as_ref),
        profile.map(Arc::as_ref),
    );
    let outcome = match recognition {
        Recognition::Greeting => {
            tracing::info!("Found agent-specific greeting for {shown}");
            RingOutcome::Greeting
        }
        Recognition::Profile => {
            tracing::info!("Found universal profile for {shown}");
            RingOutcome::Profile
        }
        Recognition::Unknown => {
            tracing::info!("No universal profile found for {shown}");
            tracing::info!("New caller {shown} - using agent defaults");
            RingOutcome::NewCaller
        }
    };
    (outcome, answer)
}
