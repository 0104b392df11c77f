//! Administration: callers, agents, dead letters.

use std::sync::Arc;
use std::time::Duration;

use percent_encoding::percent_decode_str;
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use serde_json::{Value, json};
use subtle::ConstantTimeEq;
use tokio::time::timeout;
use warp::filters::BoxedFilter;
use warp::{Filter, Rejection, path, reject};

use super::body;
use super::error::{self, ApiError, Response};
use crate::actors::{AgentCache, Inbox, Sessions};
use crate::domain::caller_id::CallerId;
use crate::domain::caller_rules::CallerRules;
use crate::domain::greeting::Sentiment;
use crate::domain::ids::AgentId;
use crate::domain::name::CallerName;
use crate::store::EventId;

/// How long an administrative operation may take.
const TIMEOUT: Duration = Duration::from_secs(30);

/// What the admin routes work with.
pub struct AdminState {
    pub sessions: Sessions,
    pub agents: AgentCache,
    pub inbox: Inbox,
    pub caller_rules: Arc<CallerRules>,
    /// The bearer token; without it there are no admin routes.
    pub key: Option<SecretString>,
}

/// The admin routes. They all begin with [`authorized`]: what is behind it
/// runs for those who have the key, and for nobody if there is none.
pub(super) fn routes(state: AdminState) -> BoxedFilter<(Response,)> {
    let admin = authorized(Arc::new(state));
    let caller = admin
        .clone()
        .and(path!("callers" / String))
        .and(warp::get())
        .then(async |state: Arc<AdminState>, id: String| finish(show_caller(&state, &id)).await);
    let rename = admin
        .clone()
        .and(path!("callers" / String / "name"))
        .and(warp::put())
        .and(warp::body::stream())
        .then(async |state: Arc<AdminState>, id: String, body| {
            let renamed = async {
                let body = body::read_small(body).await?;
                rename(&state, &id, &body).await
            };
            finish(renamed).await
        });
    let invalidate = admin
        .clone()
        .and(path!("agents" / String / "invalidate"))
        .and(warp::post())
        .then(async |state: Arc<AdminState>, id: String| finish(invalidate(&state, &id)).await);
    let dead_letters = admin
        .clone()
        .and(path!("dead-letters"))
        .and(warp::get())
        .then(async |state: Arc<AdminState>| finish(dead_letters(&state)).await);
    let revive = admin
        .and(path!("dead-letters" / i64 / "retry"))
        .and(warp::post())
        .then(async |state: Arc<AdminState>, id: i64| finish(revive(&state, id)).await);
    caller
        .or(rename)
        .unify()
        .or(invalidate)
        .unify()
        .or(dead_letters)
        .unify()
        .or(revive)
        .unify()
        .boxed()
}

/// Lets a request under `/admin` pass that carries the key.
fn authorized(
    state: Arc<AdminState>,
) -> impl Filter<Extract = (Arc<AdminState>,), Error = Rejection> + Clone {
    path("admin")
        .and(warp::header::optional::<String>("authorization"))
        .and_then(move |authorization: Option<String>| {
            let passed = check(&state, authorization.as_deref()).map(|()| Arc::clone(&state));
            std::future::ready(passed)
        })
}

fn check(state: &AdminState, authorization: Option<&str>) -> Result<(), Rejection> {
    let expected = state.key.as_ref().map(ExposeSecret::expose_secret);
    let Some(expected) = expected.filter(|key| !key.is_empty()) else {
        return Err(reject::not_found());
    };
    let given = authorization
        .and_then(|a| a.strip_prefix("Bearer "))
        .unwrap_or_default();
    if bool::from(given.as_bytes().ct_eq(expected.as_bytes())) {
        Ok(())
    } else {
        Err(reject::custom(ApiError::Unauthorized(
            "wrong or missing bearer token",
        )))
    }
}

async fn finish(work: impl Future<Output = Result<Response, ApiError>>) -> Response {
    timeout(TIMEOUT, work)
        .await
        .unwrap_or(Err(ApiError::Unavailable("it took too long")))
        .unwrap_or_else(ApiError::into_response)
}

fn parse_caller(id: &str) -> Result<CallerId, ApiError> {
    let unreadable = |e: &dyn std::fmt::Display| ApiError::Invalid(format!("the caller id: {e}"));
    let id = percent_decode_str(id).decode_utf8();
    let id = id.map_err(|e| unreadable(&e))?;
    CallerId::parse(&id).map_err(|e| unreadable(&e))
}

fn parse_agent(id: &str) -> Result<AgentId, ApiError> {
    AgentId::parse(id).map_err(|e| ApiError::Invalid(format!("the agent id {e}")))
}

const NO_SUCH_CALLER: ApiError = ApiError::NoSuchThing("no such caller");
const NO_SESSION: ApiError = ApiError::Unavailable("the caller's session is not available");

async fn show_caller(state: &AdminState, id: &str) -> Result<Response, ApiError> {
    let caller = parse_caller(id)?;
    let published = state
        .sessions
        .open(&caller, None)
        .await
        .map_err(|_| NO_SESSION)?;
    let view = published.view();
    let profile = view.profile.as_ref().ok_or(NO_SUCH_CALLER)?;
    let agents: serde_json::Map<String, Value> = view
        .states
        .iter()
        .map(|(agent, state)| {
            let shown = json!({
                "conversation_count": state.conversation_count,
                "last_call_date": state.last_call_date,
                "next_greeting": state.next_greeting,
                "key_topics": state.key_topics,
                "sentiment": state.sentiment.map(Sentiment::as_str),
                "conversation_summary": state.conversation_summary,
            });
            (agent.to_string(), shown)
        })
        .collect();
    Ok(error::json(&json!({
        "phone_number": profile.phone_number.as_str(),
        "name": profile.name,
        "name_source": profile.name_source,
        "first_seen": profile.first_seen,
        "total_interactions": profile.total_interactions,
        "agents": agents,
    })))
}

async fn rename(state: &AdminState, id: &str, body: &[u8]) -> Result<Response, ApiError> {
    #[derive(Deserialize)]
    struct Request {
        name: String,
    }
    let caller = parse_caller(id)?;
    let Request { name } = serde_json::from_slice(body)?;
    let name = CallerName::parse(&name).map_err(|e| ApiError::Invalid(format!("the name {e}")))?;
    let profile = state
        .sessions
        .rename(&caller, name)
        .await
        .map_err(|_| NO_SESSION)?;
    let profile = profile.ok_or(NO_SUCH_CALLER)?;
    Ok(error::json(
        &json!({"phone_number": profile.phone_number.as_str(), "name": profile.name}),
    ))
}

async fn invalidate(state: &AdminState, id: &str) -> Result<Response, ApiError> {
    let agent = parse_agent(id)?;
    let known = state.agents.invalidate(&agent).await;
    Ok(error::json(
        &json!({"agent_id": agent, "invalidated": known}),
    ))
}

async fn dead_letters(state: &AdminState) -> Result<Response, ApiError> {
    let letters = state.inbox.dead_letters().await?;
    Ok(error::json(&json!({"dead_letters": letters})))
}

async fn revive(state: &AdminState, id: i64) -> Result<Response, ApiError> {
    if state.inbox.revive(EventId(id)).await? {
        Ok(error::json(&json!({"id": id, "status": "queued"})))
    } else {
        Err(ApiError::NoSuchThing(
            "no dead letter of a known type with this id",
        ))
    }
}
