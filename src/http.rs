//! The web front: routes, authentication, bodies, status codes.
//!
//! This module knows the actors' handles and never a store. Status codes are
//! chosen in [`error`] alone.

mod admin;
mod bodies;
mod body;
mod client_data;
mod connections;
mod error;
mod forwarded;
mod health;
mod ops;
mod peers;
mod post_call;
mod search_data;
mod server;
mod signature;

use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use serde_json::json;
use tokio::sync::Semaphore;
use warp::filters::BoxedFilter;
use warp::{Filter, Reply, path};

use crate::actors::{AgentCache, Directory, Inbox, Reconciler, Sessions};
use crate::domain::caller_rules::CallerRules;
use crate::metric_definitions::{Endpoint, Metrics};
use crate::secrets::{KeySet, WebhookKeys};
use crate::telemetry::CallerIdFormat;

use bodies::Bodies;
use connections::Client;
use error::{ApiError, Response};

pub use admin::AdminState;
pub use connections::{Connections, Limits};
pub use forwarded::TrustedProxies;
pub use ops::{OpsState, routes as ops_routes};
pub use server::{serve, serve_public};
pub use signature::{is_signed, sign};

/// Rings answered at a time; more get the defaults. Bounds the mailboxes.
const MAX_RINGS: usize = 4_096;
/// Searches answered at a time; more get the empty answer.
const MAX_SEARCHES: usize = 1_024;

/// What the public routes work with.
pub struct PublicState {
    /// Caller sessions.
    pub sessions: Sessions,
    /// Agent profiles.
    pub agents: AgentCache,
    /// Where events go.
    pub inbox: Inbox,
    /// Fetches calls whose event is too old to be trusted.
    pub reconciler: Reconciler,
    /// What operators decided about callers.
    pub directory: Directory,
    /// Where everything is counted.
    pub metrics: Arc<Metrics>,
    /// How callers appear in logs.
    pub caller_ids: CallerIdFormat,
    /// How callers are told.
    pub caller_rules: Arc<CallerRules>,
    /// What the webhooks are shown.
    pub keys: WebhookKeys,
    /// After this long a ring gets the defaults.
    pub client_data_deadline: Duration,
    /// Largest post-call body, in bytes.
    pub max_body: usize,
    /// Connections that the listener takes. Half of them are kept from bodies of
    /// post-call, so that a ring always finds one.
    pub connections: usize,
    /// False answers rings from a single tier (guide, "Rollback Plan").
    pub two_tier: bool,
}

/// The state and the bounds on what is under way.
struct Shared {
    state: PublicState,
    rings: Semaphore,
    searches: Semaphore,
    bodies: Arc<Bodies>,
}

#[must_use]
pub fn routes(state: PublicState) -> BoxedFilter<(impl Reply,)> {
    let shared = Arc::new(Shared {
        bodies: Bodies::new(state.connections / 2, state.max_body),
        state,
        rings: Semaphore::new(MAX_RINGS),
        searches: Semaphore::new(MAX_SEARCHES),
    });
    let shared = warp::any().map(move || Arc::clone(&shared));
    let client = warp::ext::optional::<Client>();

    let client_data = path!("webhook" / "client-data")
        .and(warp::post())
        .and(shared.clone())
        .and(client)
        .and(warp::header::optional("x-api-key"))
        .and(warp::header::optional("traceparent"))
        .and(warp::body::stream())
        .then(
            async |shared: Arc<Shared>,
                   client: Option<Client>,
                   key: Option<String>,
                   trace: Option<String>,
                   body| {
                let started = Instant::now();
                let result = match admit(key.as_deref(), &shared.state.keys.client_data, client) {
                    Ok(()) => client_data::answer(&shared, body, trace.as_deref(), started).await,
                    Err(error) => Err(error),
                };
                respond(&shared, Endpoint::ClientData, result)
            },
        )
        // On its own, so that a ring does not move the other routes' state about.
        .boxed();
    let search_data = path!("webhook" / "search-data")
        .and(warp::post())
        .and(shared.clone())
        .and(client)
        .and(warp::header::optional("x-api-key"))
        .and(warp::header::optional("traceparent"))
        .and(warp::body::stream())
        .then(
            async |shared: Arc<Shared>,
                   client: Option<Client>,
                   key: Option<String>,
                   trace: Option<String>,
                   body| {
                let started = Instant::now();
                let result = match admit(key.as_deref(), &shared.state.keys.search_data, client) {
                    Ok(()) => search_data::answer(&shared, body, trace.as_deref(), started).await,
                    Err(error) => Err(error),
                };
                respond(&shared, Endpoint::SearchData, result)
            },
        )
        .boxed();
    let post_call = path!("webhook" / "post-call")
        .and(warp::post())
        .and(shared)
        .and(client)
        .and(warp::header::optional("elevenlabs-signature"))
        .and(warp::header::optional("content-length"))
        .and(warp::header::optional("traceparent"))
        .and(warp::body::stream())
        .then(
            async |shared: Arc<Shared>,
                   client: Option<Client>,
                   signature: Option<String>,
                   length: Option<usize>,
                   trace: Option<String>,
                   body| {
                let headers = post_call::Headers {
                    signature: signature.as_deref(),
                    length,
                    trace: trace.as_deref(),
                };
                let result = post_call::receive(&shared, client.as_ref(), headers, body).await;
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

/// Checks an API key in constant time; a good one proves who sent it.
fn admit(given: Option<&str>, expected: &KeySet, client: Option<Client>) -> Result<(), ApiError> {
    if expected.now().contain(given.unwrap_or_default().as_bytes()) {
        if let Some(client) = client {
            client.prove();
        }
        Ok(())
    } else {
        Err(ApiError::Unauthorized("wrong or missing X-Api-Key"))
    }
}
