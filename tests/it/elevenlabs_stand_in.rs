//! A stand-in of ElevenLabs' API with a memory: what set-up, checks and
//! reconciliation ask of it. Strict where the real one is: unknown fields,
//! permissions, things in use. Written from its public OpenAPI document.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use elaoms::http::sign;
use jiff::Timestamp;
use serde_json::{Map, Value, json};
use tokio_util::sync::DropGuard;
use warp::Filter;
use warp::http::{HeaderMap, Method, Response};

use crate::fakes::listen;
use crate::payloads::CallBody;

pub const FULL_KEY: &str = "xi-key-of-an-administrator";
pub const READ_KEY: &str = "xi-key-for-elevenlabs-0005";

/// A request as it came in.
#[derive(Clone, Debug)]
pub struct Seen {
    pub method: String,
    pub path: String,
    pub query: BTreeMap<String, String>,
    pub body: Value,
}

impl Seen {
    pub fn is_write(&self) -> bool {
        self.method != "GET"
    }

    /// Whether it only asks what its key may do.
    pub fn is_trial(&self) -> bool {
        self.path.contains("elaoms_tries_what_its_key_may_do")
    }
}

/// How a request is made to fail.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Failure {
    /// Answered with this status, and not done.
    Status(u16),
    /// Done, and answered with 500: the answer is as good as lost.
    LostAnswer,
}

#[derive(Default)]
pub struct State {
    pub webhooks: BTreeMap<String, Value>,
    /// What each webhook signs with.
    pub signing: BTreeMap<String, String>,
    pub secrets: BTreeMap<String, (String, String)>,
    pub tools: BTreeMap<String, Value>,
    /// Agents, and the settings of each of their branches. One without branches has
    /// the empty name.
    pub agents: BTreeMap<String, BTreeMap<String, Value>>,
    /// The share of calls of `agent/branch`.
    pub live: BTreeMap<String, f64>,
    pub workspace: Value,
    pub numbers: Vec<Value>,
    /// Conversations as they are listed and as they are told.
    pub conversations: BTreeMap<String, Value>,
    pub seen: Vec<Seen>,
    /// What to do with the request of this number (from 0, trials left out).
    pub fail: Option<(usize, Failure)>,
    /// So many of the next requests are answered with 429.
    pub too_many: usize,
    /// How long an answer takes.
    pub delay: Duration,
    /// Most requests that were under way at once.
    pub most_at_once: usize,
    at_once: usize,
    pub counted: usize,
    made: usize,
}

/// A request; it ends, too, when whoever made it is killed.
struct UnderWay(Arc<Mutex<State>>);

impl Drop for UnderWay {
    fn drop(&mut self) {
        if let Ok(mut state) = self.0.lock() {
            state.at_once -= 1;
        }
    }
}

impl State {
    fn id(&mut self, kind: &str) -> String {
        self.made += 1;
        format!("{kind}_{:04}", self.made)
    }

    /// What can be seen of the account, without what only grows.
    pub fn account(&self) -> Value {
        json!({
            "webhooks": self.webhooks.values().map(|w| &w["webhook_url"]).collect::<Vec<_>>(),
            "secrets": self.secrets, "tools": self.tools, "agents": self.agents, "workspace": self.workspace,
        })
    }

    pub fn writes(&self) -> usize {
        let writes = self.seen.iter().filter(|s| s.is_write() && !s.is_trial());
        writes.count()
    }

    fn refers_to_webhook(&self, id: &str) -> bool {
        let attached = |webhooks: &Value| webhooks["post_call_webhook_id"] == id;
        let agents = self.agents.values().flat_map(BTreeMap::values);
        attached(&self.workspace["webhooks"])
            || agents
                .into_iter()
                .any(|a| attached(&a["platform_settings"]["workspace_overrides"]["webhooks"]))
    }
}

/// The running stand-in; it ends when this is dropped.
pub struct Account {
    pub addr: SocketAddr,
    state: Arc<Mutex<State>>,
    _stop: DropGuard,
}

type Answer = Result<Value, (u16, Value)>;

impl Account {
    pub async fn start() -> Self {
        let state = Arc::new(Mutex::new(State {
            workspace: json!({"can_use_mcp_servers": false, "default_livekit_stack": "standard",
                "rag_retention_period_days": 10, "conversation_initiation_client_data_webhook": null,
                "webhooks": {"post_call_webhook_id": null, "events": ["transcript"], "transcript_format": "json"}}),
            ..State::default()
        }));
        let shared = Arc::clone(&state);
        let routes = warp::any()
            .and(warp::method())
            .and(warp::path::full())
            .and(warp::query::raw().or(warp::any().map(String::new)).unify())
            .and(warp::header::headers_cloned())
            .and(warp::body::bytes())
            .then(
                move |method, path: warp::path::FullPath, query: String, headers, body| {
                    answer(
                        Arc::clone(&shared),
                        method,
                        path.as_str().to_owned(),
                        query,
                        headers,
                        body,
                    )
                },
            )
            .boxed();
        let (addr, stop) = listen(routes).await;
        Self {
            addr,
            state,
            _stop: stop,
        }
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.addr)
    }

    pub fn with<T>(&self, work: impl FnOnce(&mut State) -> T) -> T {
        work(&mut self.state.lock().unwrap())
    }

    pub fn add_agent(&self, id: &str, name: &str) {
        self.with(|s| {
            let branches = BTreeMap::from([(String::new(), agent(id, name))]);
            s.agents.insert(id.to_owned(), branches)
        });
    }

    pub fn add_branch(&self, id: &str, branch: &str, share: f64) {
        self.with(|s| {
            let settings = s.agents[id].values().next().unwrap().clone();
            s.agents
                .get_mut(id)
                .unwrap()
                .insert(branch.to_owned(), settings);
            s.live.insert(format!("{id}/{branch}"), share);
        });
    }

    pub fn add_number(&self, number: &str, agent: &str) {
        let number = json!({"phone_number": number, "label": "", "phone_number_id": "phnum_1", "provider": "twilio",
            "assigned_agent": {"agent_id": agent, "agent_name": agent, "branch_id": null}});
        self.with(|s| s.numbers.push(number));
    }

    /// An agent whose calls come to the webhook `wh_ours`.
    pub fn add_connected_agent(&self, id: &str, name: &str) {
        self.add_agent(id, name);
        self.with(|s| {
            let agent = s.agents.get_mut(id).unwrap().values_mut().next().unwrap();
            let overrides = &mut agent["platform_settings"]["workspace_overrides"];
            overrides["webhooks"]["post_call_webhook_id"] = "wh_ours".into();
            s.webhooks.entry("wh_ours".into()).or_insert_with(|| {
                json!({"webhook_id": "wh_ours", "name": "ELAOMS", "webhook_url": "https://elaoms.example/webhook/post-call",
                    "is_disabled": false, "is_auto_disabled": false, "retry_enabled": true})
            });
        });
    }

    /// A call that has ended, whose webhook may never come.
    pub fn add_call(&self, call: &CallBody) {
        let data = call.0["data"].clone();
        let id = data["conversation_id"].as_str().unwrap().to_owned();
        self.with(|s| s.conversations.insert(id, data));
    }

    /// Requests whose path begins so.
    pub fn asked(&self, path: &str) -> usize {
        self.with(|s| {
            s.seen
                .iter()
                .filter(|seen| seen.path.starts_with(path))
                .count()
        })
    }

    /// An agent's settings.
    pub fn agent(&self, id: &str) -> Value {
        self.with(|s| s.agents[id].values().next().unwrap().clone())
    }

    /// Where and with which signature the webhook of an agent sends an event now.
    pub fn signed(&self, agent: &str, body: &[u8]) -> (String, String) {
        self.with(|s| {
            let settings = s.agents[agent].values().next().unwrap();
            let id = &settings["platform_settings"]["workspace_overrides"]["webhooks"]["post_call_webhook_id"];
            let id = id.as_str().unwrap();
            let url = s.webhooks[id]["webhook_url"].as_str().unwrap().to_owned();
            (url, sign(body, s.signing[id].as_bytes(), Timestamp::now()))
        })
    }
}

/// An agent as the API describes a new one.
fn agent(id: &str, name: &str) -> Value {
    json!({
        "agent_id": id,
        "name": name,
        "conversation_config": {
            "asr": {"quality": "high", "keywords": []},
            "language_presets": {},
            "agent": {
                "first_message": format!("Hello, this is {name}."),
                "language": "en",
                "dynamic_variables": {"dynamic_variable_placeholders": {}},
                "prompt": {"prompt": format!("You are {name}."), "llm": "gpt-4o-mini", "tool_ids": [], "tools": []},
            },
        },
        "platform_settings": {
            "privacy": {"record_voice": true, "retention_days": -1, "zero_retention_mode": false},
            "overrides": {
                "enable_conversation_initiation_client_data_from_webhook": false,
                "custom_llm_extra_body": false,
                "conversation_config_override": {
                    "asr": {"keywords": false},
                    "agent": {"first_message": false, "language": false, "prompt": {"prompt": false}},
                },
            },
            "workspace_overrides": {
                "conversation_initiation_client_data_webhook": null,
                "webhooks": {"post_call_webhook_id": null, "events": ["transcript"], "transcript_format": "json"},
            },
        },
    })
}

async fn answer(
    state: Arc<Mutex<State>>,
    method: Method,
    path: String,
    query: String,
    headers: HeaderMap,
    body: Bytes,
) -> Response<String> {
    let query: BTreeMap<String, String> = url::form_urlencoded::parse(query.as_bytes())
        .into_owned()
        .collect();
    let seen = Seen {
        method: method.to_string(),
        path,
        query,
        body: serde_json::from_slice(&body).unwrap_or_default(),
    };
    let key = headers.get("xi-api-key").and_then(|k| k.to_str().ok());
    let delay = {
        let mut state = state.lock().unwrap();
        state.at_once += 1;
        state.most_at_once = state.most_at_once.max(state.at_once);
        state.delay
    };
    {
        let _under_way = UnderWay(Arc::clone(&state));
        tokio::time::sleep(delay).await;
    }
    let mut state = state.lock().unwrap();
    let mut response = Response::builder();
    let done = if state.too_many > 0 {
        state.too_many -= 1;
        response = response.header("retry-after", "0.1");
        Err((429, json!({"status": "too_many_concurrent_requests"})))
    } else {
        let number = state.counted;
        state.counted += usize::from(!seen.is_trial());
        let failure = state
            .fail
            .filter(|(at, _)| *at == number && !seen.is_trial());
        match failure {
            Some((_, Failure::Status(status))) => Err((status, json!({"status": "made_to_fail"}))),
            Some((_, Failure::LostAnswer)) => {
                let _ = permitted(key, &seen).and_then(|()| handle(&mut state, &seen));
                Err((500, Value::Null))
            }
            None => permitted(key, &seen).and_then(|()| handle(&mut state, &seen)),
        }
    };
    state.seen.push(seen);
    let (status, body) = match done {
        Ok(body) => (200, body),
        Err((status, detail)) => (status, json!({"detail": detail})),
    };
    response.status(status).body(body.to_string()).unwrap()
}

fn permitted(key: Option<&str>, seen: &Seen) -> Result<(), (u16, Value)> {
    let wanted = if seen.path.starts_with("/v1/workspace/webhooks") && seen.is_write() {
        "webhooks_write"
    } else if seen.is_write() {
        "convai_write"
    } else {
        "convai_read"
    };
    let has = match key {
        Some(FULL_KEY) => true,
        Some(READ_KEY) => wanted == "convai_read",
        Some("xi-key-without-webhooks") => wanted != "webhooks_write",
        _ => {
            return Err((
                401,
                json!({"status": "invalid_api_key", "message": "Invalid API key"}),
            ));
        }
    };
    let message = format!(
        "The API key you used is missing the permission {wanted} to execute this operation."
    );
    match has {
        true => Ok(()),
        false => Err((
            401,
            json!({"status": "missing_permissions", "message": message}),
        )),
    }
}

const NOT_FOUND: fn() -> (u16, Value) = || (404, json!({"status": "not_found"}));

fn invalid(place: &str, kind: &str) -> (u16, Value) {
    (
        422,
        json!([{"loc": ["body", place], "msg": "refused", "type": kind}]),
    )
}

/// Refuses fields that the API does not know.
fn only(value: &Value, known: &[&str]) -> Result<(), (u16, Value)> {
    let fields = value
        .as_object()
        .ok_or_else(|| invalid("", "object_type"))?;
    match fields.keys().find(|key| !known.contains(&key.as_str())) {
        Some(unknown) => Err(invalid(unknown, "extra_forbidden")),
        None => Ok(()),
    }
}

fn handle(state: &mut State, seen: &Seen) -> Answer {
    let parts: Vec<&str> = seen.path.trim_start_matches("/v1/").split('/').collect();
    let allowed: &[&str] = match parts[..] {
        ["workspace", "webhooks"] => &["include_usages"],
        ["convai", "secrets"] => &["search", "page_size", "cursor"],
        ["convai", "tools"] => &["search", "types", "page_size", "cursor"],
        ["convai", "agents"] => &["page_size", "cursor"],
        ["convai", "agents", _] => &["branch_id"],
        ["convai", "agents", _, "branches"] => &["limit"],
        ["convai", "conversations"] => &[
            "agent_id",
            "user_id",
            "call_start_after_unix",
            "call_start_before_unix",
            "page_size",
            "cursor",
            "sort_direction",
        ],
        _ => &[],
    };
    if let Some(unknown) = seen
        .query
        .keys()
        .find(|key| !allowed.contains(&key.as_str()))
    {
        return Err(invalid(unknown, "unknown_query"));
    }
    match (seen.method.as_str(), &parts[..]) {
        ("GET", ["workspace", "webhooks"]) => {
            let webhooks: Vec<Value> = state
                .webhooks
                .iter()
                .map(|(id, webhook)| {
                    let mut webhook = webhook.clone();
                    let used = state.refers_to_webhook(id);
                    webhook["usage"] = match used {
                        true => json!([{"usage_type": "ConvAI Agent Settings"}]),
                        false => json!([]),
                    };
                    webhook
                })
                .collect();
            Ok(json!({"webhooks": webhooks}))
        }
        ("POST", ["workspace", "webhooks"]) => {
            only(&seen.body, &["settings"])?;
            let settings = &seen.body["settings"];
            only(
                settings,
                &["auth_type", "name", "webhook_url", "request_headers"],
            )?;
            if settings["auth_type"] != "hmac" {
                return Err(invalid("auth_type", "literal_error"));
            }
            let id = state.id("wh");
            let secret = format!("wsec_secret-of-{id}");
            state.signing.insert(id.clone(), secret.clone());
            let webhook = json!({"webhook_id": id, "name": settings["name"], "webhook_url": settings["webhook_url"],
                "is_disabled": false, "is_auto_disabled": false, "created_at_unix": 1_795_000_000, "auth_type": "hmac",
                "retry_enabled": false, "most_recent_failure_error_code": null});
            state.webhooks.insert(id.clone(), webhook);
            Ok(json!({"webhook_id": id, "webhook_secret": secret}))
        }
        (method, ["workspace", "webhooks", id]) => {
            if !state.webhooks.contains_key(*id) {
                return Err(NOT_FOUND());
            }
            if method == "DELETE" {
                if state.refers_to_webhook(id) {
                    return Err((400, json!({"status": "webhook_in_use"})));
                }
                state.webhooks.remove(*id);
                return Ok(json!({"status": "ok"}));
            }
            only(
                &seen.body,
                &[
                    "is_disabled",
                    "name",
                    "retry_enabled",
                    "events",
                    "request_headers",
                ],
            )?;
            if !seen.body["is_disabled"].is_boolean() || !seen.body["name"].is_string() {
                return Err(invalid("is_disabled", "missing"));
            }
            let webhook = state.webhooks.get_mut(*id).unwrap();
            for (key, value) in seen.body.as_object().unwrap() {
                webhook[key] = value.clone();
            }
            if seen.body["is_disabled"] == false {
                webhook["is_auto_disabled"] = false.into();
            }
            Ok(json!({"status": "ok"}))
        }
        (_, ["convai", "secrets", ..]) => secrets(state, seen, parts.get(2).copied()),
        (_, ["convai", "tools", ..]) => tools(state, seen, parts.get(2).copied()),
        ("GET", ["convai", "agents"]) => {
            let agents = state.agents.iter().map(|(id, branches)| {
                let name = &branches.values().next().unwrap()["name"];
                json!({"agent_id": id, "name": name, "tags": [], "archived": false})
            });
            let agents: Vec<Value> = agents.collect();
            Ok(paged(&agents, "agents", seen))
        }
        ("GET", ["convai", "agents", id, "branches"]) => {
            let branches = state.agents.get(*id).ok_or_else(NOT_FOUND)?;
            let branches = branches.keys().filter(|branch| !branch.is_empty());
            let branches: Vec<Value> = branches
                .map(|branch| {
                    let share = state
                        .live
                        .get(&format!("{id}/{branch}"))
                        .copied()
                        .unwrap_or(0.0);
                    json!({"id": branch, "name": branch, "agent_id": id, "is_archived": false,
                        "current_live_percentage": share})
                })
                .collect();
            Ok(json!({"results": branches, "meta": {}}))
        }
        (method, ["convai", "agents", id]) => {
            let branch = seen.query.get("branch_id").cloned();
            let branches = state.agents.get_mut(*id).ok_or_else(NOT_FOUND)?;
            let branch = branch.unwrap_or_else(|| branches.keys().next().unwrap().clone());
            let settings = branches.get_mut(&branch).ok_or_else(NOT_FOUND)?;
            if method == "PATCH" {
                only(
                    &seen.body,
                    &["conversation_config", "platform_settings", "name", "tags"],
                )?;
                check_settings(&seen.body, &state.webhooks, &state.secrets, &state.tools)?;
                merge(settings, &seen.body);
            }
            Ok(settings.clone())
        }
        ("GET", ["convai", "phone-numbers"]) => Ok(state.numbers.clone().into()),
        ("GET", ["convai", "settings"]) => Ok(state.workspace.clone()),
        ("PATCH", ["convai", "settings"]) => {
            let known: Vec<String> = state
                .workspace
                .as_object()
                .unwrap()
                .keys()
                .cloned()
                .collect();
            only(
                &seen.body,
                &known.iter().map(String::as_str).collect::<Vec<_>>(),
            )?;
            // What is left out is reset: nobody has written down that it is not.
            state.workspace = seen.body.clone();
            Ok(state.workspace.clone())
        }
        ("GET", ["convai", "conversations"]) => Ok(conversations(state, seen)),
        ("DELETE", ["convai", "conversations", id]) => state
            .conversations
            .remove(*id)
            .map(|_| Value::Null)
            .ok_or_else(NOT_FOUND),
        ("GET", ["convai", "conversations", id]) => {
            state.conversations.get(*id).cloned().ok_or_else(NOT_FOUND)
        }
        _ => Err(NOT_FOUND()),
    }
}

fn secrets(state: &mut State, seen: &Seen, id: Option<&str>) -> Answer {
    match (seen.method.as_str(), id) {
        ("GET", None) => {
            let wanted = seen.query.get("search").cloned().unwrap_or_default();
            let secrets: Vec<Value> = state
                .secrets
                .iter()
                .filter(|(_, (name, _))| name.contains(&wanted))
                .map(|(id, (name, _))| {
                    let used = |thing: &Value| thing.to_string().contains(&format!("\"{id}\""));
                    let agents = state.agents.iter().filter(|(_, branches)| branches.values().any(used));
                    let tools = state.tools.iter().filter(|(_, tool)| used(tool));
                    json!({"type": "stored", "secret_id": id, "name": name, "used_by": {
                        "agents": agents.map(|(id, _)| json!({"id": id})).collect::<Vec<_>>(),
                        "tools": tools.map(|(id, _)| json!({"id": id})).collect::<Vec<_>>(), "others": []}})
                })
                .collect();
            Ok(json!({"secrets": secrets, "next_cursor": null}))
        }
        ("POST", None) => {
            only(&seen.body, &["type", "name", "value"])?;
            if seen.body["type"] != "new" {
                return Err(invalid("type", "literal_error"));
            }
            let id = state.id("secret");
            let text = |name: &str| seen.body[name].as_str().unwrap().to_owned();
            state
                .secrets
                .insert(id.clone(), (text("name"), text("value")));
            Ok(json!({"type": "stored", "secret_id": id, "name": text("name")}))
        }
        ("PATCH", Some(id)) => {
            only(&seen.body, &["type", "name", "value"])?;
            let secret = state.secrets.get_mut(id).ok_or_else(NOT_FOUND)?;
            if seen.body["type"] != "update" {
                return Err(invalid("type", "literal_error"));
            }
            let text = |name: &str| seen.body[name].as_str().unwrap().to_owned();
            *secret = (text("name"), text("value"));
            Ok(json!({"type": "stored", "secret_id": id, "name": secret.0}))
        }
        ("DELETE", Some(id)) => {
            let used = |thing: &Value| thing.to_string().contains(&format!("\"{id}\""));
            let in_use = state.tools.values().any(used)
                || state
                    .agents
                    .values()
                    .any(|branches| branches.values().any(used));
            match (in_use, state.secrets.contains_key(id)) {
                (_, false) => Err(NOT_FOUND()),
                (true, _) => Err((400, json!({"status": "secret_in_use"}))),
                (false, true) => {
                    state.secrets.remove(id);
                    Ok(Value::Null)
                }
            }
        }
        _ => Err((405, Value::Null)),
    }
}

fn tools(state: &mut State, seen: &Seen, id: Option<&str>) -> Answer {
    if ["POST", "PATCH"].contains(&seen.method.as_str()) {
        only(&seen.body, &["tool_config"])?;
        let config = &seen.body["tool_config"];
        only(
            config,
            &[
                "type",
                "name",
                "description",
                "response_timeout_secs",
                "api_schema",
                "disable_interruptions",
                "tool_error_handling_mode",
            ],
        )?;
        let schema = &config["api_schema"];
        only(
            schema,
            &[
                "url",
                "method",
                "request_headers",
                "request_body_schema",
                "content_type",
            ],
        )?;
        let properties = schema["request_body_schema"]["properties"]
            .as_object()
            .unwrap();
        for (name, property) in properties {
            only(
                property,
                &[
                    "type",
                    "description",
                    "dynamic_variable",
                    "constant_value",
                    "enum",
                ],
            )?;
            let ways = ["description", "dynamic_variable", "constant_value"];
            let given = |way: &&&str| !property[**way].is_null() && property[**way] != "";
            if ways.iter().filter(given).count() != 1 {
                return Err(invalid(name, "value_error"));
            }
        }
        for header in schema["request_headers"].as_object().unwrap().values() {
            check_header(header, &state.secrets)?;
        }
    }
    let stored = |id: &str, config: &Value| {
        // What the server fills in.
        let mut config = config.clone();
        config["tool_error_handling_mode"] = "auto".into();
        config["disable_interruptions"] = false.into();
        config["api_schema"]["content_type"] = "application/json".into();
        let usage = json!({"total_calls": 0, "avg_latency_secs": 0.0});
        json!({"id": id, "tool_config": config, "access_info": {}, "usage_stats": usage})
    };
    match (seen.method.as_str(), id) {
        ("GET", None) => {
            let wanted = seen.query.get("search").cloned().unwrap_or_default();
            let tools: Vec<Value> = state
                .tools
                .values()
                .filter(|tool| {
                    tool["tool_config"]["name"]
                        .as_str()
                        .unwrap()
                        .contains(&wanted)
                })
                .cloned()
                .collect();
            Ok(paged(&tools, "tools", seen))
        }
        ("POST", None) => {
            let id = state.id("tool");
            let tool = stored(&id, &seen.body["tool_config"]);
            state.tools.insert(id, tool.clone());
            Ok(tool)
        }
        ("PATCH", Some(id)) => {
            let tool = stored(id, &seen.body["tool_config"]);
            let known = state.tools.get_mut(id).ok_or_else(NOT_FOUND)?;
            *known = tool.clone();
            Ok(tool)
        }
        ("DELETE", Some(id)) => {
            let has = |settings: &Value| {
                let ids = settings["conversation_config"]["agent"]["prompt"]["tool_ids"].as_array();
                ids.is_some_and(|ids| ids.iter().any(|attached| attached == id))
            };
            if state
                .agents
                .values()
                .any(|branches| branches.values().any(has))
            {
                return Err((400, json!({"status": "tool_in_use"})));
            }
            state
                .tools
                .remove(id)
                .map(|_| Value::Null)
                .ok_or_else(NOT_FOUND)
        }
        _ => Err((405, Value::Null)),
    }
}

fn check_header(
    header: &Value,
    secrets: &BTreeMap<String, (String, String)>,
) -> Result<(), (u16, Value)> {
    if header.is_string() {
        return Ok(());
    }
    only(header, &["secret_id"])?;
    match header["secret_id"]
        .as_str()
        .is_some_and(|id| secrets.contains_key(id))
    {
        true => Ok(()),
        false => Err(invalid("secret_id", "unknown_secret")),
    }
}

/// Refuses what an agent's settings cannot hold.
fn check_settings(
    patch: &Value,
    webhooks: &BTreeMap<String, Value>,
    secrets: &BTreeMap<String, (String, String)>,
    tools: &BTreeMap<String, Value>,
) -> Result<(), (u16, Value)> {
    fn known(patch: &Value, template: &Value, path: &str) -> Result<(), (u16, Value)> {
        // Open maps: their keys are the user's. What is null says nothing.
        let is_open =
            path.ends_with("placeholders") || template.is_null() || template == &json!({});
        let (Value::Object(patch), Value::Object(template)) = (patch, template) else {
            return Ok(());
        };
        for (key, value) in patch {
            let below = template.get(key);
            if below.is_none() && !is_open {
                return Err(invalid(&format!("{path}.{key}"), "extra_forbidden"));
            }
            known(
                value,
                below.unwrap_or(&Value::Null),
                &format!("{path}.{key}"),
            )?;
        }
        Ok(())
    }
    known(patch, &agent("", ""), "")?;
    let overrides = &patch["platform_settings"]["workspace_overrides"];
    let client_data = &overrides["conversation_initiation_client_data_webhook"];
    if client_data.is_object() {
        only(client_data, &["url", "request_headers"])?;
        for header in client_data["request_headers"].as_object().unwrap().values() {
            check_header(header, secrets)?;
        }
    }
    if let Some(hooks) = overrides["webhooks"].as_object() {
        only(
            &overrides["webhooks"],
            &[
                "post_call_webhook_id",
                "events",
                "transcript_format",
                "send_audio",
            ],
        )?;
        if let Some(id) = hooks.get("post_call_webhook_id").and_then(Value::as_str)
            && !webhooks.contains_key(id)
        {
            return Err(invalid("post_call_webhook_id", "unknown_webhook"));
        }
        let events = [
            "transcript",
            "audio",
            "call_initiation_failure",
            "unredacted_transcript",
            "unredacted_audio",
        ];
        for event in hooks
            .get("events")
            .and_then(Value::as_array)
            .into_iter()
            .flatten()
        {
            if !events.contains(&event.as_str().unwrap_or_default()) {
                return Err(invalid("events", "enum"));
            }
        }
    }
    let agent = &patch["conversation_config"]["agent"];
    for id in agent["prompt"]["tool_ids"].as_array().into_iter().flatten() {
        if !tools.contains_key(id.as_str().unwrap_or_default()) {
            return Err(invalid("tool_ids", "unknown_tool"));
        }
    }
    let declared = &agent["dynamic_variables"]["dynamic_variable_placeholders"];
    for value in declared.as_object().into_iter().flat_map(Map::values) {
        if value.is_null() || value.is_object() || value.is_array() {
            return Err(invalid("dynamic_variable_placeholders", "string_type"));
        }
    }
    Ok(())
}

/// Deeply, but lists are replaced.
fn merge(into: &mut Value, patch: &Value) {
    match (into, patch) {
        (Value::Object(into), Value::Object(patch)) => {
            for (key, value) in patch {
                merge(into.entry(key.clone()).or_insert(Value::Null), value);
            }
        }
        (into, patch) => *into = patch.clone(),
    }
}

fn paged(all: &[Value], list: &str, seen: &Seen) -> Value {
    let from: usize = seen
        .query
        .get("cursor")
        .and_then(|c| c.parse().ok())
        .unwrap_or(0);
    let size: usize = seen
        .query
        .get("page_size")
        .and_then(|s| s.parse().ok())
        .unwrap_or(30);
    let to = (from + size).min(all.len());
    let more = to < all.len();
    json!({list: all[from..to], "has_more": more, "next_cursor": more.then(|| to.to_string())})
}

fn conversations(state: &State, seen: &Seen) -> Value {
    let number = |name: &str| seen.query.get(name).and_then(|n| n.parse::<i64>().ok());
    let (after, before) = (
        number("call_start_after_unix"),
        number("call_start_before_unix"),
    );
    let start = |c: &Value| c["metadata"]["start_time_unix_secs"].as_i64().unwrap();
    let mut found: Vec<&Value> = state
        .conversations
        .values()
        .filter(|c| {
            seen.query
                .get("agent_id")
                .is_none_or(|agent| c["agent_id"] == *agent)
        })
        .filter(|c| {
            seen.query
                .get("user_id")
                .is_none_or(|user| c["user_id"] == *user)
        })
        .filter(|c| after.is_none_or(|after| start(c) >= after))
        .filter(|c| before.is_none_or(|before| start(c) < before))
        .collect();
    found.sort_by_key(|c| start(c));
    if seen.query.get("sort_direction").is_none_or(|d| d != "asc") {
        found.reverse();
    }
    let listed: Vec<Value> = found
        .iter()
        .map(|c| {
            json!({"agent_id": c["agent_id"], "conversation_id": c["conversation_id"], "status": c["status"],
                "start_time_unix_secs": start(c), "call_duration_secs": 60, "message_count": 2,
                "call_successful": "success", "direction": "inbound"})
        })
        .collect();
    paged(&listed, "conversations", seen)
}
