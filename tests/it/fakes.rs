//! Fake OpenAI and ElevenLabs whose behaviour a test sets and whose requests it sees.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use elaoms::http::serve;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio_util::sync::{CancellationToken, DropGuard};
use warp::filters::BoxedFilter;
use warp::http::Response;
use warp::{Filter, Reply, path};

/// How OpenAI behaves.
#[derive(Clone)]
pub struct OpenAi {
    pub status: u16,
    pub delay: Duration,
    pub headers: Vec<(&'static str, String)>,
    /// In place of the usual answer: the text of the message.
    pub content: Option<String>,
    /// In place of the usual error body.
    pub error: Value,
    /// Answers and errors repeat the transcript, in every text they hold.
    pub echoes: bool,
    /// Answer only so many requests as said here, then as usual.
    pub only: Option<usize>,
}

impl Default for OpenAi {
    fn default() -> Self {
        Self {
            status: 200,
            delay: Duration::ZERO,
            headers: Vec::new(),
            content: None,
            error: json!({"error": {"message": "made to fail"}}),
            echoes: false,
            only: None,
        }
    }
}

/// How a model tells what texts mean: by the subjects that their words belong to.
#[derive(Clone)]
pub struct Embeddings {
    pub status: u16,
    pub delay: Duration,
    /// Requests with a text that holds this are refused (400).
    pub refused: Option<&'static str>,
}

impl Default for Embeddings {
    fn default() -> Self {
        Self {
            status: 200,
            delay: Duration::ZERO,
            refused: None,
        }
    }
}

#[derive(Default)]
pub struct State {
    pub openai: OpenAi,
    /// The requests that OpenAI got.
    pub asked: Vec<Value>,
    /// How the embeddings behave, and the requests for them.
    pub embeddings: Embeddings,
    pub embedded: Vec<Value>,
    /// Agent profiles; others get 404.
    pub agents: HashMap<String, Value>,
    pub agent_status: Option<u16>,
    pub agent_delay: Duration,
    pub fetched: Vec<String>,
}

/// Serves these routes on a port of their own, until the guard is dropped.
pub async fn listen<R>(routes: BoxedFilter<(R,)>) -> (SocketAddr, DropGuard)
where
    R: Reply + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let stop = CancellationToken::new();
    tokio::spawn(serve(listener, routes, stop.clone(), Duration::ZERO));
    (addr, stop.drop_guard())
}

/// The running fakes; they end when this is dropped.
pub struct Upstream {
    pub addr: SocketAddr,
    state: Arc<Mutex<State>>,
    _stop: DropGuard,
}

impl Upstream {
    pub async fn start() -> Self {
        let state = Arc::new(Mutex::new(State::default()));
        let shared = warp::any().map({
            let state = Arc::clone(&state);
            move || Arc::clone(&state)
        });
        let openai = path!("v1" / "chat" / "completions")
            .and(warp::post())
            .and(shared.clone())
            .and(warp::body::json())
            .then(complete);
        let elevenlabs = path!("v1" / "convai" / "agents" / String)
            .and(warp::get())
            .and(shared.clone())
            .then(agent);
        let embeddings = path!("v1" / "embeddings")
            .and(warp::post())
            .and(shared.clone())
            .and(warp::body::json())
            .then(embed);
        let routes = openai.or(embeddings).unify().or(elevenlabs).unify();
        let (addr, stop) = listen(routes.boxed()).await;
        Self {
            addr,
            state,
            _stop: stop,
        }
    }

    /// Looks at or changes the behaviour.
    pub fn with<T>(&self, work: impl FnOnce(&mut State) -> T) -> T {
        work(&mut self.state.lock().unwrap())
    }

    /// Requests that OpenAI got so far.
    pub fn asked(&self) -> usize {
        self.with(|s| s.asked.len())
    }

    pub fn set_openai(&self, openai: OpenAi) {
        self.with(|s| s.openai = openai);
    }

    /// An agent as ElevenLabs describes it.
    pub fn add_agent(&self, id: &str, override_allowed: bool, placeholders: Value) {
        let profile = json!({
            "agent_id": id,
            "name": "Margaret",
            "conversation_config": {
                "asr": {"quality": "high"},
                "agent": {
                    "first_message": "Hello {{user_name}}, this is Margaret. How can I help?",
                    "language": "en",
                    "dynamic_variables": {"dynamic_variable_placeholders": placeholders},
                    "prompt": {"prompt": "You are Margaret, a patient gardener.", "llm": "gpt-4o-mini", "tool_ids": []},
                },
            },
            "platform_settings": {"overrides": {"conversation_config_override": {
                "tts": {"voice_id": false}, "agent": {"first_message": override_allowed, "prompt": {"prompt": false}},
            }}},
        });
        self.with(|s| s.agents.insert(id.to_owned(), profile));
    }
}

async fn complete(state: Arc<Mutex<State>>, question: Value) -> Response<String> {
    let behaviour = {
        let mut state = state.lock().unwrap();
        state.asked.push(question.clone());
        let behaviour = state.openai.clone();
        if let Some(left) = &mut state.openai.only {
            *left -= 1;
            if *left == 0 {
                state.openai = OpenAi::default();
            }
        }
        behaviour
    };
    tokio::time::sleep(behaviour.delay).await;
    let mut response = Response::builder()
        .status(behaviour.status)
        .header("content-type", "application/json");
    for (name, value) in &behaviour.headers {
        response = response.header(*name, value);
    }
    let data: Value =
        serde_json::from_str(question["messages"][1]["content"].as_str().unwrap()).unwrap();
    let echo = data["transcript"].as_str().unwrap();
    if behaviour.status != 200 {
        let error = if behaviour.echoes {
            json!({"error": {"message": echo, "type": echo, "code": echo, "param": echo}})
        } else {
            behaviour.error
        };
        return response.body(error.to_string()).unwrap();
    }
    if behaviour.echoes {
        // Neither a completion nor JSON.
        return response.body(format!("You said: {echo}")).unwrap();
    }
    let content = behaviour
        .content
        .unwrap_or_else(|| usual_answer(&data).to_string());
    let body = json!({
        "choices": [{"finish_reason": "stop", "message": {"role": "assistant", "content": content}}],
        "usage": {"prompt_tokens": 500, "completion_tokens": 60},
    });
    response.body(body.to_string()).unwrap()
}

/// Each subject is a dimension; the last one is of texts without any.
const SUBJECTS: &[&[&str]] = &[
    &["tabby", "cat", "kitten"],
    &["sedan", "car", "tyres"],
    &["rose", "roses", "flower"],
];

async fn embed(state: Arc<Mutex<State>>, request: Value) -> Response<String> {
    let behaviour = {
        let mut state = state.lock().unwrap();
        state.embedded.push(request.clone());
        state.embeddings.clone()
    };
    tokio::time::sleep(behaviour.delay).await;
    let response = Response::builder().header("content-type", "application/json");
    let texts = request["input"].as_array().unwrap().iter();
    let texts: Vec<String> = texts.map(|t| t.as_str().unwrap().to_lowercase()).collect();
    let refuses = |text: &String| behaviour.refused.is_some_and(|word| text.contains(word));
    if behaviour.status != 200 || texts.iter().any(refuses) {
        let status = if behaviour.status == 200 {
            400
        } else {
            behaviour.status
        };
        let error = json!({"error": {"message": "made to fail"}});
        return response.status(status).body(error.to_string()).unwrap();
    }
    let data: Vec<Value> = texts
        .iter()
        .enumerate()
        .map(|(index, text)| {
            let holds = |subject: &&[&str]| subject.iter().any(|word| text.contains(word));
            let mut numbers: Vec<f32> = SUBJECTS
                .iter()
                .map(|subject| f32::from(u8::from(holds(subject))))
                .collect();
            numbers.push(0.1);
            json!({"index": index, "embedding": numbers})
        })
        .collect();
    let body = json!({"data": data, "usage": {"prompt_tokens": 3, "total_tokens": 3}});
    response.body(body.to_string()).unwrap()
}

/// Greets by name and repeats the caller's last words, so that a test sees
/// from which call a greeting was made.
fn usual_answer(data: &Value) -> Value {
    let transcript = data["transcript"].as_str().unwrap();
    let last = transcript
        .lines()
        .filter_map(|l| l.strip_prefix("User: "))
        .next_back()
        .unwrap_or("nothing");
    let words: Vec<&str> = last.split_whitespace().take(12).collect();
    let name = data["caller"]["name"].as_str().unwrap_or("there");
    json!({
        "next_greeting": format!("Hello {name}, you said: {}", words.join(" ")),
        "key_topics": ["garden"],
        "sentiment": "positive",
        "conversation_summary": format!("Said: {}", words.join(" ")),
        "caller_name": null,
    })
}

async fn agent(id: String, state: Arc<Mutex<State>>) -> Response<String> {
    let (status, delay, profile) = {
        let mut state = state.lock().unwrap();
        state.fetched.push(id.clone());
        (
            state.agent_status,
            state.agent_delay,
            state.agents.get(&id).cloned(),
        )
    };
    tokio::time::sleep(delay).await;
    let (status, body) = match (status, profile) {
        (Some(status), _) => (status, json!({"detail": "made to fail"})),
        (None, Some(profile)) => (200, profile),
        (None, None) => (404, json!({"detail": {"status": "agent_not_found"}})),
    };
    Response::builder()
        .status(status)
        .body(body.to_string())
        .unwrap()
}
