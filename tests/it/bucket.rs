//! The archive in an S3-compatible bucket, on moto's server.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::process::Stdio;
use std::time::{Duration, SystemTime};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use elaoms::domain::call_event::{EventKey, EventKind};
use elaoms::domain::ids::ConversationId;
use elaoms::store::{Archive, ArchiveOptions, BucketOptions, call_mark};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use tokio::process::{Child, Command};

use crate::payloads::call;
use crate::service::{AGENT, CALLER, OTHER_CALLER, Service, free_port, until};
use crate::tools;

const KEY_ID: &str = "AKIAELAOMSTEST000001";
const SECRET: &str = "a-secret-of-the-bucket-0001";

/// An S3-compatible server.
struct S3 {
    endpoint: String,
    http: reqwest::Client,
    _child: Child,
}

impl S3 {
    /// With an empty bucket `archive`. `None` where moto is not installed.
    async fn start() -> Option<Self> {
        let manifest = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
        let program = manifest.join("target/moto/bin/moto_server");
        if !tools::is_there_or_skipped("moto", program.exists()) {
            return None;
        }
        let port = free_port();
        let child = Command::new(program)
            .args(["-H", "127.0.0.1", "-p", &port.to_string()])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let server = Self {
            endpoint: format!("http://{}", SocketAddr::from((Ipv4Addr::LOCALHOST, port))),
            http: elaoms::clients::client_builder()
                .no_proxy()
                .build()
                .unwrap(),
            _child: child,
        };
        until("the bucket", async || {
            let made = server.request(Method::PUT, "archive").send().await;
            made.is_ok_and(|made| made.status() == 200)
        })
        .await;
        Some(server)
    }

    /// moto looks for a signature, and not at it.
    fn request(&self, method: Method, path: &str) -> reqwest::RequestBuilder {
        let signature = format!(
            "AWS4-HMAC-SHA256 Credential={KEY_ID}/20261125/us-east-1/s3/aws4_request, SignedHeaders=host, Signature=0"
        );
        self.http
            .request(method, format!("{}/{path}", self.endpoint))
            .header("Authorization", signature)
    }

    async fn get(&self, path: &str) -> Option<Vec<u8>> {
        let request = self.request(Method::GET, &format!("archive/calls/{path}"));
        let response = request.send().await.unwrap();
        let is_there = response.status() == StatusCode::OK;
        let body = response.bytes().await.unwrap();
        is_there.then(|| body.to_vec())
    }

    fn settings(&self) -> [(&'static str, &str); 5] {
        [
            ("PAYLOAD_STORAGE_URL", "s3://archive/calls"),
            ("AWS_ENDPOINT_URL", &self.endpoint),
            ("AWS_REGION", "us-east-1"),
            ("AWS_ACCESS_KEY_ID", KEY_ID),
            ("AWS_SECRET_ACCESS_KEY", SECRET),
        ]
    }
}

fn recording(conversation: &str, audio: &[u8]) -> Vec<u8> {
    let audio = STANDARD.encode(audio);
    let data = json!({"agent_id": AGENT, "conversation_id": conversation, "full_audio": audio});
    json!({"type": "post_call_audio", "data": data})
        .to_string()
        .into_bytes()
}

async fn send(service: &Service, body: Vec<u8>) -> StatusCode {
    service.post_call(body).send().await.unwrap().status()
}

#[tokio::test(flavor = "multi_thread")]
async fn transcripts_and_recordings_are_in_the_bucket_and_go_with_their_caller() {
    let Some(s3) = S3::start().await else {
        return;
    };
    let service = Service::start_with(&s3.settings()).await;
    let said = call("conv_1", AGENT, CALLER).caller("I like roses.");
    service.end_call_and_settle(&said).await;
    let stored = s3.get("conv_1/conv_1_transcription.json").await;
    assert!(stored == Some(said.body()));
    assert_eq!(send(&service, recording("conv_1", b"ID3")).await, 200);
    assert_eq!(s3.get("conv_1/conv_1_audio.mp3").await.unwrap(), b"ID3");
    // In several parts.
    let long: Vec<u8> = (0..20u32 << 20).map(|i| (i / 7) as u8).collect();
    assert_eq!(send(&service, recording("conv_long", &long)).await, 200);
    assert!(s3.get("conv_long/conv_long_audio.mp3").await.unwrap() == long);
    let odd = r#"{"type":"post_call_audio","data":{"conversation_id":"conv_odd","full_audio":"no base64!"}}"#;
    assert_eq!(send(&service, odd.into()).await, 200);
    assert_eq!(
        s3.get("conv_odd/conv_odd_audio.b64").await.unwrap(),
        b"no base64!"
    );
    let left = std::fs::read_dir(service.path("payloads/.incoming")).unwrap();
    assert_eq!(left.count(), 0, "nothing stays on the way");
    let ready = service.http.get(format!("{}/health/ready", service.ops));
    assert_eq!(ready.send().await.unwrap().status(), 200);

    let other = call("conv_2", AGENT, OTHER_CALLER).caller("I like tulips.");
    service.end_call_and_settle(&other).await;
    let erased = service.admin(Method::DELETE, &format!("callers/{CALLER}"));
    let receipt: Value = erased.send().await.unwrap().json().await.unwrap();
    assert_eq!(
        (&receipt["files"], &receipt["left"]),
        (&json!(2), &json!([]))
    );
    assert_eq!(s3.get("conv_1/conv_1_transcription.json").await, None);
    assert_eq!(s3.get("conv_1/conv_1_audio.mp3").await, None);
    assert!(s3.get("conv_2/conv_2_transcription.json").await.is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_old_goes_and_nothing_but_files_of_calls() {
    let Some(s3) = S3::start().await else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let options = ArchiveOptions {
        folder: folder.path().to_owned(),
        bucket: Some(BucketOptions {
            bucket: "archive".into(),
            prefix: "calls".into(),
            endpoint: Some(s3.endpoint.clone()),
            region: Some("us-east-1".into()),
            key: Some((KEY_ID.into(), SECRET.to_owned().into())),
        }),
    };
    let archive = Archive::open_for(&options, true).unwrap();
    let bodies = (0..3).map(|i| {
        let key = EventKey {
            kind: EventKind::Transcription,
            conversation_id: ConversationId::parse(&format!("conv_{i}")).unwrap(),
            agent_id: None,
        };
        (key, Bytes::from_static(b"{}"))
    });
    let turn = archive.begin_batch().await.unwrap();
    for stored in archive.store_all(bodies.collect(), turn).await.unwrap() {
        stored.unwrap();
    }
    let foreign = s3
        .request(Method::PUT, "archive/calls/reports/2026.csv")
        .body("x");
    assert_eq!(foreign.send().await.unwrap().status(), 200);
    let one = ConversationId::parse("conv_1").unwrap();
    let marks = [call_mark(&one)].into_iter().collect();
    assert_eq!(archive.find(marks).await.unwrap(), [one]);
    let hour = Duration::from_secs(3_600);
    assert_eq!(archive.expire(SystemTime::now() - hour).await.unwrap(), 0);
    assert_eq!(archive.expire(SystemTime::now() + hour).await.unwrap(), 3);
    assert_eq!(archive.expire(SystemTime::now() + hour).await.unwrap(), 0);
    assert!(s3.get("reports/2026.csv").await.is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn while_the_bucket_is_away_calls_are_learned_and_wait_for_it() {
    let Some(s3) = S3::start().await else {
        return;
    };
    let service = Service::start_with(&s3.settings()).await;
    // What the service has tried at its start is in the way.
    until("the service to have tried", async || {
        s3.get(".elaoms-check").await.is_some()
    })
    .await;
    let tried = s3.request(Method::DELETE, "archive/calls/.elaoms-check");
    assert_eq!(tried.send().await.unwrap().status(), 204);
    let gone = s3.request(Method::DELETE, "archive").send().await.unwrap();
    assert_eq!(gone.status(), 204);
    let said = call("conv_1", AGENT, CALLER).caller("I like roses.");
    service.end_call(&said).await;
    service.wait_for_greeting(CALLER, AGENT, "roses").await;
    // A recording has to be sent again.
    assert_eq!(send(&service, recording("conv_1", b"ID3")).await, 503);
    let ready = service.http.get(format!("{}/health/ready", service.ops));
    let ready = ready.send().await.unwrap();
    assert_eq!(ready.status(), 503);
    let why = ready.text().await.unwrap();
    assert!(
        why.contains("the bucket of the archive: it is not there"),
        "{why}"
    );
    let made = s3.request(Method::PUT, "archive").send().await.unwrap();
    assert_eq!(made.status(), 200);
    until("the transcript to arrive", async || {
        s3.get("conv_1/conv_1_transcription.json").await.is_some()
    })
    .await;
    assert_eq!(send(&service, recording("conv_1", b"ID3")).await, 200);
}
