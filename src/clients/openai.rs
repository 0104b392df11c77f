//! OpenAI's chat completions, or a server that speaks them.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use jiff::Timestamp;
use reqwest::StatusCode;
use secrecy::{ExposeSecret, SecretString};
use serde_json::{Value, json};

use super::{BodyError, bounded_body, describe, http_client, retry_after};
use crate::domain::prompt::{GreetingPrompt, answer_schema};

/// Largest answer taken, in bytes.
const MAX_ANSWER_BYTES: usize = 1024 * 1024;
/// How much of a server's error message is repeated, in characters.
const MAX_MESSAGE_CHARS: usize = 200;

/// How to ask (guide, "OpenAI Configuration").
#[derive(Debug, Clone)]
pub struct OpenAiOptions {
    /// Including `/v1`.
    pub base_url: String,
    pub api_key: SecretString,
    /// Model name.
    pub model: String,
    /// Longest answer, in tokens.
    pub max_tokens: u32,
    /// Sampling temperature.
    pub temperature: f64,
    /// Longest wait for an answer.
    pub timeout: Duration,
}

/// The client. Makes one request at a time it is asked.
pub struct OpenAi {
    http: reqwest::Client,
    options: OpenAiOptions,
    /// Set once a compatible server has refused `json_schema`.
    plain_json: AtomicBool,
}

/// A model's answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OpenAiAnswer {
    /// The text of the first choice.
    pub content: String,
    /// Tokens of the question, as billed.
    pub prompt_tokens: u64,
    /// Tokens of the answer, as billed.
    pub completion_tokens: u64,
}

/// Why there is no answer. `Display` is the guide's troubleshooting message.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OpenAiError {
    /// 429: too many requests or tokens. Passes.
    #[error("OpenAI API error: 429 - Rate limit exceeded")]
    RateLimited {
        /// How long the server asks to wait.
        retry_after: Option<Duration>,
    },
    /// 429 `insufficient_quota`: stays until somebody pays.
    #[error(
        "OpenAI API error: 429 - Quota exhausted (insufficient_quota): check the plan and billing"
    )]
    QuotaExhausted,
    /// 401 or 403.
    #[error("OpenAI API error: {0} - Invalid API key")]
    InvalidKey(u16),
    /// 5xx, 408 or 409. Passes.
    #[error("OpenAI API error: {status} - {message}")]
    Server {
        status: u16,
        /// What the server says.
        message: String,
        /// How long the server asks to wait.
        retry_after: Option<Duration>,
    },
    /// Any other status: the request itself is refused.
    #[error("OpenAI API error: {status} - {message}")]
    Refused {
        status: u16,
        /// What the server says.
        message: String,
    },
    /// No answer within `OPENAI_TIMEOUT`.
    #[error("HTTP error calling OpenAI API: ReadTimeout")]
    Timeout,
    #[error("HTTP error calling OpenAI API: {0}")]
    Network(String),
    /// 200, but no chat completion, or one that was cut off.
    #[error("OpenAI API error: unusable answer - {0}")]
    Unusable(&'static str),
}

impl OpenAi {
    /// A client with these options.
    ///
    /// # Errors
    /// If no TLS can be set up.
    pub fn new(options: OpenAiOptions) -> Result<Self, reqwest::Error> {
        Ok(Self {
            http: http_client()?,
            options,
            plain_json: AtomicBool::new(false),
        })
    }

    /// Tokens that a request for `prompt` may cost at most, roughly.
    #[must_use]
    pub fn estimated_tokens(&self, prompt: &GreetingPrompt) -> u32 {
        prompt
            .estimated_tokens()
            .saturating_add(self.options.max_tokens)
    }

    /// Asks once. A server that does not know `json_schema` is asked a second
    /// time with `json_object`, and that way from then on.
    ///
    /// # Errors
    /// [`OpenAiError`]
    pub async fn complete(&self, prompt: &GreetingPrompt) -> Result<OpenAiAnswer, OpenAiError> {
        let plain = self.plain_json.load(Ordering::Relaxed);
        match self.request(prompt, plain).await {
            Err(OpenAiError::Refused {
                status: 400 | 422,
                message,
            }) if !plain && message.contains("response_format") => {
                tracing::warn!("The model server refuses json_schema; json_object is used instead");
                self.plain_json.store(true, Ordering::Relaxed);
                self.request(prompt, true).await
            }
            other => other,
        }
    }

    async fn request(
        &self,
        prompt: &GreetingPrompt,
        plain: bool,
    ) -> Result<OpenAiAnswer, OpenAiError> {
        let url = format!("{}/chat/completions", self.options.base_url);
        let response = self
            .http
            .post(url)
            .timeout(self.options.timeout)
            .bearer_auth(self.options.api_key.expose_secret())
            .json(&self.body(prompt, plain))
            .send()
            .await
            .map_err(transport)?;
        let status = response.status();
        let wait = retry_after(response.headers(), Timestamp::now());
        let body = bounded_body(response, MAX_ANSWER_BYTES)
            .await
            .map_err(|e| match e {
                BodyError::TooLarge => OpenAiError::Unusable("it is too large"),
                BodyError::Http(e) => transport(e),
            })?;
        let body: Value = serde_json::from_slice(&body).unwrap_or_default();
        if status.is_success() {
            answer(&body)
        } else {
            Err(refusal(status, &body, wait))
        }
    }

    fn body(&self, prompt: &GreetingPrompt, plain: bool) -> Value {
        let format = if plain {
            json!({"type": "json_object"})
        } else {
            json!({"type": "json_schema", "json_schema":
                {"name": "next_greeting", "strict": true, "schema": answer_schema()}})
        };
        let mut body = json!({
            "model": self.options.model,
            "messages": [
                {"role": "system", "content": prompt.system},
                {"role": "user", "content": prompt.user},
            ],
            "response_format": format,
            // Callers' words are not to be kept by the model's provider.
            "store": false,
        });
        // Reasoning models refuse `max_tokens` and `temperature`.
        if is_reasoning_model(&self.options.model) {
            body["max_completion_tokens"] = self.options.max_tokens.into();
        } else {
            body["max_tokens"] = self.options.max_tokens.into();
            body["temperature"] = self.options.temperature.into();
        }
        body
    }
}

/// o1, o3, o4-mini, gpt-5 and later, also behind a provider prefix (`openai/o3`).
fn is_reasoning_model(model: &str) -> bool {
    let name = model.rsplit('/').next().unwrap_or(model);
    let digit_after = |prefix: &str| {
        name.strip_prefix(prefix)
            .and_then(|rest| rest.chars().next())
            .and_then(|c| c.to_digit(10))
    };
    digit_after("o").is_some() || digit_after("gpt-").is_some_and(|major| major >= 5)
}

fn transport(error: reqwest::Error) -> OpenAiError {
    if error.is_timeout() {
        OpenAiError::Timeout
    } else {
        OpenAiError::Network(describe(error))
    }
}

fn answer(body: &Value) -> Result<OpenAiAnswer, OpenAiError> {
    let choice = &body["choices"][0];
    if choice["finish_reason"] == "length" {
        return Err(OpenAiError::Unusable(
            "it was cut off: raise OPENAI_MAX_TOKENS",
        ));
    }
    let content = choice["message"]["content"]
        .as_str()
        .ok_or(OpenAiError::Unusable("it holds no message"))?;
    let tokens = |kind: &str| body["usage"][kind].as_u64().unwrap_or(0);
    Ok(OpenAiAnswer {
        content: content.to_owned(),
        prompt_tokens: tokens("prompt_tokens"),
        completion_tokens: tokens("completion_tokens"),
    })
}

fn refusal(status: StatusCode, body: &Value, retry_after: Option<Duration>) -> OpenAiError {
    let error = &body["error"];
    let says = |field: &str, what: &str| error[field].as_str() == Some(what);
    // The message of a 401 repeats the key in part; it is never passed on.
    let message = || -> String {
        let text = error["message"].as_str().or_else(|| error.as_str());
        text.or(status.canonical_reason())
            .unwrap_or("no message")
            .chars()
            .filter(|c| !c.is_control())
            .take(MAX_MESSAGE_CHARS)
            .collect()
    };
    match status.as_u16() {
        401 | 403 => OpenAiError::InvalidKey(status.as_u16()),
        429 if says("code", "insufficient_quota") || says("type", "insufficient_quota") => {
            OpenAiError::QuotaExhausted
        }
        429 => OpenAiError::RateLimited { retry_after },
        code @ (408 | 409 | 500..) => OpenAiError::Server {
            status: code,
            message: message(),
            retry_after,
        },
        code => OpenAiError::Refused {
            status: code,
            message: message(),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn newer_models_are_told_apart() {
        for (model, expected) in [
            ("gpt-4o-mini", false),
            ("gpt-4.1", false),
            ("gpt-5-nano", true),
            ("o3", true),
            ("o4-mini", true),
            ("openai/gpt-5", true),
            ("olmo-2", false),
            ("llama-3", false),
        ] {
            assert_eq!(is_reasoning_model(model), expected, "{model}");
        }
    }

    #[test]
    fn a_refusal_never_repeats_a_key() {
        let body = json!({"error": {"message": "Incorrect API key provided: sk-abc***xyz"}});
        let error = refusal(StatusCode::UNAUTHORIZED, &body, None);
        assert_eq!(error.to_string(), "OpenAI API error: 401 - Invalid API key");
    }
}
