//! ElevenLabs' API: agents are read (`GET /v1/convai/agents/{agent_id}`),
//! conversations deleted (`DELETE /v1/convai/conversations/{conversation_id}`).

use std::time::Duration;

use jiff::Timestamp;
use reqwest::{Method, Response, StatusCode};
use secrecy::{ExposeSecret, SecretString};
use serde_json::Value;

use super::{BodyError, bounded_body, describe, http_client, retry_after};
use crate::domain::agent_profile::AgentProfile;
use crate::domain::ids::{AgentId, ConversationId, is_plain};

/// Longest wait for an answer.
const TIMEOUT: Duration = Duration::from_secs(10);
/// Largest answer taken, in bytes: agents carry whole knowledge bases by reference only.
const MAX_ANSWER_BYTES: usize = 4 * 1024 * 1024;

pub struct ElevenLabs {
    http: reqwest::Client,
    base_url: String,
    api_key: SecretString,
}

/// Why a profile could not be fetched.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ElevenLabsError {
    /// 404, or an id that cannot exist.
    #[error("Agent not found")]
    NotFound,
    /// Asked nothing: a conversation whose id is none of ElevenLabs'.
    #[error("its id is none that ElevenLabs has; it was not asked")]
    NotAnId,
    /// 401 or 403.
    #[error("ElevenLabs API error: {0} - Invalid API key: check ELEVENLABS_API_KEY")]
    InvalidKey(u16),
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
    /// 200, but not what describes an agent.
    #[error("ElevenLabs API error: the answer is no agent")]
    Unusable,
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
        let response = self.request(Method::GET, "agents", agent.as_str()).await?;
        if response.status() != StatusCode::OK {
            return Err(refusal(&response));
        }
        let body = bounded_body(response, MAX_ANSWER_BYTES)
            .await
            .map_err(|e| match e {
                BodyError::TooLarge => ElevenLabsError::Unusable,
                BodyError::Http(e) => ElevenLabsError::Network(describe(e)),
            })?;
        let body: Value = serde_json::from_slice(&body).map_err(|_| ElevenLabsError::Unusable)?;
        // Without it the answer is somebody else's, and must not stand for a day.
        if body["conversation_config"].is_object() {
            Ok(AgentProfile::from_response(&body))
        } else {
            Err(ElevenLabsError::Unusable)
        }
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
        let deleted = self
            .request(Method::DELETE, "conversations", conversation.as_str())
            .await
            .and_then(|response| match response.status().is_success() {
                true => Ok(()),
                false => Err(refusal(&response)),
            });
        match deleted {
            Err(ElevenLabsError::NotFound) => Ok(()),
            other => other,
        }
    }

    /// Asks about one of the account's things.
    async fn request(
        &self,
        method: Method,
        things: &str,
        id: &str,
    ) -> Result<Response, ElevenLabsError> {
        // The id comes from a webhook: it must not reach another path.
        if !is_plain(id) {
            return Err(ElevenLabsError::NotFound);
        }
        self.http
            .request(method, format!("{}/v1/convai/{things}/{id}", self.base_url))
            .timeout(TIMEOUT)
            .header("xi-api-key", self.api_key.expose_secret())
            .send()
            .await
            .map_err(|e| ElevenLabsError::Network(describe(e)))
    }
}

/// What an answer without success means.
fn refusal(response: &Response) -> ElevenLabsError {
    match response.status().as_u16() {
        404 => ElevenLabsError::NotFound,
        status @ (401 | 403) => ElevenLabsError::InvalidKey(status),
        status => ElevenLabsError::Status {
            status,
            retry_after: retry_after(response.headers(), Timestamp::now()),
        },
    }
}
