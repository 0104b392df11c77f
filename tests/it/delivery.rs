//! Nothing is lost, nothing is doubled: redelivery, order, crashes, outages.

use std::time::Duration;

use serde_json::json;

use crate::fakes::OpenAi;
use crate::payloads::call;
use crate::service::{AGENT, CALLER, OTHER_AGENT, Service, until};

#[tokio::test]
async fn the_same_event_ten_times_counts_once_and_is_asked_once() {
    let service = Service::start().await;
    let said = call("conv_1", AGENT, CALLER)
        .caller("My name is Nora.")
        .fact("plot", json!("6x4"));
    for _ in 0..10 {
        let answer = service.end_call(&said).await;
        assert_eq!(answer["status"], "received");
        assert_eq!(answer["conversation_id"], "conv_1");
        assert_eq!(
            answer["message"],
            "Webhook received and queued for processing"
        );
    }
    service.settle().await;
    service.end_call_and_settle(&said).await;
    assert_eq!(service.caller(CALLER).await["total_interactions"], 1);
    assert_eq!(service.upstream.asked(), 1);
    assert_eq!(service.query("SELECT count(*) FROM memories"), 2);
}

#[tokio::test]
async fn an_older_call_delivered_late_never_overwrites_a_newer_greeting() {
    let service = Service::start().await;
    let newer = call("conv_new", AGENT, CALLER)
        .caller("I said the newer thing.")
        .later(600);
    service.end_call_and_settle(&newer).await;
    let older = call("conv_old", AGENT, CALLER).caller("I said the older thing.");
    service.end_call_and_settle(&older).await;
    assert!(
        service
            .greeting(CALLER, AGENT)
            .await
            .unwrap()
            .contains("newer")
    );
    let shown = service.caller(CALLER).await;
    assert_eq!(shown["total_interactions"], 2);
    assert_eq!(shown["first_seen"], "2026-11-22T10:00:00Z");
    assert_eq!(
        shown["agents"][AGENT]["last_call_date"],
        "2026-11-22T10:10:00Z"
    );
    // Counted right after it is settled.
    until("two calls that ended", async || {
        ended(&service, "greeted").await + ended(&service, "superseded").await >= 2.0
    })
    .await;
    assert_eq!(ended(&service, "superseded").await, 1.0);
}

/// How many calls have ended so.
async fn ended(service: &Service, outcome: &str) -> f64 {
    let name = "elaoms_post_call_processing_duration_seconds_count";
    service
        .metric(&format!("{name}{{outcome=\"{outcome}\"}}"))
        .await
}

#[tokio::test]
async fn a_call_whose_greeting_nobody_can_make_any_more_counts_as_learned() {
    let mut service = Service::start().await;
    service.upstream.set_openai(OpenAi {
        status: 503,
        ..OpenAi::default()
    });
    service
        .end_call(&call("conv_1", AGENT, CALLER).caller("I like roses."))
        .await;
    service.wait_for_log("OpenAI API error: 503").await;
    service.kill().await;
    // As if it had ended just before it was learned; then comes a start without a model.
    let database = rusqlite::Connection::open(service.path("elaoms.db")).unwrap();
    database
        .execute("UPDATE inbox SET stage = 'learn', run_at = 0", [])
        .unwrap();
    drop(database);
    service.set("OPENAI_API_KEY", "");
    service.respawn().await;
    service.settle().await;
    until("a call that ended", async || {
        ended(&service, "learned").await + ended(&service, "greeted").await >= 1.0
    })
    .await;
    assert_eq!(ended(&service, "learned").await, 1.0);
    assert_eq!(ended(&service, "greeted").await, 0.0);
}

#[tokio::test]
async fn a_call_without_words_leaves_the_last_greeting() {
    let service = Service::start().await;
    service
        .end_call_and_settle(&call("conv_1", AGENT, CALLER).caller("I like roses."))
        .await;
    let failed = call("conv_2", AGENT, CALLER)
        .with("/data/status", json!("failed"))
        .with("/data/analysis", json!(null))
        .with("/data/metadata/error", json!({"code": 1008, "reason": "x"}))
        .later(60);
    service.end_call_and_settle(&failed).await;
    assert!(
        service
            .greeting(CALLER, AGENT)
            .await
            .unwrap()
            .contains("roses")
    );
    assert_eq!(
        service.caller(CALLER).await["agents"][AGENT]["conversation_count"],
        2
    );
    assert_eq!(service.upstream.asked(), 1);
}

#[tokio::test]
async fn a_crash_right_after_the_200_loses_and_doubles_nothing() {
    let mut service = Service::start().await;
    service.upstream.set_openai(OpenAi {
        delay: Duration::from_millis(300),
        ..OpenAi::default()
    });
    for round in 0..5 {
        let said = call(&format!("conv_{round}"), AGENT, CALLER)
            .caller(&format!("This is round {round}."))
            .later(round * 60);
        service.end_call(&said).await;
        service.crash_and_restart().await;
        // The sender did not see our answer and sends it again.
        service.end_call(&said).await;
    }
    service.settle().await;
    assert_eq!(service.caller(CALLER).await["total_interactions"], 5);
    assert_eq!(service.query("SELECT count(*) FROM memories"), 5);
    assert!(
        service
            .greeting(CALLER, AGENT)
            .await
            .unwrap()
            .contains("round 4")
    );
    for round in 0..5 {
        let path = format!("payloads/conv_{round}/conv_{round}_transcription.json");
        assert!(service.path(&path).exists(), "{path}");
    }
}

#[tokio::test]
async fn a_stop_is_quick_and_what_is_open_goes_on_after_the_next_start() {
    let mut service = Service::start().await;
    service.upstream.set_openai(OpenAi {
        delay: Duration::from_secs(60),
        ..OpenAi::default()
    });
    service
        .end_call(&call("conv_1", AGENT, CALLER).caller("I like roses."))
        .await;
    service.wait_for_openai().await;
    let took = service.terminate().await;
    assert!(took < Duration::from_secs(20), "{took:?}");

    service.upstream.set_openai(OpenAi::default());
    service.respawn().await;
    service.wait_for_greeting(CALLER, AGENT, "roses").await;
    assert_eq!(service.caller(CALLER).await["total_interactions"], 1);
}

#[tokio::test]
async fn openai_is_down_for_a_while_and_every_greeting_arrives_once() {
    let service = Service::start().await;
    service.upstream.set_openai(OpenAi {
        status: 503,
        ..OpenAi::default()
    });
    let callers: Vec<String> = (0..12).map(|i| format!("+1612555{i:04}")).collect();
    for (i, caller) in callers.iter().enumerate() {
        service
            .end_call(&call(&format!("conv_{i}"), AGENT, caller).caller("I like roses."))
            .await;
    }
    // Learned at once, greeted later: the name tier works meanwhile.
    for caller in &callers {
        until("the call to be learned", async || {
            service.caller(caller).await["total_interactions"] == 1
        })
        .await;
        assert_eq!(service.greeting(caller, AGENT).await, None);
    }
    service
        .wait_for_log("OpenAI API error: 503 - Service Unavailable")
        .await;
    until("the breaker", async || {
        service.metric("elaoms_openai_breaker_open").await > 0.0
    })
    .await;

    service.upstream.with(|s| {
        s.openai = OpenAi::default();
        s.asked.clear();
    });
    for caller in &callers {
        service.wait_for_greeting(caller, AGENT, "roses").await;
    }
    service.settle().await;
    assert_eq!(
        service.upstream.asked(),
        callers.len(),
        "each greeting is asked for once after the outage"
    );
    assert_eq!(
        service.query("SELECT count(*) FROM inbox WHERE state = 'dead'"),
        0
    );
}

#[tokio::test]
async fn an_authentic_body_that_is_no_event_is_kept() {
    let service = Service::start().await;
    for body in [
        "this is not JSON",
        "[]",
        r#"{"type":"brand_new_event","data":{}}"#,
    ] {
        for _ in 0..2 {
            let response = service.post_call(body.into()).send().await.unwrap();
            assert_eq!(response.status(), 200, "{body}");
        }
    }
    let listed: serde_json::Value = service
        .admin(reqwest::Method::GET, "dead-letters")
        .send()
        .await
        .unwrap()
        .json()
        .await
        .unwrap();
    let letters = listed["dead_letters"].as_array().unwrap();
    assert_eq!(letters.len(), 3, "{listed}");
    assert!(letters.iter().all(|l| l["kind"] == "unknown"));
    until("the metric", async || {
        service.metric("elaoms_dead_letters").await == 3.0
    })
    .await;
    let id = letters[0]["id"].to_string();
    let retried = service
        .admin(reqwest::Method::POST, &format!("dead-letters/{id}/retry"))
        .send()
        .await
        .unwrap();
    assert_eq!(
        retried.status(),
        422,
        "what cannot be read cannot be retried"
    );
}

#[tokio::test]
async fn a_greeting_that_is_given_up_can_be_asked_for_again() {
    // No time for retries: the first failure is the last.
    let service = Service::start_with(&[("GREETING_RETRY_HOURS", "0")]).await;
    service.upstream.set_openai(OpenAi {
        status: 401,
        error: json!({"error": {"message": "Incorrect API key provided: sk-key-for-openai-0004"}}),
        ..OpenAi::default()
    });
    service
        .end_call_and_settle(&call("conv_1", AGENT, CALLER).caller("I like roses."))
        .await;
    service
        .wait_for_log("OpenAI API error: 401 - Invalid API key")
        .await;
    let listed: serde_json::Value = service
        .admin(reqwest::Method::GET, "dead-letters")
        .send()
        .await
        .unwrap()
        .json()
        .await
        .unwrap();
    assert_eq!(listed["dead_letters"][0]["conversation_id"], "conv_1");

    service.upstream.set_openai(OpenAi::default());
    let id = listed["dead_letters"][0]["id"].to_string();
    let retried = service
        .admin(reqwest::Method::POST, &format!("dead-letters/{id}/retry"))
        .send()
        .await
        .unwrap();
    assert_eq!(retried.status(), 200);
    service.wait_for_greeting(CALLER, AGENT, "roses").await;
    assert_eq!(service.caller(CALLER).await["total_interactions"], 1);
}

#[tokio::test]
async fn a_locked_database_gives_503_while_known_callers_are_still_greeted() {
    let service = Service::start().await;
    service
        .end_call_and_settle(&call("conv_1", AGENT, CALLER).caller("I like roses."))
        .await;
    let mut database = rusqlite::Connection::open(service.path("elaoms.db")).unwrap();
    let lock = database
        .transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)
        .unwrap();

    let refused = service.post_call(
        call("conv_2", OTHER_AGENT, CALLER)
            .caller("Hello there.")
            .body(),
    );
    let (refused, greeting) = tokio::join!(refused.send(), service.greeting(CALLER, AGENT));
    assert_eq!(refused.unwrap().status(), 503);
    assert!(greeting.unwrap().contains("roses"));
    let ready = service
        .http
        .get(format!("{}/health/ready", service.ops))
        .send()
        .await
        .unwrap();
    assert_eq!(ready.status(), 503);

    drop(lock);
    service
        .end_call_and_settle(&call("conv_2", OTHER_AGENT, CALLER).caller("Hello there."))
        .await;
    assert_eq!(service.caller(CALLER).await["total_interactions"], 2);
    let ready = service
        .http
        .get(format!("{}/health/ready", service.ops))
        .send()
        .await
        .unwrap();
    assert_eq!(ready.status(), 200);
}

#[tokio::test]
async fn a_ledger_that_takes_nothing_never_buys_a_greeting_twice() {
    let service = Service::start().await;
    service.upstream.set_openai(OpenAi {
        delay: Duration::from_secs(2),
        ..OpenAi::default()
    });
    service
        .end_call(&call("conv_1", AGENT, CALLER).caller("I like roses."))
        .await;
    service.wait_for_openai().await;
    // The greeting is stored in the same file, so it may wait as well; what
    // counts is that it is not asked for again.
    let mut database = rusqlite::Connection::open(service.path("elaoms.db")).unwrap();
    let lock = database
        .transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)
        .unwrap();
    tokio::time::sleep(Duration::from_secs(4)).await;
    lock.execute_batch(
        "CREATE TRIGGER no_settling BEFORE UPDATE OF state ON inbox
         BEGIN SELECT RAISE(ABORT, 'made to fail'); END",
    )
    .unwrap();
    lock.commit().unwrap();
    service.wait_for_greeting(CALLER, AGENT, "roses").await;
    service
        .wait_for_log("The inbox cannot be written; it is tried again")
        .await;
    database.execute_batch("DROP TRIGGER no_settling").unwrap();
    service.settle().await;
    assert_eq!(service.upstream.asked(), 1);
}

#[tokio::test]
async fn an_event_that_cannot_be_read_is_a_dead_letter_and_the_next_one_is_learned() {
    let service = Service::start().await;
    let database = rusqlite::Connection::open(service.path("elaoms.db")).unwrap();
    database.busy_timeout(Duration::from_secs(10)).unwrap();
    database
        .execute(
            "INSERT INTO inbox (event_key, kind, conversation_id, agent, caller, started_at, greeting_wanted,
                 stage, state, run_at, received_at, payload)
             VALUES ('broken', 'no such kind', 'conv_0', ?1, ?2, 0, 0, 'learn', 'ready', 0, 0, x'7b')",
            [AGENT, CALLER],
        )
        .unwrap();
    service
        .end_call(&call("conv_1", AGENT, CALLER).caller("I like roses."))
        .await;
    until("the call behind it to be learned", async || {
        service.caller(CALLER).await["total_interactions"] == 1
    })
    .await;
    let log = service.log();
    assert_eq!(
        log.matches("An event of the inbox cannot be read").count(),
        1,
        "{log}"
    );
    assert_eq!(
        service.query("SELECT count(*) FROM inbox WHERE state = 'dead'"),
        1
    );
}
