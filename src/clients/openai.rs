//! OpenAI's chat completions, or a server that speaks them.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use jiff::Timestamp;
use reqwest::{RequestBuilder, StatusCode};
use secrecy::{ExposeSecret, SecretString};
use serde_json::{Value, json};

use super::{BodyError, bounded_body, describe, http_client, retry_after};
use crate::domain::prices::Price;
use crate::domain::prompt::{GreetingPrompt, answer_schema};

/// Largest answer taken, in bytes.
const MAX_ANSWER_BYTES: usize = 1024 * 1024;
/// The error types and codes that are repeated, as OpenAI documents them. A
/// server may put anything into its errors, the caller's words included, so
/// nothing else of them is passed on.
const KNOWN_REASONS: &[&str] = &[
    "authentication_error",
    "billing_hard_limit_reached",
    "billing_not_active",
    "content_filter",
    "content_policy_violation",
    "context_length_exceeded",
    "engine_overloaded",
    "insufficient_quota",
    "invalid_api_key",
    "invalid_json_schema",
    "invalid_prompt",
    "invalid_request_error",
    "invalid_type",
    "invalid_value",
    "missing_required_parameter",
    "model_not_found",
    "not_found_error",
    "permission_error",
    "rate_limit_error",
    "rate_limit_exceeded",
    "requests",
    "server_error",
    "service_unavailable",
    "string_above_max_length",
    "timeout",
    "tokens",
    "unknown_parameter",
    "unsupported_country_region_territory",
    "unsupported_parameter",
    "unsupported_value",
];

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
    /// What its tokens cost; `None` if that is not known.
    pub price: Option<Price>,
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
    #[error("OpenAI API error: {status} - {reason}")]
    Server {
        status: u16,
        /// The status in words, and the server's reasons as far as they are known ones.
        reason: String,
        /// How long the server asks to wait.
        retry_after: Option<Duration>,
    },
    /// Any other status: the request itself is refused.
    #[error("OpenAI API error: {status} - {reason}")]
    Refused {
        status: u16,
        /// The status in words, and the server's reasons as far as they are known ones.
        reason: String,
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
    /// What so many tokens cost, in billionths of a dollar; nothing if that is not
    /// known.
    #[must_use]
    pub fn cost(&self, prompt_tokens: u64, completion_tokens: u64) -> u64 {
        let price = self.options.price;
        price.map_or(0, |price| price.cost(prompt_tokens, completion_tokens))
    }

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
        let mut reply = self.request(prompt, plain).await?;
        if !plain && reply.refuses("response_format") {
            tracing::warn!("The model server refuses json_schema; json_object is used instead");
            self.plain_json.store(true, Ordering::Relaxed);
            reply = self.request(prompt, true).await?;
        }
        answer(reply.success()?)
    }

    async fn request(&self, prompt: &GreetingPrompt, plain: bool) -> Result<Reply, OpenAiError> {
        let url = format!("{}/chat/completions", self.options.base_url);
        let request = self
            .http
            .post(url)
            .timeout(self.options.timeout)
            .bearer_auth(self.options.api_key.expose_secret())
            .json(&self.body(prompt, plain));
        Reply::to(request, MAX_ANSWER_BYTES).await
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

/// What the server said, of which only facts leave the clients.
pub(super) struct Reply {
    status: StatusCode,
    /// How long the server asks to wait.
    retry_after: Option<Duration>,
    /// `Null` if it is no JSON.
    body: Value,
}

impl Reply {
    /// Sends a request and reads at most so many bytes of the answer.
    pub(super) async fn to(request: RequestBuilder, most: usize) -> Result<Self, OpenAiError> {
        let response = request.send().await.map_err(transport)?;
        let status = response.status();
        let retry_after = retry_after(response.headers(), Timestamp::now());
        let body = bounded_body(response, most).await.map_err(|e| match e {
            BodyError::TooLarge => OpenAiError::Unusable("it is too large"),
            BodyError::Http(e) => transport(e),
        })?;
        Ok(Self {
            status,
            retry_after,
            body: serde_json::from_slice(&body).unwrap_or_default(),
        })
    }

    /// The body of a success.
    pub(super) fn success(&self) -> Result<&Value, OpenAiError> {
        if self.status.is_success() {
            Ok(&self.body)
        } else {
            Err(self.refusal())
        }
    }

    /// Whether the request is refused for a field of it.
    pub(super) fn refuses(&self, field: &str) -> bool {
        let error = &self.body["error"];
        // Servers written with FastAPI list what is wrong under `detail`.
        let detail = self.body["detail"].to_string();
        matches!(self.status.as_u16(), 400 | 422)
            && [
                error,
                &error["message"],
                &error["param"],
                &self.body["message"],
            ]
            .into_iter()
            .filter_map(Value::as_str)
            .chain([detail.as_str()])
            .any(|text| text.contains(field))
    }

    fn refusal(&self) -> OpenAiError {
        let retry_after = self.retry_after;
        match self.status.as_u16() {
            status @ (401 | 403) => OpenAiError::InvalidKey(status),
            429 if self.reasons().contains(&"insufficient_quota") => OpenAiError::QuotaExhausted,
            429 => OpenAiError::RateLimited { retry_after },
            status @ (408 | 409 | 500..) => OpenAiError::Server {
                status,
                reason: self.reason(),
                retry_after,
            },
            status => OpenAiError::Refused {
                status,
                reason: self.reason(),
            },
        }
    }

    /// The error's type and code, those that are known.
    fn reasons(&self) -> Vec<&'static str> {
        let known = |field: &str| {
            let said = self.body["error"][field].as_str()?;
            KNOWN_REASONS.iter().find(|known| **known == said).copied()
        };
        ["type", "code"].into_iter().filter_map(known).collect()
    }

    fn reason(&self) -> String {
        let status = self.status.canonical_reason().unwrap_or("unknown status");
        match self.reasons().as_slice() {
            [] => status.to_owned(),
            reasons => format!("{status} ({})", reasons.join(", ")),
        }
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

    fn reply(status: u16, error: Value) -> Reply {
        Reply {
            status: StatusCode::from_u16(status).unwrap(),
            retry_after: None,
            body: json!({"error": error}),
        }
    }

    #[test]
    fn of_an_error_only_the_status_and_known_reasons_are_repeated() {
        let told = |status, error| reply(status, error).success().unwrap_err().to_string();
        let key = json!({"message": "Incorrect API key provided: sk-abc***xyz"});
        assert_eq!(told(401, key), "OpenAI API error: 401 - Invalid API key");
        let limit = json!({"message": "m", "type": "tokens", "code": "rate_limit_exceeded"});
        assert_eq!(
            told(429, limit),
            "OpenAI API error: 429 - Rate limit exceeded"
        );
        let long = json!({"message": "m", "type": "invalid_request_error", "code": "context_length_exceeded"});
        assert_eq!(
            told(400, long),
            "OpenAI API error: 400 - Bad Request (invalid_request_error, context_length_exceeded)"
        );
        for echo in [
            json!("I like roses"),
            json!({"message": "I like roses", "type": "I like roses", "code": ["I like roses"]}),
        ] {
            assert_eq!(told(404, echo.clone()), "OpenAI API error: 404 - Not Found");
            assert_eq!(
                told(500, echo),
                "OpenAI API error: 500 - Internal Server Error"
            );
        }
    }

    #[test]
    fn a_refused_format_is_recognised_by_its_message_or_parameter() {
        let refused = |status, error| reply(status, error).refuses("response_format");
        for error in [
            json!("response_format is unknown"),
            json!({"message": "response_format.type json_schema is not supported"}),
            json!({"message": "Invalid value", "param": "response_format.type"}),
        ] {
            assert!(refused(400, error.clone()) && refused(422, error.clone()));
            assert!(!refused(500, error));
        }
        let listed = Reply {
            body: json!({"detail": [{"loc": ["body", "response_format"], "type": "extra_forbidden"}]}),
            ..reply(422, Value::Null)
        };
        assert!(listed.refuses("response_format"));
        assert!(!refused(400, json!({"message": "max_tokens is too large"})));
    }
}
