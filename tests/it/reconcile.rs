//! Calls whose webhook never came: fetched, learned once, in order.

use std::time::Duration;

use elaoms::http::sign;
use jiff::{SignedDuration, Timestamp};
use reqwest::StatusCode;
use serde_json::{Value, json};

use crate::elevenlabs_stand_in::Account;
use crate::payloads::{self, CallBody};
use crate::service::{AGENT, CALLER, OTHER_AGENT, OTHER_CALLER, Service, until};

const LIST: &str = "/v1/convai/conversations";
const DETAILS: &str = "/v1/convai/conversations/";

/// A service that is connected, and its account.
async fn connected(interval: &str) -> (Account, Service) {
    let account = Account::start().await;
    account.add_connected_agent(AGENT, "Margaret");
    let service = connect(&account, interval).await;
    (account, service)
}

async fn connect(account: &Account, interval: &str) -> Service {
    Service::start_with(&[
        ("ELEVENLABS_BASE_URL", &account.url()),
        ("PUBLIC_URL", "https://elaoms.example"),
        ("ELEVENLABS_WEBHOOK_ID", "wh_ours"),
        ("RECONCILE_INTERVAL_MINUTES", interval),
        (
            "OPS_ADDR",
            &format!("127.0.0.1:{}", crate::service::free_port()),
        ),
    ])
    .await
}

fn hours_ago(hours: i64) -> i64 {
    (Timestamp::now() - SignedDuration::from_hours(hours)).as_second()
}

/// A call that began so many hours ago.
fn call(conversation: &str, caller: &str, hours: i64) -> CallBody {
    payloads::call(conversation, AGENT, caller)
        .caller(&format!("These are the words of {conversation}."))
        .with(
            "/data/metadata/start_time_unix_secs",
            hours_ago(hours).into(),
        )
}

/// The last look, when it has ended.
async fn ended(service: &Service) -> Value {
    let mut progress = Value::Null;
    until("the end of the look", async || {
        let answer = service
            .admin(reqwest::Method::GET, "reconcile")
            .send()
            .await
            .unwrap();
        progress = answer.json().await.unwrap();
        !["none", "running"].contains(&progress["state"].as_str().unwrap())
    })
    .await;
    progress
}

#[tokio::test]
async fn what_never_came_is_fetched_by_itself_and_only_once() {
    let (account, service) = connected("1").await;
    // The newest one came; two that were before it did not.
    service
        .end_call_and_settle(&call("conv_3", CALLER, 1))
        .await;
    for i in 1..=3 {
        account.add_call(&call(&format!("conv_{i}"), CALLER, 10 - i * 3));
    }
    account.add_call(&call("conv_live", CALLER, 0).with("/data/status", "in-progress".into()));
    let progress = ended(&service).await;
    let counted = ["listed", "known", "fetched", "not_yet", "lost"]
        .map(|name| progress[name].as_u64().unwrap());
    assert_eq!(counted, [4, 1, 2, 1, 0], "{progress}");
    service.settle().await;
    let caller = service.caller(CALLER).await;
    assert_eq!(caller["total_interactions"], 3, "{caller}");
    // An older call never overwrites a newer greeting.
    until("the newest call's greeting", async || {
        let ring = service.ring(CALLER, AGENT).await;
        let greeting = ring["dynamic_variables"]["next_greeting"].as_str();
        greeting.is_some_and(|greeting| greeting.contains("conv_3"))
    })
    .await;
    assert_eq!(
        service
            .metric(r#"elaoms_reconciled_calls_total{result="fetched"}"#)
            .await,
        2.0
    );
    assert_eq!(account.asked(DETAILS), 2);

    // Nothing is missing: one list, and nothing is fetched. The webhook comes after all.
    let lists = account.asked(LIST) - account.asked(DETAILS);
    let (status, text) = service.run(&["reconcile", "--since", "12h"]).await;
    assert!(
        status == 0 && text.contains("3 were known, 0 were missing"),
        "{text}"
    );
    assert_eq!(account.asked(LIST) - account.asked(DETAILS), lists + 1);
    service
        .end_call_and_settle(&call("conv_1", CALLER, 7))
        .await;
    assert_eq!(service.caller(CALLER).await["total_interactions"], 3);
    assert_eq!(account.asked(DETAILS), 2);
    assert!(account.with(|s| s.most_at_once) <= 4);
}

#[tokio::test]
async fn what_cannot_be_had_is_reported_and_nothing_else_is_held_up() {
    let (account, service) = connected("0").await;
    account.add_connected_agent("agent_zero", "Zero");
    account.with(|s| {
        let zero = s
            .agents
            .get_mut("agent_zero")
            .unwrap()
            .values_mut()
            .next()
            .unwrap();
        zero["platform_settings"]["privacy"]["zero_retention_mode"] = true.into();
    });
    account.add_agent(OTHER_AGENT, "Luigi");
    let deleted = json!({"deleted_transcript_at_time_unix_secs": hours_ago(1)});
    account.add_call(
        &payloads::call("conv_deleted", AGENT, CALLER)
            .with("/data/metadata/start_time_unix_secs", hours_ago(5).into())
            .with("/data/metadata/deletion_settings", deleted),
    );
    account.add_call(&call("conv_good", CALLER, 4));
    account.add_call(&call("conv_others", CALLER, 4).with("/data/agent_id", OTHER_AGENT.into()));
    // Those who opted out or were erased stay so.
    let answer = service.admin(
        reqwest::Method::PUT,
        &format!("callers/{OTHER_CALLER}/opt-out"),
    );
    assert_eq!(answer.send().await.unwrap().status(), 200);
    account.add_call(&call("conv_out", OTHER_CALLER, 4));
    let erased = "+16125550177";
    service
        .end_call_and_settle(&call("conv_known", erased, 3))
        .await;
    let (status, text) = service.run(&["caller", "erase", erased]).await;
    assert_eq!(status, 0, "{text}");
    account.add_call(&call("conv_before", erased, 6));

    let (status, text) = service.run(&["reconcile", "--dry-run"]).await;
    assert!(status == 0 && text.contains("4 are missing"), "{text}");
    assert_eq!(account.asked(DETAILS), 0);
    let (status, text) = service.run(&["reconcile"]).await;
    assert_eq!(status, 0, "{text}");
    for told in [
        "1 were missing and are fetched",
        "2 are of callers who opted out",
        "1 cannot be fetched",
        "conv_deleted: its transcript is deleted",
        "agent_zero has zero retention",
    ] {
        assert!(text.contains(told), "{told:?} in {text}");
    }
    service.settle().await;
    assert_eq!(service.caller(CALLER).await["total_interactions"], 1);
    assert_eq!(service.query("SELECT count(*) FROM callers"), 1);

    let (status, text) = service.run(&["reconcile", "--agent", OTHER_AGENT]).await;
    assert!(status == 1 && text.contains("not connected"), "{text}");
    account.with(|s| s.too_many = 3);
    let (status, text) = service.run(&["reconcile", "--since", "30d"]).await;
    assert_eq!(status, 0, "429 is obeyed: {text}");
}

#[tokio::test]
async fn without_a_service_they_wait_in_the_inbox() {
    let (account, mut service) = connected("0").await;
    account.add_call(&call("conv_1", CALLER, 4));
    service.terminate().await;
    let (status, text) = service.run(&["reconcile"]).await;
    assert!(
        status == 0 && text.contains("learned when it is started"),
        "{text}"
    );
    service.respawn().await;
    service.settle().await;
    assert_eq!(service.caller(CALLER).await["total_interactions"], 1);
    // Who is not connected is told what to do.
    service.set("PUBLIC_URL", "");
    service.set("ELEVENLABS_WEBHOOK_ID", "");
    service.terminate().await;
    let (status, text) = service.run(&["reconcile"]).await;
    assert!(status == 1 && text.contains("elaoms setup"), "{text}");
}

#[tokio::test]
async fn a_good_but_old_signature_has_the_call_fetched() {
    let (account, service) = connected("0").await;
    let told = call("conv_1", CALLER, 1);
    account.add_call(&told);
    // What was sent is not what was said: it is not believed.
    let sent = call("conv_1", OTHER_CALLER, 1).body();
    let old = Timestamp::now() - SignedDuration::from_mins(45);
    let send = async |body: &[u8], key: &[u8]| {
        let signature = sign(body, key, old);
        let sent = service
            .post_call_signed(body.to_vec(), &signature)
            .send()
            .await;
        sent.unwrap().status()
    };
    assert_eq!(send(&sent, b"wsec_another").await, StatusCode::UNAUTHORIZED);
    assert_eq!(account.asked(DETAILS), 0, "a stranger has nothing fetched");
    assert_eq!(send(&sent, service.post_call_key()).await, StatusCode::OK);
    service.settle().await;
    assert_eq!(service.caller(CALLER).await["total_interactions"], 1);
    assert_eq!(service.query("SELECT count(*) FROM callers"), 1);
    // Again: it is known, and nothing is fetched.
    assert_eq!(send(&sent, service.post_call_key()).await, StatusCode::OK);
    assert_eq!(account.asked(DETAILS), 1);
    // A call that ElevenLabs does not have, a recording, and an outage.
    let made_up = call("conv_made_up", CALLER, 1).body();
    assert_eq!(
        send(&made_up, service.post_call_key()).await,
        StatusCode::UNAUTHORIZED
    );
    let recording =
        br#"{"type":"post_call_audio","data":{"conversation_id":"conv_1","full_audio":"AAAA"}}"#;
    assert_eq!(
        send(recording, service.post_call_key()).await,
        StatusCode::UNAUTHORIZED
    );
    account.add_call(&call("conv_2", CALLER, 1).with("/data/status", "processing".into()));
    let soon = call("conv_2", CALLER, 1).body();
    assert_eq!(
        send(&soon, service.post_call_key()).await,
        StatusCode::SERVICE_UNAVAILABLE
    );
}

#[tokio::test]
async fn who_is_erased_at_elevenlabs_is_found_there_by_their_id() {
    let account = Account::start().await;
    account.add_connected_agent(AGENT, "Margaret");
    account.add_agent(OTHER_AGENT, "Luigi");
    let service = Service::start_with(&[
        ("ELEVENLABS_BASE_URL", &account.url()),
        ("ELEVENLABS_API_KEY", crate::elevenlabs_stand_in::FULL_KEY),
        ("ELEVENLABS_WEBHOOK_ID", "wh_ours"),
        ("RECONCILE_INTERVAL_MINUTES", "0"),
    ])
    .await;
    // What a ring is told is what ElevenLabs keeps with the conversation.
    let ring = service.ring(CALLER, AGENT).await;
    assert_eq!(ring["user_id"], CALLER);
    for (conversation, whose) in [
        ("conv_known", CALLER),
        ("conv_lost", CALLER),
        ("conv_other", OTHER_CALLER),
    ] {
        account.add_call(&call(conversation, whose, 2).with("/data/user_id", whose.into()));
    }
    // Another system's, and one of somebody who says to be the caller.
    let others = call("conv_others", CALLER, 2).with("/data/agent_id", OTHER_AGENT.into());
    account.add_call(&others.with("/data/user_id", CALLER.into()));
    account.add_call(&call("conv_claimed", OTHER_CALLER, 2).with("/data/user_id", CALLER.into()));
    service
        .end_call_and_settle(&call("conv_known", CALLER, 2))
        .await;
    let path = format!("callers/{CALLER}?elevenlabs=true");
    let answer = service
        .admin(reqwest::Method::DELETE, &path)
        .send()
        .await
        .unwrap();
    let receipt: Value = answer.json().await.unwrap();
    assert_eq!(
        (&receipt["elevenlabs"], &receipt["left"]),
        (&json!(2), &json!([])),
        "{receipt}"
    );
    let left = account.with(|s| s.conversations.keys().cloned().collect::<Vec<_>>());
    assert_eq!(left, ["conv_claimed", "conv_other", "conv_others"]);
}

#[tokio::test]
async fn a_webhook_that_brings_nothing_is_told() {
    let account = Account::start().await;
    account.add_connected_agent(AGENT, "Margaret");
    account.with(|s| s.webhooks.get_mut("wh_ours").unwrap()["is_auto_disabled"] = true.into());
    let service = connect(&account, "0").await;
    service.wait_for_log("ElevenLabs has disabled it").await;
    assert_eq!(
        service
            .metric(r#"elaoms_webhook_state{state="disabled"}"#)
            .await,
        1.0
    );
    assert_eq!(
        service.metric(r#"elaoms_webhook_state{state="ok"}"#).await,
        0.0
    );
}

/// The calls of a year are fetched while new ones come in; the service is killed
/// in the middle.
#[tokio::test]
async fn a_year_is_backfilled_while_calls_come_in() {
    let number = |name: &str, default: i64| {
        std::env::var(name)
            .ok()
            .and_then(|n| n.parse().ok())
            .unwrap_or(default)
    };
    let (calls, callers) = (
        number("BACKFILL_CALLS", 1_200),
        number("BACKFILL_CALLERS", 240),
    );
    let account = Account::start().await;
    account.add_connected_agent(AGENT, "Margaret");
    let caller = |i: i64| format!("+1612555{:04}", i % callers);
    for i in 0..calls {
        // From the oldest to the newest, over a year less a day.
        let hours = 24 + (calls - i) * (363 * 24) / calls;
        account.add_call(&call(&format!("conv_{i:05}"), &caller(i), hours));
    }
    account.with(|s| s.delay = Duration::from_millis(2));
    let mut service = connect(&account, "0").await;
    let mut backfill = service.start_command(&["reconcile", "--since", "365d"]);
    let fetched = async |service: &Service| service.query("SELECT count(*) FROM inbox");
    until("the first third", async || {
        fetched(&service).await > calls / 3
    })
    .await;
    account.with(|s| s.too_many = 7);
    service.kill().await;
    backfill.kill().await.unwrap();
    service.respawn().await;
    let memory = || {
        let status = std::fs::read_to_string(format!("/proc/{}/status", service.pid())).unwrap();
        let line = status
            .lines()
            .find_map(|l| l.strip_prefix("VmHWM:"))
            .unwrap();
        line.trim().trim_end_matches(" kB").parse::<u64>().unwrap()
    };
    let started = std::time::Instant::now();
    let mut again = service.start_command(&["reconcile", "--since", "365d"]);
    let mut live = 0;
    let status = loop {
        let new = payloads::call(&format!("conv_live_{live}"), AGENT, &caller(live))
            .caller("I call today.");
        service
            .end_call(&new.with("/data/metadata/start_time_unix_secs", hours_ago(0).into()))
            .await;
        live += 1;
        tokio::select! {
            status = again.wait() => break status.unwrap(),
            () = tokio::time::sleep(Duration::from_millis(20)) => {}
        }
    };
    assert!(status.success(), "{status}");
    eprintln!(
        "the second run: {:?}, {live} calls meanwhile, at most {} kB",
        started.elapsed(),
        memory()
    );
    let end = std::time::Instant::now() + Duration::from_secs(240);
    while service.inbox_pending() > 0 {
        assert!(std::time::Instant::now() < end, "the inbox does not empty");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let total = "SELECT sum(total_interactions) FROM callers";
    assert_eq!(service.query(total), calls + live, "each is learned once");
    assert_eq!(
        service.query("SELECT count(*) FROM learned_calls"),
        calls + live
    );
    assert_eq!(
        service.query("SELECT count(*) FROM inbox WHERE state = 'dead'"),
        0
    );
    // Of each caller the newest call is the one that is greeted from.
    let unordered =
        "SELECT count(*) FROM conversation_states WHERE greeted_started_at < last_call_date";
    assert_eq!(service.query(unordered), 0);
    // Greetings are paid for: not one for each call of a year.
    let asked = i64::try_from(service.upstream.asked()).unwrap();
    eprintln!(
        "{asked} greetings for {} calls of {callers} callers",
        calls + live
    );
    assert!(asked < calls / 2 + live, "{asked}");
    assert!(account.with(|s| s.most_at_once) <= 4);
    let details = i64::try_from(account.asked(DETAILS)).unwrap();
    assert!(
        details < calls + 50,
        "what is known is not fetched again: {details}"
    );
}
