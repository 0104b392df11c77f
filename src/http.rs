//! The web front: routes, authentication, bodies, status codes.
//!
//! This module knows the actors' handles and never a store. Status codes are
//! chosen in [`error`] alone.

mod admin;
mod body;
mod client_data;
mod error;
mod health;
mod ops;
mod post_call;
mod search_data;
mod server;
mod signature;

use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use secrecy::{ExposeSecret, SecretString};
use serde_json::json;
use subtle::ConstantTimeEq;
use tokio::sync::Semaphore;
use warp::filters::BoxedFilter;
use warp::{Filter, Reply, path};

use crate::actors::{AgentCache, Inbox, Sessions};
use crate::domain::caller_rules::CallerRules;
use crate::metric_definitions::{Endpoint, Metrics};
use crate::telemetry::CallerIdFormat;

use error::{ApiError, Response};

pub use admin::AdminState;
pub use ops::{OpsState, routes as ops_routes};
pub use server::serve;
pub use signature::{is_signed, sign};

/// Rings answered at a time; more get the defaults. Bounds the mailboxes.
const MAX_RINGS: usize = 4_096;
/// Searches answered at a time; more get the empty answer.
const MAX_SEARCHES: usize = 1_024;
/// Large post-call bodies received at a time; more get a 503.
const MAX_POST_CALLS: usize = 256;
/// Memory for the JSON of bodies under way, in multiples of the largest body.
const BODY_BUDGET: usize = 4;
/// Disk for recordings under way, in multiples of the largest body.
const AUDIO_BUDGET: usize = 16;

/// What the public routes work with.
pub struct PublicState {
    /// Caller sessions.
    pub sessions: Sessions,
    /// Agent profiles.
    pub agents: AgentCache,
    /// Where events go.
    pub inbox: Inbox,
    /// Where everything is counted.
    pub metrics: Arc<Metrics>,
    /// How callers appear in logs.
    pub caller_ids: CallerIdFormat,
    /// How callers are told.
    pub caller_rules: Arc<CallerRules>,
    /// `X-Api-Key` of client-data.
    pub client_data_key: SecretString,
    /// `X-Api-Key` of search-data.
    pub search_data_key: SecretString,
    /// HMAC secret of post-call.
    pub post_call_key: SecretString,
    /// After this long a ring gets the defaults.
    pub client_data_deadline: Duration,
    /// Largest post-call body, in bytes.
    pub max_body: usize,
    /// False answers rings from a single tier (guide, "Rollback Plan").
    pub two_tier: bool,
}

/// The state and the bounds on what is under way.
struct Shared {
    state: PublicState,
    rings: Semaphore,
    searches: Semaphore,
    post_calls: Semaphore,
    body_budget: Arc<Semaphore>,
    audio_budget: Arc<Semaphore>,
}

#[must_use]
pub fn routes(state: PublicState) -> BoxedFilter<(impl Reply,)> {
    let shared = Arc::new(Shared {
        body_budget: Arc::new(Semaphore::new(state.max_body * BODY_BUDGET)),
        audio_budget: Arc::new(Semaphore::new(state.max_body * AUDIO_BUDGET)),
        state,
        rings: Semaphore::new(MAX_RINGS),
        searches: Semaphore::new(MAX_SEARCHES),
        post_calls: Semaphore::new(MAX_POST_CALLS),
    });
    let shared = warp::any().map(move || Arc::clone(&shared));

    let client_data = path!("webhook" / "client-data")
        .and(warp::post())
        .and(shared.clone())
        .and(warp::header::optional("x-api-key"))
        .and(warp::body::stream())
        .then(async |shared: Arc<Shared>, key: Option<String>, body| {
            let started = Instant::now();
            let result = client_data::answer(&shared, key.as_deref(), body, started).await;
            respond(&shared, Endpoint::ClientData, result)
        })
        // On its own, so that a ring does not move the other routes' state about.
        .boxed();
    let search_data = path!("webhook" / "search-data")
        .and(warp::post())
        .and(shared.clone())
        .and(warp::header::optional("x-api-key"))
        .and(warp::body::stream())
        .then(async |shared: Arc<Shared>, key: Option<String>, body| {
            let started = Instant::now();
            let result = search_data::answer(&shared, key.as_deref(), body, started).await;
            respond(&shared, Endpoint::SearchData, result)
        })
        .boxed();
    let post_call = path!("webhook" / "post-call")
        .and(warp::post())
        .and(shared)
        .and(warp::header::optional("elevenlabs-signature"))
        .and(warp::body::stream())
        .then(
            async |shared: Arc<Shared>, signature: Option<String>, body| {
                let result = post_call::receive(&shared, signature.as_deref(), body).await;
                respond(&shared, Endpoint::PostCall, result)
            },
        )
        .boxed();
    let health = path!("health").and(warp::get()).map(|| {
        error::json(&json!({
            "status": "healthy",
            "service": "elaoms",
            "version": env!("CARGO_PKG_VERSION"),
            "timestamp": Timestamp::now().to_string(),
        }))
    });
    let index = warp::path::end().and(warp::get()).map(|| {
        error::json(&json!({
            "service": "elaoms",
            "version": env!("CARGO_PKG_VERSION"),
            "routes": [
                "POST /webhook/client-data",
                "POST /webhook/search-data",
                "POST /webhook/post-call",
                "GET /health",
            ],
        }))
    });

    client_data
        .or(search_data)
        .unify()
        .or(post_call)
        .unify()
        .or(health)
        .unify()
        .or(index)
        .unify()
        .recover(async |rejection| Ok::<_, Infallible>(ApiError::from(rejection).into_response()))
        .boxed()
}

fn respond(shared: &Shared, endpoint: Endpoint, result: Result<Response, ApiError>) -> Response {
    let (status, response) = match result {
        Ok(response) => (error::OK, response),
        Err(error) => (error.status(), error.into_response()),
    };
    if let Some(label) = error::label(status) {
        shared
            .state
            .metrics
            .webhook_requests
            .get(endpoint)
            .get(label)
            .increment(1);
    }
    response
}

/// Checks an API key in constant time.
fn authorize(given: Option<&str>, expected: &SecretString) -> Result<(), ApiError> {
    let given = given.unwrap_or_default().as_bytes();
    let expected = expected.expose_secret().as_bytes();
    if bool::from(given.ct_eq(expected)) && !expected.is_empty() {
        Ok(())
    } else {
        Err(ApiError::Unauthorized("wrong or missing X-Api-Key"))
    }
}
