//! Stand-ins for OpenAI and ElevenLabs, for the demo alone.

use std::net::SocketAddr;

use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio_util::sync::{CancellationToken, DropGuard};
use warp::{Filter, Reply, path};

use crate::http::serve;

/// Margaret, the gardener.
pub(super) const AGENT_A: &str = "agent_margaret";
/// Luigi, the cook.
pub(super) const AGENT_B: &str = "agent_luigi";

/// What an agent says first by default, with its variable filled in.
pub(super) fn first_message(agent: &str, user_name: &str) -> String {
    template(agent).replace("{{user_name}}", user_name)
}

fn template(agent: &str) -> &'static str {
    if agent == AGENT_A {
        "Hello {{user_name}}, this is Margaret from the garden centre. How can I help?"
    } else {
        "Ciao {{user_name}}, Luigi here. What shall we cook?"
    }
}

/// The running stand-ins; they end when this is dropped.
pub(super) struct StandIns {
    pub addr: SocketAddr,
    _stop: DropGuard,
}

impl StandIns {
    pub async fn start() -> std::io::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let addr = listener.local_addr()?;
        let stop = CancellationToken::new();
        let openai = path!("v1" / "chat" / "completions")
            .and(warp::post())
            .and(warp::body::json())
            .map(|question: Value| warp::reply::json(&complete(&question)).into_response());
        let elevenlabs = path!("v1" / "convai" / "agents" / String)
            .and(warp::get())
            .map(|agent: String| warp::reply::json(&profile(&agent)).into_response());
        let routes = openai.or(elevenlabs).unify().boxed();
        tokio::spawn(serve(
            listener,
            routes,
            stop.clone(),
            std::time::Duration::ZERO,
        ));
        Ok(Self {
            addr,
            _stop: stop.drop_guard(),
        })
    }
}

fn profile(agent: &str) -> Value {
    json!({
        "agent_id": agent,
        "name": if agent == AGENT_A { "Margaret" } else { "Luigi" },
        "conversation_config": {"agent": {
            "first_message": template(agent),
            "prompt": {"prompt": "You are warm and brief."},
            "dynamic_variables": {"dynamic_variable_placeholders": {"user_name": "there"}},
        }},
        "platform_settings": {"overrides": {"conversation_config_override": {"agent": {"first_message": true}}}},
    })
}

/// Picks up what the caller first asked for, and greets by the known name.
fn complete(question: &Value) -> Value {
    let text = question["messages"][1]["content"]
        .as_str()
        .unwrap_or_default();
    let data: Value = serde_json::from_str(text).unwrap_or_default();
    let transcript = data["transcript"].as_str().unwrap_or_default();
    let wish = transcript
        .lines()
        .filter_map(|line| line.strip_prefix("User: "))
        .find_map(|line| line.split_once("I would like "))
        .map_or("your call", |(_, wish)| wish.trim_end_matches('.'));
    let greeting = data["caller"]["name"]
        .as_str()
        .map(|name| format!("Hello {name}, good to hear you again! Shall we go on with {wish}?"));
    let answer = json!({
        "next_greeting": greeting,
        "key_topics": [wish],
        "sentiment": "positive",
        "conversation_summary": format!("The caller asked for {wish}."),
        "caller_name": null,
    });
    json!({
        "choices": [{"finish_reason": "stop", "message": {"role": "assistant", "content": answer.to_string()}}],
        "usage": {"prompt_tokens": 420, "completion_tokens": 60},
    })
}
