//! The front door: keys, signatures, bodies, time-outs.

use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use elaoms::http::sign;
use futures_util::stream;
use jiff::{SignedDuration, Timestamp};
use reqwest::Body;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::payloads::call;
use crate::service::{AGENT, CALLER, CANARY, Service};

const MIB: usize = 1024 * 1024;

#[tokio::test]
async fn a_wrong_or_missing_key_is_401() {
    let service = Service::start().await;
    for path in ["client-data", "search-data"] {
        let url = format!("{}/webhook/{path}", service.base);
        let body = json!({"caller_id": CALLER, "user_id": CALLER, "agent_id": AGENT, "query": "x"});
        for key in [
            None,
            Some(""),
            Some("wrong"),
            Some("key-for-client-data-000"),
            Some("wsec_key-for-post-call-0003"),
        ] {
            let mut request = service.http.post(&url).json(&body);
            if let Some(key) = key {
                request = request.header("X-Api-Key", key);
            }
            let response = request.send().await.unwrap();
            assert_eq!(response.status(), 401, "{path} {key:?}");
            let answer: serde_json::Value = response.json().await.unwrap();
            assert!(answer["error"].is_string());
        }
    }
    assert!(
        service
            .metric(r#"elaoms_webhook_requests_total{endpoint="client-data",status="401"}"#)
            .await
            >= 5.0
    );
}

#[tokio::test]
async fn a_wrong_stale_or_missing_signature_is_401_and_changes_nothing() {
    let service = Service::start().await;
    let body = call("conv_1", AGENT, CALLER)
        .caller(&format!("My {CANARY}."))
        .body();
    let now = Timestamp::now();
    let at = |minutes: i64| now.checked_sub(SignedDuration::from_mins(minutes)).unwrap();
    let good = sign(&body, service.post_call_key(), now);
    for signature in [
        String::new(),
        "nonsense".into(),
        sign(&body, b"another key", now),
        sign(b"another body", service.post_call_key(), now),
        sign(&body, service.post_call_key(), at(31)),
        sign(&body, service.post_call_key(), at(-6)),
        good.replace("v0=", "v1="),
        good.split(',').next().unwrap().to_owned(),
    ] {
        let response = service
            .post_call_signed(body.clone(), &signature)
            .send()
            .await
            .unwrap();
        assert_eq!(response.status(), 401, "{signature}");
    }
    let unsigned = service
        .http
        .post(format!("{}/webhook/post-call", service.base))
        .body(body.clone())
        .send()
        .await;
    assert_eq!(unsigned.unwrap().status(), 401);
    assert_eq!(service.query("SELECT count(*) FROM inbox"), 0);
    assert_eq!(
        std::fs::read_dir(service.path("payloads/.incoming"))
            .unwrap()
            .count(),
        0
    );

    let (t, v0) = good.split_once(',').unwrap();
    let reordered = format!("{v0}, x=1,{t}");
    assert_eq!(
        service
            .post_call_signed(body, &reordered)
            .send()
            .await
            .unwrap()
            .status(),
        200
    );
}

#[tokio::test]
async fn bad_bodies_get_a_clear_error() {
    let service = Service::start().await;
    let client_data = async |body: &str| {
        let response = service
            .client_data()
            .body(body.to_owned())
            .send()
            .await
            .unwrap();
        let status = response.status().as_u16();
        let answer: serde_json::Value = response.json().await.unwrap();
        assert_eq!(answer["error"].is_string(), status != 200, "{answer}");
        status
    };
    assert_eq!(client_data("").await, 400);
    assert_eq!(client_data("{").await, 400);
    assert_eq!(client_data("{}").await, 422);
    assert_eq!(client_data("[]").await, 422);
    assert_eq!(
        client_data(r#"{"caller_id":"+16125550101","agent_id":7}"#).await,
        422
    );
    assert_eq!(
        client_data(r#"{"caller_id":"+16125550101","agent_id":""}"#).await,
        422
    );
    assert_eq!(
        client_data(r#"{"caller_id":"not a number","agent_id":"a"}"#).await,
        200
    );
    assert_eq!(
        client_data(&format!(
            r#"{{"agent_id":"a","x":"{}"}}"#,
            "y".repeat(70_000)
        ))
        .await,
        413
    );

    let search = async |body: serde_json::Value| {
        service
            .search_data()
            .json(&body)
            .send()
            .await
            .unwrap()
            .status()
            .as_u16()
    };
    assert_eq!(search(json!({"query": "q", "user_id": CALLER})).await, 422);
    assert_eq!(search(json!({"query": "q", "agent_id": AGENT})).await, 422);
    assert_eq!(
        search(json!({"user_id": CALLER, "agent_id": AGENT})).await,
        422
    );
    assert_eq!(
        search(json!({"query": "q", "user_id": null, "agent_id": AGENT})).await,
        200
    );

    let get = async |path: &str| {
        service
            .http
            .get(format!("{}{path}", service.base))
            .send()
            .await
            .unwrap()
            .status()
            .as_u16()
    };
    assert_eq!(get("/webhook/client-data").await, 405);
    assert_eq!(get("/nowhere").await, 404);
    assert_eq!(get("/health").await, 200);
    assert_eq!(get("/").await, 200);
    assert_eq!(
        get("/metrics").await,
        404,
        "metrics are on the operations listener only"
    );
}

#[tokio::test]
async fn admin_routes_need_the_key_and_are_off_without_one() {
    let service = Service::start().await;
    let url = format!("{}/admin/dead-letters", service.ops);
    assert_eq!(service.http.get(&url).send().await.unwrap().status(), 401);
    assert_eq!(
        service
            .http
            .get(&url)
            .bearer_auth("wrong")
            .send()
            .await
            .unwrap()
            .status(),
        401
    );
    let off = Service::start_with(&[("ADMIN_KEY", "")]).await;
    let url = format!("{}/admin/dead-letters", off.ops);
    for key in ["", "key-for-admin-0006"] {
        assert_eq!(
            off.http
                .get(&url)
                .bearer_auth(key)
                .send()
                .await
                .unwrap()
                .status(),
            404
        );
    }
}

#[tokio::test]
async fn nobody_on_the_way_may_keep_an_answer() {
    let service = Service::start().await;
    service
        .end_call_and_settle(&call("conv_1", AGENT, CALLER).caller("My name is Nora."))
        .await;
    let ring = json!({"caller_id": CALLER, "agent_id": AGENT});
    let search = json!({"query": "x", "user_id": CALLER, "agent_id": AGENT});
    let get = |path: &str| service.admin(reqwest::Method::GET, path);
    for (status, request) in [
        (200, service.client_data().json(&ring)),
        (200, service.search_data().json(&search)),
        (200, get(&format!("callers/{CALLER}"))),
        (200, get("dead-letters")),
        (404, get("callers/+16125550109")),
        (422, service.client_data().json(&json!({}))),
        (401, service.post_call_signed(b"{}".to_vec(), "t=1,v0=00")),
    ] {
        let response = request.send().await.unwrap();
        assert_eq!(response.status(), status);
        assert_eq!(response.headers()["cache-control"], "no-store");
    }
}

/// A recording of so many bytes as ElevenLabs sends it.
fn recording(conversation: &str, bytes: usize) -> Vec<u8> {
    let audio = STANDARD.encode(vec![0xAB; bytes]);
    json!({"type": "post_call_audio", "event_timestamp": 1_795_341_690, "data":
        {"agent_id": AGENT, "conversation_id": conversation, "full_audio": audio}})
    .to_string()
    .into_bytes()
}

/// Chunked, without a content length.
fn chunked(body: Vec<u8>) -> Body {
    let chunks: Vec<Result<Vec<u8>, std::io::Error>> =
        body.chunks(64 * 1024).map(|c| Ok(c.to_vec())).collect();
    Body::wrap_stream(stream::iter(chunks))
}

#[tokio::test]
async fn a_large_recording_is_streamed_to_disk() {
    let service = Service::start().await;
    let resident = || {
        let status = std::fs::read_to_string(format!("/proc/{}/status", service.pid())).unwrap();
        let line = status.lines().find(|l| l.starts_with("VmHWM:")).unwrap();
        line.split_whitespace()
            .nth(1)
            .unwrap()
            .parse::<usize>()
            .unwrap()
            * 1024
    };
    let before = resident();
    let body = recording("conv_long", 40 * MIB);
    assert!(body.len() > 50 * MIB);
    let signature = sign(&body, service.post_call_key(), Timestamp::now());
    let response = service
        .post_call_signed(Vec::new(), &signature)
        .body(chunked(body))
        .send()
        .await
        .unwrap();
    assert_eq!(response.status(), 200);
    let stored = std::fs::metadata(service.path("payloads/conv_long/conv_long_audio.mp3")).unwrap();
    assert_eq!(stored.len(), 40 * MIB as u64);
    let grown = resident() - before;
    assert!(
        grown < 16 * MIB,
        "{} MiB were held for a body of 53",
        grown / MIB
    );
}

#[tokio::test]
async fn past_the_cap_a_body_is_413_however_it_is_sent() {
    let service = Service::start_with(&[("MAX_BODY_MB", "1")]).await;
    let body = recording("conv_big", MIB);
    let signature = sign(&body, service.post_call_key(), Timestamp::now());
    let whole = service
        .post_call_signed(body.clone(), &signature)
        .send()
        .await
        .unwrap();
    assert_eq!(whole.status(), 413);
    let streamed = service
        .post_call_signed(Vec::new(), &signature)
        .body(chunked(body))
        .send()
        .await;
    // The connection may be closed before the rest is sent.
    assert!(streamed.map_or(true, |r| r.status() == 413));
    assert!(!service.path("payloads/conv_big").exists());
    assert_eq!(
        std::fs::read_dir(service.path("payloads/.incoming"))
            .unwrap()
            .count(),
        0
    );
}

#[tokio::test]
async fn an_unsafe_conversation_id_never_becomes_a_path() {
    let service = Service::start().await;
    let said = call("../../evil", AGENT, CALLER).caller("I like roses.");
    service.end_call_and_settle(&said).await;
    let folders: Vec<String> = std::fs::read_dir(service.path("payloads"))
        .unwrap()
        .map(|e| e.unwrap().file_name().into_string().unwrap())
        .filter(|name| name != ".incoming")
        .collect();
    assert!(
        folders.len() == 1 && folders[0].starts_with("sha256-"),
        "{folders:?}"
    );
    assert_eq!(service.caller(CALLER).await["total_interactions"], 1);
}

/// Sends something incomplete and reads what comes back until the end.
async fn half_sent(service: &Service, bytes: &[u8], limit: Duration) -> String {
    let address = service.base.strip_prefix("http://").unwrap();
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(bytes).await.unwrap();
    let mut answer = String::new();
    timeout(limit, stream.read_to_string(&mut answer))
        .await
        .expect("the connection is ended in time")
        .unwrap();
    answer
}

#[tokio::test]
async fn a_half_sent_header_or_body_is_cut_off() {
    let service = Service::start().await;
    let body = b"POST /webhook/client-data HTTP/1.1\r\nHost: x\r\nX-Api-Key: key-for-client-data-0001\r\nContent-Length: 50\r\n\r\n{\"caller";
    let (header, body) = tokio::join!(
        half_sent(
            &service,
            b"POST /webhook/client-data HTTP/1.1\r\nHost: x\r\nX-A",
            Duration::from_secs(45)
        ),
        half_sent(&service, body, Duration::from_secs(15)),
    );
    assert!(
        header.is_empty() || header.starts_with("HTTP/1.1 408"),
        "{header}"
    );
    assert!(body.starts_with("HTTP/1.1 408"), "{body}");
}

#[tokio::test]
async fn strangers_who_trickle_bodies_do_not_keep_events_out() {
    let service = Service::start().await;
    let address = service.base.strip_prefix("http://").unwrap();
    let mut strangers = Vec::new();
    for _ in 0..400 {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let t = Timestamp::now().as_second();
        let head = format!(
            "POST /webhook/post-call HTTP/1.1\r\nHost: x\r\nElevenLabs-Signature: t={t},v0={}\r\nContent-Length: 90000\r\n\r\n{{",
            "00".repeat(32)
        );
        stream.write_all(head.as_bytes()).await.unwrap();
        strangers.push(stream);
    }
    service
        .end_call_and_settle(&call("conv_1", AGENT, CALLER).caller("I like roses."))
        .await;
}

#[tokio::test]
async fn a_recording_without_audio_never_replaces_one() {
    let service = Service::start().await;
    let full = recording("conv_1", 6);
    assert_eq!(service.post_call(full).send().await.unwrap().status(), 200);
    let empty = json!({"type": "post_call_audio", "data": {"conversation_id": "conv_1", "full_audio": null}});
    assert_eq!(
        service
            .post_call(empty.to_string().into_bytes())
            .send()
            .await
            .unwrap()
            .status(),
        200
    );
    assert_eq!(
        std::fs::read(service.path("payloads/conv_1/conv_1_audio.mp3"))
            .unwrap()
            .len(),
        6
    );
    assert_eq!(
        service.query("SELECT count(*) FROM inbox WHERE state = 'dead'"),
        1
    );
}
