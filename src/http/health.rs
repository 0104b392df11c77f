//! Health for probes: alive, and ready to take events.

use serde_json::{Map, Value, json};

use super::error::{self, Response};
use crate::actors::Health;

/// The process answers.
pub(super) fn live() -> Response {
    error::json(&json!({"status": "alive"}))
}

/// Events can be taken and are worked on; else 503, with what is wrong.
pub(super) async fn ready(health: &Health) -> Response {
    let readiness = health.readiness().await;
    let ready = readiness.is_ready();
    let checks: Map<String, Value> = readiness
        .checks
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
        &json!({"status": status, "memory": readiness.memory, "checks": checks}),
    )
}
