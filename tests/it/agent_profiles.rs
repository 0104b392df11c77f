//! A profile that is known stands until there is a better one: without its
//! variables ElevenLabs ends the call.

use std::time::Duration;

use serde_json::{Value, json};

use crate::service::{AGENT, CALLER, SOON, Service, until};

/// A service that knows the agent, whose declared variable is then `value`.
async fn service_that_knows(value: &str) -> Service {
    let service = Service::start().await;
    service
        .upstream
        .add_agent(AGENT, true, json!({"user_name": value}));
    until("the profile", async || declared(&service).await == value).await;
    service
}

/// What a ring fills in for the agent's declared variable.
async fn declared(service: &Service) -> Value {
    service.ring(CALLER, AGENT).await["dynamic_variables"]["user_name"].clone()
}

async fn invalidate(service: &Service) -> Value {
    let path = format!("agents/{AGENT}/invalidate");
    let request = service.admin(reqwest::Method::POST, &path);
    request.send().await.unwrap().json().await.unwrap()
}

fn fetched(service: &Service) -> usize {
    service.upstream.with(|s| s.fetched.len())
}

#[tokio::test]
async fn an_agent_that_is_not_found_once_keeps_its_profile() {
    let mut service = service_that_knows("there").await;
    service.kill().await;
    // Older than it may be, so that it is fetched anew.
    let database = rusqlite::Connection::open(service.path("elaoms.db")).unwrap();
    database.busy_timeout(SOON).unwrap();
    database
        .execute("UPDATE agent_profiles SET fetched_at = 0", [])
        .unwrap();
    drop(database);
    service.upstream.with(|s| s.agents.clear());
    service.respawn().await;

    assert_eq!(declared(&service).await, "there");
    service
        .wait_for_log(&format!("Agent not found: {AGENT}"))
        .await;
    for _ in 0..20 {
        assert_eq!(declared(&service).await, "there");
    }
    assert_eq!(fetched(&service), 2, "no fetch with every ring");
    let stale = r#"elaoms_agent_cache_requests_total{result="stale"}"#;
    assert!(service.metric(stale).await >= 21.0);
}

#[tokio::test]
async fn an_invalidated_profile_stands_until_the_new_one_is_there() {
    let mut service = service_that_knows("old").await;
    service.upstream.with(|s| s.agent_status = Some(500));
    assert_eq!(invalidate(&service).await["invalidated"], true);
    assert_eq!(declared(&service).await, "old");
    until("a try", async || fetched(&service) >= 2).await;
    assert_eq!(declared(&service).await, "old");

    // After a crash it stands as well, and is still to be replaced.
    service.kill().await;
    service
        .upstream
        .add_agent(AGENT, true, json!({"user_name": "new"}));
    service.upstream.with(|s| s.agent_status = None);
    service.respawn().await;
    assert_eq!(declared(&service).await, "old");
    until("the new profile", async || {
        declared(&service).await == "new"
    })
    .await;
}

#[tokio::test]
async fn what_was_asked_before_the_invalidation_is_not_taken_for_new() {
    let service = Service::start().await;
    service
        .upstream
        .add_agent(AGENT, true, json!({"user_name": "old"}));
    service
        .upstream
        .with(|s| s.agent_delay = Duration::from_millis(500));
    service.ring(CALLER, AGENT).await;
    until("the fetch", async || fetched(&service) == 1).await;
    service
        .upstream
        .add_agent(AGENT, true, json!({"user_name": "new"}));
    invalidate(&service).await;
    until("the new profile", async || {
        declared(&service).await == "new"
    })
    .await;
    assert_eq!(fetched(&service), 2);
}
