//! The operations listener: metrics, health, administration.

use std::convert::Infallible;

use metrics_exporter_prometheus::PrometheusHandle;
use warp::filters::BoxedFilter;
use warp::http::header::{CONTENT_TYPE, HeaderValue};
use warp::{Filter, Reply, path};

use super::admin::{self, AdminState};
use super::error::{ApiError, Response};
use super::health;
use crate::actors::Health;

/// What the operations routes work with.
pub struct OpsState {
    /// Renders the metrics.
    pub metrics: PrometheusHandle,
    /// Whether all of it works.
    pub health: Health,
    pub admin: AdminState,
}

#[must_use]
pub fn routes(state: OpsState) -> BoxedFilter<(impl Reply,)> {
    let OpsState {
        metrics,
        health,
        admin,
    } = state;
    let metrics = path!("metrics").and(warp::get()).map(move || {
        let mut response = Response::new(metrics.render().into_bytes());
        let text = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
        response.headers_mut().insert(CONTENT_TYPE, text);
        response
    });
    let live = path!("health" / "live").and(warp::get()).map(health::live);
    let ready = path!("health" / "ready").and(warp::get()).then(move || {
        let health = health.clone();
        async move { health::ready(&health).await }
    });
    metrics
        .or(live)
        .unify()
        .or(ready)
        .unify()
        .or(admin::routes(admin))
        .unify()
        .recover(async |rejection| Ok::<_, Infallible>(ApiError::from(rejection).into_response()))
        .boxed()
}
