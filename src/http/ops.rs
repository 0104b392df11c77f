//! The operations listener: metrics, health, administration.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use metrics_exporter_prometheus::PrometheusHandle;
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use serde_json::{Value, json};
use subtle::ConstantTimeEq;
use tokio::time::timeout;
use warp::filters::BoxedFilter;
use warp::http::header::{CONTENT_TYPE, HeaderValue};
use warp::{Filter, Reply, path};

use super::body;
use super::error::{self, ApiError, Response};
use crate::actors::{AgentCache, Inbox, Sessions};
use crate::domain::caller_id::CallerId;
use crate::domain::ids::AgentId;
use crate::domain::name::CallerName;
use crate::store::{Archive, EventId, Ledger, MemoryStore, StoreError};

/// How long a readiness check may take.
const CHECK_TIMEOUT: Duration = Duration::from_secs(3);
/// How long an administrative operation may take.
const ADMIN_TIMEOUT: Duration = Duration::from_secs(30);
/// Most dead letters listed.
const MAX_DEAD_LETTERS: usize = 1_000;

/// What the operations routes work with.
pub struct OpsState {
    /// Renders the metrics.
    pub metrics: PrometheusHandle,
    /// Caller sessions.
    pub sessions: Sessions,
    /// Agent profiles.
    pub agents: AgentCache,
    /// The durable queue.
    pub inbox: Inbox,
    /// Dead letters, and whether the database takes writes.
    pub ledger: Arc<dyn Ledger>,
    /// Whether the memory store takes writes.
    pub store: Arc<dyn MemoryStore>,
    /// Whether the archive takes writes.
    pub archive: Archive,
    /// The bearer token of the admin routes; without it they are off.
    pub admin_key: Option<SecretString>,
}

/// The operations routes.
#[must_use]
pub fn routes(state: OpsState) -> BoxedFilter<(impl Reply,)> {
    let admin_is_on = state.admin_key.is_some();
    let state = Arc::new(state);
    let shared = warp::any().map({
        let state = Arc::clone(&state);
        move || Arc::clone(&state)
    });
    let get = warp::get().and(shared.clone());

    let metrics = path!("metrics")
        .and(get.clone())
        .map(|state: Arc<OpsState>| {
            let mut response = Response::new(state.metrics.render().into_bytes());
            let text = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
            response.headers_mut().insert(CONTENT_TYPE, text);
            response
        });
    let live = path!("health" / "live")
        .and(warp::get())
        .map(|| error::json(&json!({"status": "alive"})));
    let ready = path!("health" / "ready")
        .and(get.clone())
        .then(async |state: Arc<OpsState>| ready(&state).await);

    // Every admin route passes here first; without a key there are none.
    let admin = path("admin")
        .and_then(move || {
            std::future::ready(if admin_is_on {
                Ok(())
            } else {
                Err(warp::reject::not_found())
            })
        })
        .untuple_one()
        .and(shared)
        .and(warp::header::optional::<String>("authorization"));
    let caller = admin
        .clone()
        .and(path!("callers" / String))
        .and(warp::get())
        .then(
            async |state: Arc<OpsState>, auth: Option<String>, id: String| {
                finish(bounded(&state, auth, show_caller(&state, &id)).await)
            },
        );
    let rename = admin
        .clone()
        .and(path!("callers" / String / "name"))
        .and(warp::put())
        .and(warp::body::stream())
        .then(
            async |state: Arc<OpsState>, auth: Option<String>, id: String, body| {
                let renamed = async {
                    let body = body::read_small(body).await?;
                    rename(&state, &id, &body).await
                };
                finish(bounded(&state, auth, renamed).await)
            },
        );
    let invalidate = admin
        .clone()
        .and(path!("agents" / String / "invalidate"))
        .and(warp::post())
        .then(
            async |state: Arc<OpsState>, auth: Option<String>, id: String| {
                finish(bounded(&state, auth, invalidate(&state, &id)).await)
            },
        );
    let dead_letters = admin
        .clone()
        .and(path!("dead-letters"))
        .and(warp::get())
        .then(async |state: Arc<OpsState>, auth: Option<String>| {
            finish(bounded(&state, auth, dead_letters(&state)).await)
        });
    let revive = admin
        .and(path!("dead-letters" / i64 / "retry"))
        .and(warp::post())
        .then(
            async |state: Arc<OpsState>, auth: Option<String>, id: i64| {
                finish(bounded(&state, auth, revive(&state, id)).await)
            },
        );

    metrics
        .or(live)
        .unify()
        .or(ready)
        .unify()
        .or(caller)
        .unify()
        .or(rename)
        .unify()
        .or(invalidate)
        .unify()
        .or(dead_letters)
        .unify()
        .or(revive)
        .unify()
        .recover(async |rejection| Ok::<_, Infallible>(ApiError::from(rejection).into_response()))
        .boxed()
}

fn finish(result: Result<Response, ApiError>) -> Response {
    result.unwrap_or_else(ApiError::into_response)
}

/// Checks the token, then does the work within the limit.
async fn bounded(
    state: &OpsState,
    authorization: Option<String>,
    work: impl Future<Output = Result<Response, ApiError>>,
) -> Result<Response, ApiError> {
    let given = authorization
        .as_deref()
        .and_then(|a| a.strip_prefix("Bearer "))
        .unwrap_or_default();
    let expected = state
        .admin_key
        .as_ref()
        .map(ExposeSecret::expose_secret)
        .unwrap_or_default();
    if expected.is_empty() || !bool::from(given.as_bytes().ct_eq(expected.as_bytes())) {
        return Err(ApiError::Unauthorized("wrong or missing bearer token"));
    }
    timeout(ADMIN_TIMEOUT, work)
        .await
        .unwrap_or(Err(ApiError::Unavailable("it took too long")))
}

async fn check(work: impl Future<Output = Result<(), StoreError>>) -> Result<(), String> {
    match timeout(CHECK_TIMEOUT, work).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err("no answer in time".to_owned()),
    }
}

async fn ready(state: &OpsState) -> Response {
    let described = async { timeout(CHECK_TIMEOUT, state.store.describe()).await.ok() };
    let (described, ledger, store, archive) = tokio::join!(
        described,
        check(state.ledger.check_writable()),
        check(state.store.check_writable()),
        check(state.archive.check_writable()),
    );
    let inbox = if state.inbox.is_moving() {
        Ok(())
    } else {
        Err("it does not move".to_owned())
    };
    let checks = [
        ("ledger", ledger),
        ("memory_store", store),
        ("archive", archive),
        ("inbox", inbox),
    ];
    let ready = checks.iter().all(|(_, result)| result.is_ok());
    let checks: serde_json::Map<String, Value> = checks
        .into_iter()
        .map(|(name, result)| {
            (
                name.to_owned(),
                result.map_or_else(Value::from, |()| "ok".into()),
            )
        })
        .collect();
    let status = if ready { "ready" } else { "not ready" };
    error::ready(
        ready,
        &json!({"status": status, "memory": described, "checks": checks}),
    )
}

fn parse_caller(id: &str) -> Result<CallerId, ApiError> {
    // `+` needs no escaping in a path, but people escape it.
    let id = id
        .replace("%2B", "+")
        .replace("%2b", "+")
        .replace("%40", "@")
        .replace("%3A", ":")
        .replace("%3a", ":");
    CallerId::parse(&id).map_err(|e| ApiError::Invalid(format!("the caller id: {e}")))
}

fn parse_agent(id: &str) -> Result<AgentId, ApiError> {
    AgentId::parse(id).map_err(|e| ApiError::Invalid(format!("the agent id {e}")))
}

const NO_SUCH_CALLER: ApiError = ApiError::NoSuchThing("no such caller");
const NO_SESSION: ApiError = ApiError::Unavailable("the caller's session is not available");

async fn show_caller(state: &OpsState, id: &str) -> Result<Response, ApiError> {
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
                "sentiment": state.sentiment.map(crate::domain::greeting::Sentiment::as_str),
                "conversation_summary": state.conversation_summary,
            });
            (agent.to_string(), shown)
        })
        .collect();
    Ok(error::json(&json!({
        "phone_number": profile.phone_number.as_str(),
        "name": profile.name,
        "first_seen": profile.first_seen,
        "total_interactions": profile.total_interactions,
        "agents": agents,
    })))
}

async fn rename(state: &OpsState, id: &str, body: &[u8]) -> Result<Response, ApiError> {
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

async fn invalidate(state: &OpsState, id: &str) -> Result<Response, ApiError> {
    let agent = parse_agent(id)?;
    let known = state.agents.invalidate(&agent).await;
    Ok(error::json(
        &json!({"agent_id": agent, "invalidated": known}),
    ))
}

async fn dead_letters(state: &OpsState) -> Result<Response, ApiError> {
    let letters = state.ledger.dead_letters(MAX_DEAD_LETTERS).await?;
    Ok(error::json(&json!({"dead_letters": letters})))
}

async fn revive(state: &OpsState, id: i64) -> Result<Response, ApiError> {
    if state.inbox.revive(EventId(id)).await? {
        Ok(error::json(&json!({"id": id, "status": "queued"})))
    } else {
        Err(ApiError::NoSuchThing(
            "no dead letter of a known type with this id",
        ))
    }
}
