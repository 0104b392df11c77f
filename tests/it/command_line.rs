//! The command line: what it prints, and with which status it ends.

use serde_json::json;

use crate::fakes::{OpenAi, Upstream};
use crate::service::{AGENT, Service, command};

struct Outcome {
    status: i32,
    text: String,
}

async fn run(settings: &[(&'static str, String)], arguments: &[&str]) -> Outcome {
    let folder = tempfile::tempdir().unwrap();
    let output = command(folder.path(), settings)
        .args(arguments)
        .output()
        .await
        .unwrap();
    let text = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
    Outcome {
        status: output.status.code().unwrap(),
        text,
    }
}

#[tokio::test]
async fn the_demo_shows_the_guides_validation_tests() {
    let outcome = run(&[], &["demo", "--exit"]).await;
    assert_eq!(outcome.status, 0, "{}", outcome.text);
    assert!(
        outcome.text.contains("All three validation tests passed."),
        "{}",
        outcome.text
    );
    assert!(outcome.text.contains("stand-ins"), "{}", outcome.text);
}

#[tokio::test]
async fn serve_refuses_to_start_without_its_secrets() {
    for arguments in [&["serve"][..], &[]] {
        let outcome = run(&[("ELEVENLABS_SEARCH_DATA_KEY", "x".into())], arguments).await;
        assert_eq!(outcome.status, 78, "{}", outcome.text);
        for named in [
            "ELEVENLABS_CLIENT_DATA_KEY",
            "ELEVENLABS_POST_CALL_KEY",
            "openssl rand -hex 32",
        ] {
            assert!(outcome.text.contains(named), "{}", outcome.text);
        }
        assert!(
            !outcome
                .text
                .contains("ELEVENLABS_SEARCH_DATA_KEY is not set"),
            "{}",
            outcome.text
        );
    }
}

#[tokio::test]
async fn two_services_never_share_a_database() {
    let service = Service::start().await;
    let database = format!("sqlite://{}", service.path("elaoms.db").display());
    let mut settings: Vec<(&'static str, String)> = vec![("DATABASE_URL", database)];
    settings.extend(
        [
            "ELEVENLABS_CLIENT_DATA_KEY",
            "ELEVENLABS_SEARCH_DATA_KEY",
            "ELEVENLABS_POST_CALL_KEY",
        ]
        .map(|n| (n, "k".into())),
    );
    settings.extend(["BIND_ADDR", "OPS_ADDR"].map(|n| (n, "127.0.0.1:0".into())));
    let outcome = run(&settings, &["serve"]).await;
    assert_eq!(outcome.status, 1);
    assert!(
        outcome.text.contains("in use by another process"),
        "{}",
        outcome.text
    );
}

#[tokio::test]
async fn check_tries_the_real_thing_and_names_the_remedy() {
    let upstream = Upstream::start().await;
    upstream.add_agent(AGENT, false, json!({"user_name": "there"}));
    let settings: Vec<(&'static str, String)> = vec![
        ("OPENAI_API_KEY", "sk-1".into()),
        ("OPENAI_BASE_URL", format!("http://{}/v1", upstream.addr)),
        ("ELEVENLABS_API_KEY", "xi-1".into()),
        ("ELEVENLABS_BASE_URL", format!("http://{}", upstream.addr)),
    ];
    let check = async |arguments: &[&str], status: i32, phrases: &[&str]| {
        let outcome = run(&settings, &[&["check"], arguments].concat()).await;
        assert_eq!(outcome.status, status, "{}", outcome.text);
        for phrase in phrases {
            assert!(
                outcome.text.contains(phrase),
                "{phrase:?} is not in {}",
                outcome.text
            );
        }
    };
    check(&["openai"], 0, &["PASS openai", "500 + 60 tokens"]).await;
    check(
        &["agent", AGENT],
        0,
        &["PASS agent", "Margaret", "NOT be overridden", "user_name"],
    )
    .await;
    check(
        &["agent", "agent_nobody"],
        1,
        &["FAIL agent: Agent not found: agent_nobody", "remedy:"],
    )
    .await;
    check(&["memory"], 0, &["PASS memory"]).await;
    check(&["config"], 1, &["FAIL config", "ELEVENLABS_POST_CALL_KEY"]).await;
    check(
        &["all", "--agent", AGENT],
        1,
        &["FAIL config", "PASS memory", "PASS agent", "PASS openai"],
    )
    .await;
    upstream.set_openai(OpenAi {
        status: 401,
        ..OpenAi::default()
    });
    check(
        &["openai"],
        1,
        &[
            "FAIL openai: OpenAI API error: 401 - Invalid API key",
            "verify OPENAI_API_KEY",
        ],
    )
    .await;
}
