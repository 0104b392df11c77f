//! The operations listener: metrics, health, administration.

use std::convert::Infallible;
use std::sync::Arc;

use metrics_exporter_prometheus::PrometheusHandle;
use secrecy::SecretString;
use warp::filters::BoxedFilter;
use warp::http::header::{CONTENT_TYPE, HeaderValue};
use warp::{Filter, Reply, path};

use super::error::{ApiError, Response};
use super::{admin, health};
use crate::actors::{AgentCache, Health, Inbox, Sessions};

/// What the operations routes work with.
pub struct OpsState {
    /// Renders the metrics.
    pub metrics: PrometheusHandle,
    /// Caller sessions.
    pub sessions: Sessions,
    /// Agent profiles.
    pub agents: AgentCache,
    pub inbox: Inbox,
    /// Whether all of it works.
    pub health: Health,
    /// The bearer token of the admin routes; without it they are off.
    pub admin_key: Option<SecretString>,
}

#[must_use]
pub fn routes(state: OpsState) -> BoxedFilter<(impl Reply,)> {
    let state = Arc::new(state);
    let shared = warp::any().map({
        let state = Arc::clone(&state);
        move || Arc::clone(&state)
    });
    let metrics =
        path!("metrics")
            .and(warp::get())
            .and(shared.clone())
            .map(|state: Arc<OpsState>| {
                let mut response = Response::new(state.metrics.render().into_bytes());
                let text = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
                response.headers_mut().insert(CONTENT_TYPE, text);
                response
            });
    let live = path!("health" / "live").and(warp::get()).map(health::live);
    let ready = path!("health" / "ready")
        .and(warp::get())
        .and(shared)
        .then(async |state: Arc<OpsState>| health::ready(&state.health).await);
    metrics
        .or(live)
        .unify()
        .or(ready)
        .unify()
        .or(admin::routes(state))
        .unify()
        .recover(async |rejection| Ok::<_, Infallible>(ApiError::from(rejection).into_response()))
        .boxed()
}
