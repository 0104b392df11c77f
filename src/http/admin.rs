//! Administration: callers, agents, dead letters, and the record of it.

mod audit;
mod callers;
mod connection;
mod dead_letters;
mod keys;
mod reconcile;
mod report;

use std::sync::Arc;
use std::time::Duration;

use percent_encoding::percent_decode_str;
use secrecy::ExposeSecret;
use serde_json::json;
use subtle::ConstantTimeEq;
use tokio::time::timeout;
use warp::filters::BoxedFilter;
use warp::{Filter, Rejection, path, reject};

use super::error::{self, ApiError, Response};
use crate::actors::{AgentCache, Callers, Inbox, Reconciler};
use crate::domain::caller_id::CallerId;
use crate::domain::caller_rules::CallerRules;
use crate::domain::ids::AgentId;
use crate::secrets::{AdminKey, WebhookKeys};
use crate::store::{Ledger, Register, StoreError};

use audit::Operator;

/// How long an administrative operation may take.
const TIMEOUT: Duration = Duration::from_secs(30);

/// What the admin routes work with.
pub struct AdminState {
    pub callers: Callers,
    pub agents: AgentCache,
    pub inbox: Inbox,
    pub reconciler: Reconciler,
    /// Where the figures of days are.
    pub ledger: Arc<dyn Ledger>,
    /// Where what operators do is written down.
    pub register: Arc<dyn Register>,
    pub caller_rules: Arc<CallerRules>,
    /// The bearer tokens; without any there are no admin routes.
    pub keys: Vec<AdminKey>,
    /// What the webhooks are shown; `None` where there are no webhooks.
    pub webhook_keys: Option<WebhookKeys>,
}

/// What was asked for could not be done because of a store.
fn store_failed(error: &StoreError) -> ApiError {
    tracing::error!(%error, "An administrative operation failed");
    ApiError::Unavailable("the store is not available now; please try again")
}

/// The admin routes. They all begin with [`authorized`]: what is behind it
/// runs for those who have a key, and for nobody if there is none.
pub(super) fn routes(state: AdminState) -> BoxedFilter<(Response,)> {
    let admin = authorized(Arc::new(state));
    let invalidate = admin
        .clone()
        .and(path!("agents" / String / "invalidate"))
        .and(warp::post())
        .then(async |operator: Operator, id: String| {
            let work = invalidate(operator.clone(), id.clone());
            operator.act("invalidate agent", id, work).await
        });
    let log = admin
        .clone()
        .and(path!("audit"))
        .and(warp::get())
        .and(warp::query())
        .then(async |operator: Operator, wanted: audit::Wanted| {
            finish(audit::list(&operator, wanted)).await
        });
    callers::routes(&admin)
        .or(keys::routes(&admin))
        .unify()
        .or(connection::routes(&admin))
        .unify()
        .or(reconcile::routes(&admin))
        .unify()
        .or(report::routes(&admin))
        .unify()
        .or(dead_letters::routes(&admin))
        .unify()
        .or(invalidate)
        .unify()
        .or(log)
        .unify()
        .boxed()
}

/// Lets a request under `/admin` pass that carries a key, and says whose it is.
fn authorized(state: Arc<AdminState>) -> BoxedFilter<(Operator,)> {
    path("admin")
        .and(warp::header::optional::<String>("authorization"))
        .and_then(move |authorization: Option<String>| {
            std::future::ready(check(&state, authorization.as_deref()))
        })
        .boxed()
}

fn check(state: &Arc<AdminState>, authorization: Option<&str>) -> Result<Operator, Rejection> {
    if state.keys.is_empty() {
        return Err(reject::not_found());
    }
    let given = authorization
        .and_then(|a| a.strip_prefix("Bearer "))
        .unwrap_or_default();
    // Every key is compared, whichever fits, so that the time tells nothing.
    let mut who = None;
    for AdminKey { name, key } in &state.keys {
        let expected = key.expose_secret().as_bytes();
        if bool::from(given.as_bytes().ct_eq(expected)) && !expected.is_empty() {
            who = Some(name.clone());
        }
    }
    match who {
        Some(who) => Ok(Operator::new(Arc::clone(state), who)),
        None => Err(reject::custom(ApiError::Unauthorized(
            "wrong or missing bearer token",
        ))),
    }
}

async fn finish(work: impl Future<Output = Result<Response, ApiError>>) -> Response {
    timeout(TIMEOUT, work)
        .await
        .unwrap_or(Err(ApiError::Unavailable("it takes long; it goes on")))
        .unwrap_or_else(ApiError::into_response)
}

/// A caller of whom something may be kept: an id as webhooks carry it; or exactly
/// as it is stored, if today's rules would not take it any more, or it begins
/// with `=`.
fn parse_caller(rules: &CallerRules, id: &str) -> Result<CallerId, ApiError> {
    parse_ringing(rules, id).or_else(|error| {
        let id = percent_decode_str(id).decode_utf8_lossy();
        CallerId::from_stored(&id).ok_or(error)
    })
}

/// A caller who can ring: an id as webhooks carry it, or with a `=` before it
/// exactly as it is stored. What is mistyped or a placeholder is none.
fn parse_ringing(rules: &CallerRules, id: &str) -> Result<CallerId, ApiError> {
    let unreadable = |e: &dyn std::fmt::Display| ApiError::Invalid(format!("the caller id: {e}"));
    let id = percent_decode_str(id).decode_utf8();
    let id = id.map_err(|e| unreadable(&e))?;
    if let Some(stored) = id.strip_prefix('=') {
        return CallerId::from_stored(stored).ok_or_else(|| unreadable(&"it is no caller id"));
    }
    rules.caller(&id).map_err(|e| unreadable(&e))
}

async fn invalidate(operator: Operator, id: String) -> Result<Response, ApiError> {
    let agent = AgentId::parse(&id).map_err(|e| ApiError::Invalid(format!("the agent id {e}")))?;
    let known = operator.state.agents.invalidate(&agent).await;
    operator.state.reconciler.agents_changed();
    let mut answer = json!({"agent_id": agent, "invalidated": known});
    if !known {
        answer["reason"] =
            json!("no profile of this agent is kept: there was nothing to invalidate");
    }
    Ok(error::json(&answer))
}
