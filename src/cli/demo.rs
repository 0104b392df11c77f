//! `elaoms demo`: the guide's three validation tests, played on loopback.
//!
//! The service is the real one, on a temporary database. OpenAI and
//! ElevenLabs are small stand-ins, and the screen says so.

mod stand_ins;

use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use jiff::Timestamp;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use crate::app::App;
use crate::config::{Config, Environment};
use crate::http::sign;
use crate::telemetry;

use stand_ins::{AGENT_A, AGENT_B, StandIns};

const CALLER: &str = "+16125551234";
/// How long a call may take to be processed in the demo.
const PATIENCE: Duration = Duration::from_secs(20);
/// The demo listens on loopback only, so its keys need not be secret.
const CLIENT_DATA_KEY: &str = "demo-client-data-key";
const SEARCH_DATA_KEY: &str = "demo-search-data-key";
const POST_CALL_KEY: &str = "demo-post-call-key";

#[derive(Debug, Args)]
pub(super) struct DemoArguments {
    /// End after the tests, with status 0 if all passed and 1 if not.
    #[arg(long)]
    exit: bool,
}

pub(super) async fn run(arguments: DemoArguments) -> ExitCode {
    let result = match tempfile::tempdir() {
        Ok(folder) => play(folder.path(), &arguments).await,
        Err(error) => Err(error.into()),
    };
    match result {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("elaoms: the demo broke off: {error}");
            ExitCode::FAILURE
        }
    }
}

type DemoResult<T> = Result<T, Box<dyn std::error::Error>>;

async fn play(folder: &Path, arguments: &DemoArguments) -> DemoResult<bool> {
    let stand_ins = StandIns::start().await?;
    let settings = Environment::from_pairs([
        ("BIND_ADDR", "127.0.0.1:0".to_owned()),
        ("OPS_ADDR", "127.0.0.1:0".to_owned()),
        ("ELEVENLABS_CLIENT_DATA_KEY", CLIENT_DATA_KEY.to_owned()),
        ("ELEVENLABS_SEARCH_DATA_KEY", SEARCH_DATA_KEY.to_owned()),
        ("ELEVENLABS_POST_CALL_KEY", POST_CALL_KEY.to_owned()),
        ("OPENAI_API_KEY", "demo".to_owned()),
        ("OPENAI_BASE_URL", format!("http://{}/v1", stand_ins.addr)),
        ("ELEVENLABS_API_KEY", "demo".to_owned()),
        ("ELEVENLABS_BASE_URL", format!("http://{}", stand_ins.addr)),
        (
            "DATABASE_URL",
            format!("sqlite://{}", folder.join("elaoms.db").display()),
        ),
        (
            "PAYLOAD_STORAGE_PATH",
            folder.join("payloads").display().to_string(),
        ),
    ]);
    let config = Config::from_env(&settings)?;
    let _logs = telemetry::init(config.services.log_format, Some("warn"), None);
    let app = App::start(config).await?;

    println!("ELAOMS demo: the real service on a temporary database.");
    println!(
        "OpenAI and ElevenLabs are played by small stand-ins on loopback: no account is used,"
    );
    println!(
        "and what the \"model\" says is put together from the transcript by a few lines of code.\n"
    );
    let mut stage = Stage {
        base: format!("http://{}", app.public_addr),
        http: crate::clients::client_builder().no_proxy().build()?,
        passed: true,
        calls: 0,
    };
    stage.validation_tests().await?;
    let passed = stage.passed;
    println!(
        "{}",
        if passed {
            "All three validation tests passed."
        } else {
            "A validation test FAILED."
        }
    );

    if !arguments.exit {
        println!("\nThe service stays up until Ctrl-C:");
        println!("  webhooks   http://{}", app.public_addr);
        println!("  metrics    http://{}/metrics", app.ops_addr);
        println!("  readiness  http://{}/health/ready", app.ops_addr);
        println!("\nRing once more yourself:");
        println!(
            "  curl -H 'X-Api-Key: {CLIENT_DATA_KEY}' -d '{{\"caller_id\":\"{CALLER}\",\"agent_id\":\"{AGENT_A}\"}}' \\"
        );
        println!("    http://{}/webhook/client-data", app.public_addr);
        tokio::signal::ctrl_c().await?;
    }
    app.stop().await;
    Ok(passed)
}

/// Plays calls and checks what the caller would hear.
struct Stage {
    base: String,
    http: reqwest::Client,
    passed: bool,
    calls: u32,
}

impl Stage {
    async fn validation_tests(&mut self) -> DemoResult<()> {
        let first_of = |agent| stand_ins::first_message(agent, "there");
        println!("Test 1, new caller: {CALLER} rings Margaret, the gardener, for the first time.");
        self.until(
            AGENT_A,
            |r| r.heard == first_of(AGENT_A),
            "the agent's own first message: nobody knows this caller",
        )
        .await?;
        self.call(
            AGENT_A,
            &[
                (
                    false,
                    "Hello, this is Margaret from the garden centre. How can I help?",
                ),
                (
                    true,
                    "Hi, my name is Nora. I would like raised beds for tomatoes.",
                ),
                (false, "Lovely, Nora. How large is the plot?"),
                (true, "About six by four metres, mostly sun."),
            ],
        )
        .await?;

        println!("Test 2, returning caller, same agent: Nora rings Margaret again.");
        self.until(
            AGENT_A,
            |r| r.overridden && r.heard.contains("Nora") && r.heard.contains("raised beds"),
            "the greeting made from the last call (Tier 2)",
        )
        .await?;

        println!("Test 3, two agents: Nora rings Luigi, the cook, for the first time.");
        self.until(AGENT_B, |r| !r.overridden && r.heard == stand_ins::first_message(AGENT_B, "Nora"),
            "his own first message, with the name every agent knows (Tier 1), and nothing of the garden").await?;
        self.call(
            AGENT_B,
            &[
                (false, "Ciao Nora, Luigi here. What shall we cook?"),
                (true, "I would like a risotto without onions."),
            ],
        )
        .await?;
        println!("        Nora rings Margaret.");
        self.until(
            AGENT_A,
            |r| r.overridden && r.heard.contains("raised beds"),
            "Margaret's own greeting still",
        )
        .await?;
        println!("        Nora rings Luigi.");
        self.until(
            AGENT_B,
            |r| r.overridden && r.heard.contains("risotto") && !r.heard.contains("raised beds"),
            "Luigi's own greeting",
        )
        .await
    }

    /// Rings until the caller hears what is expected, but not for ever: a call
    /// that has just ended is still being processed.
    async fn until(
        &mut self,
        agent: &str,
        expected: impl Fn(&Ring) -> bool,
        why: &str,
    ) -> DemoResult<()> {
        let end = Instant::now() + PATIENCE;
        loop {
            let ring = self.ring(agent).await?;
            let ok = expected(&ring);
            if ok || Instant::now() > end {
                self.passed &= ok;
                println!("  hears \"{}\"", ring.heard);
                println!("  {} {why}\n", if ok { "ok:  " } else { "FAIL: expected" });
                return Ok(());
            }
            sleep(Duration::from_millis(50)).await;
        }
    }

    async fn ring(&self, agent: &str) -> DemoResult<Ring> {
        let answer: Value = self
            .http
            .post(format!("{}/webhook/client-data", self.base))
            .header("X-Api-Key", CLIENT_DATA_KEY)
            .json(&json!({"caller_id": CALLER, "agent_id": agent, "called_number": "+16125550000", "call_sid": "CA1"}))
            .send()
            .await?
            .error_for_status()?
            .json()
            .await?;
        let name = answer["dynamic_variables"]["user_name"]
            .as_str()
            .unwrap_or("there");
        let own = answer["conversation_config_override"]["agent"]["first_message"].as_str();
        Ok(Ring {
            heard: own.map_or_else(|| stand_ins::first_message(agent, name), str::to_owned),
            overridden: own.is_some(),
        })
    }

    async fn call(&mut self, agent: &str, turns: &[(bool, &str)]) -> DemoResult<()> {
        self.calls += 1;
        let now = Timestamp::now();
        let transcript: Vec<Value> = turns
            .iter()
            .map(|(caller, text)| json!({"role": if *caller { "user" } else { "agent" }, "message": text}))
            .collect();
        let body = json!({
            "type": "post_call_transcription",
            "event_timestamp": now.as_second(),
            "data": {
                "agent_id": agent,
                "conversation_id": format!("conv_demo_{}", self.calls),
                "status": "done",
                "transcript": transcript,
                "metadata": {
                    "start_time_unix_secs": now.as_second(),
                    "phone_call": {"direction": "inbound", "external_number": CALLER},
                },
                "analysis": {"data_collection_results": {}},
            },
        })
        .to_string();
        for (caller, text) in turns {
            println!("    {}: {text}", if *caller { "caller" } else { "agent " });
        }
        println!("    (they hang up; ElevenLabs sends the transcript)\n");
        self.http
            .post(format!("{}/webhook/post-call", self.base))
            .header(
                "ElevenLabs-Signature",
                sign(body.as_bytes(), POST_CALL_KEY.as_bytes(), now),
            )
            .body(body)
            .send()
            .await?
            .error_for_status()?;
        Ok(())
    }
}

/// What a ring was answered with.
struct Ring {
    heard: String,
    overridden: bool,
}
