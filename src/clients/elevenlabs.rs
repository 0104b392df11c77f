//! ElevenLabs' API.
//!
//! - here: agents' profiles, and deleting conversations;
//! - [`account`]: what set-up and checks need of an account;
//! - [`conversations`]: calls that have ended, for those whose webhook never came.

mod account;
mod conversations;

use std::time::Duration;

use jiff::Timestamp;
use reqwest::{Method, Response, StatusCode};
use secrecy::{ExposeSecret, SecretString};
use serde_json::Value;

use super::{BodyError, bounded_body, describe, http_client, retry_after};
use crate::domain::agent_profile::AgentProfile;
use crate::domain::ids::{AgentId, ConversationId, is_plain};

pub use account::{
    AssignedAgent, Branch, ListedAgent, NewWebhook, PhoneNumber, StoredSecret, Tool, Webhook,
};
pub use conversations::{ConversationPage, ConversationQuery, ListedConversation};

/// The permissions of an API key for agents and conversations, as ElevenLabs names them.
const READ_AGENTS: &str = "convai_read";
/// See [`READ_AGENTS`].
const WRITE_AGENTS: &str = "convai_write";
/// Longest wait for an answer.
const TIMEOUT: Duration = Duration::from_secs(10);
/// Largest answer taken, in bytes: agents carry whole knowledge bases by reference only.
const MAX_ANSWER_BYTES: usize = 4 * 1024 * 1024;
/// Largest refusal read, in bytes.
const MAX_REFUSAL_BYTES: usize = 64 * 1024;

pub struct ElevenLabs {
    http: reqwest::Client,
    base_url: String,
    api_key: SecretString,
}

/// Why something was not done.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ElevenLabsError {
    /// 404, or an id that cannot exist.
    #[error("ElevenLabs knows no such thing (404)")]
    NotFound,
    /// Asked nothing: a conversation whose id is none of ElevenLabs'.
    #[error("its id is none that ElevenLabs has; it was not asked")]
    NotAnId,
    /// 401.
    #[error("ElevenLabs API error: {0} - Invalid API key: check ELEVENLABS_API_KEY")]
    InvalidKey(u16),
    /// 403, or 401 for want of a permission, which is named.
    #[error("ElevenLabs API error: {status} - the API key lacks the permission {permission}")]
    Forbidden { status: u16, permission: String },
    /// 400 or 422: which fields were refused, and how, as far as that is told.
    #[error("ElevenLabs API error: {status} - the request was refused{reason}")]
    Invalid { status: u16, reason: String },
    /// Any other status.
    #[error("ElevenLabs API error: {status}")]
    Status {
        status: u16,
        /// How long the server asks to wait.
        retry_after: Option<Duration>,
    },
    /// The connection failed or took too long.
    #[error("HTTP error calling the ElevenLabs API: {0}")]
    Network(String),
    /// 200, but not what was asked for.
    #[error("ElevenLabs API error: the answer is not what was asked for")]
    Unusable,
}

impl ElevenLabsError {
    /// Whether nothing was done: the request was refused as such.
    #[must_use]
    pub fn is_definite(&self) -> bool {
        !matches!(
            self,
            Self::Network(_) | Self::Unusable | Self::Status { status: 500.., .. }
        )
    }
}

/// A request to the API.
struct Request {
    method: Method,
    /// Below `/v1/`.
    path: String,
    query: Vec<(&'static str, String)>,
    body: Option<Value>,
    /// What a key needs for it, as ElevenLabs names it.
    permission: &'static str,
}

impl Request {
    fn new(method: Method, path: impl Into<String>, permission: &'static str) -> Self {
        Self {
            method,
            path: path.into(),
            query: Vec::new(),
            body: None,
            permission,
        }
    }

    fn get(path: impl Into<String>, permission: &'static str) -> Self {
        Self::new(Method::GET, path, permission)
    }

    fn query(mut self, name: &'static str, value: String) -> Self {
        self.query.push((name, value));
        self
    }

    fn query_if(self, name: &'static str, value: Option<&str>) -> Self {
        match value {
            Some(value) => self.query(name, value.to_owned()),
            None => self,
        }
    }

    fn body(self, body: Value) -> Self {
        Self {
            body: Some(body),
            ..self
        }
    }
}

impl ElevenLabs {
    /// A client for this server and key.
    ///
    /// # Errors
    /// If no TLS can be set up.
    pub fn new(base_url: String, api_key: SecretString) -> Result<Self, reqwest::Error> {
        Ok(Self {
            http: http_client()?,
            base_url,
            api_key,
        })
    }

    /// Fetches an agent's profile.
    ///
    /// # Errors
    /// [`ElevenLabsError`]
    pub async fn agent(&self, agent: &AgentId) -> Result<AgentProfile, ElevenLabsError> {
        // Without its settings the answer is somebody else's, and must not stand
        // for a day: that is seen to there.
        let settings = self.agent_settings(agent, None).await?;
        Ok(AgentProfile::from_response(&settings))
    }

    /// Deletes a conversation. One that is not there counts as deleted.
    ///
    /// # Errors
    /// [`ElevenLabsError`]
    pub async fn delete_conversation(
        &self,
        conversation: &ConversationId,
    ) -> Result<(), ElevenLabsError> {
        if !is_plain(conversation.as_str()) {
            return Err(ElevenLabsError::NotAnId);
        }
        let path = format!("convai/conversations/{conversation}");
        match self
            .send(Request::new(Method::DELETE, path, WRITE_AGENTS))
            .await
        {
            Ok(_) | Err(ElevenLabsError::NotFound) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// The body of an answer with success.
    async fn body(&self, request: Request, limit: usize) -> Result<Vec<u8>, ElevenLabsError> {
        let response = self.send(request).await?;
        bounded_body(response, limit).await.map_err(|e| match e {
            BodyError::TooLarge => ElevenLabsError::Unusable,
            BodyError::Http(e) => ElevenLabsError::Network(describe(e)),
        })
    }

    /// The answer, if it is one with success.
    async fn send(&self, request: Request) -> Result<Response, ElevenLabsError> {
        let permission = request.permission;
        let url = format!("{}/v1/{}", self.base_url, request.path);
        let mut sent = self
            .http
            .request(request.method, url)
            .timeout(TIMEOUT)
            .header("xi-api-key", self.api_key.expose_secret())
            .query(&request.query);
        if let Some(body) = &request.body {
            sent = sent.json(body);
        }
        let response = sent.send().await;
        let response = response.map_err(|e| ElevenLabsError::Network(describe(e)))?;
        match response.status() {
            StatusCode::OK | StatusCode::CREATED | StatusCode::NO_CONTENT => Ok(response),
            _ => Err(refusal(response, permission).await),
        }
    }
}

/// What an answer without success means.
async fn refusal(response: Response, permission: &'static str) -> ElevenLabsError {
    let status = response.status().as_u16();
    let wait = retry_after(response.headers(), Timestamp::now());
    match status {
        404 => ElevenLabsError::NotFound,
        400 | 401 | 403 | 422 => {
            let body = bounded_body(response, MAX_REFUSAL_BYTES).await;
            let body = body.unwrap_or_default();
            let detail = serde_json::from_slice::<Value>(&body).unwrap_or_default();
            let detail = &detail["detail"];
            match status {
                401 if detail["status"] != "missing_permissions" => {
                    ElevenLabsError::InvalidKey(status)
                }
                401 | 403 => ElevenLabsError::Forbidden {
                    status,
                    permission: named_permission(detail).unwrap_or_else(|| permission.into()),
                },
                _ => ElevenLabsError::Invalid {
                    status,
                    reason: refused_fields(detail),
                },
            }
        }
        status => ElevenLabsError::Status {
            status,
            retry_after: wait,
        },
    }
}

/// The permission that a refusal says is missing ("… is missing the permission
/// convai_write to execute …").
fn named_permission(detail: &Value) -> Option<String> {
    let message = detail["message"].as_str()?;
    let (_, rest) = message.split_once("the permission ")?;
    let name = rest.split_whitespace().next()?;
    let is_name = |b: u8| b.is_ascii_lowercase() || b == b'_';
    (name.len() < 40 && name.bytes().all(is_name)).then(|| name.to_owned())
}

/// The fields that were refused. Their values, which the answer may repeat, are
/// left out: secrets may be among them.
fn refused_fields(detail: &Value) -> String {
    const MOST: usize = 5;
    let word = |value: &Value| match value {
        Value::String(text) => text.chars().take(60).collect(),
        other => other.to_string(),
    };
    let fields = detail.as_array().into_iter().flatten().take(MOST);
    let fields: Vec<String> = fields
        .filter_map(|field| {
            let place: Vec<String> = field["loc"].as_array()?.iter().map(word).collect();
            Some(format!("{} ({})", place.join("."), word(&field["type"])))
        })
        .collect();
    match (fields.is_empty(), detail["status"].as_str()) {
        (false, _) => format!(": {}", fields.join(", ")),
        (true, Some(status)) => format!(": {}", word(&Value::from(status))),
        (true, None) => String::new(),
    }
}
