//! What ELAOMS wants of an ElevenLabs account, and how far the account is from it.
//!
//! - here: the address, names, and the tool for searches;
//! - [`change`]: a setting that has to become another;
//! - [`settings`]: what is wanted of an agent, or of the whole workspace, as
//!   changes of the settings that ElevenLabs has now.

mod change;
mod settings;

use std::fmt;

use serde_json::{Value, json};
use url::Url;

pub use change::{Change, Setting, merged};
pub use settings::{Scope, Wanted, agent_changes, workspace_changes};

/// The name of our post-call webhook.
pub const WEBHOOK_NAME: &str = "ELAOMS";
/// The name of the workspace's secret with the key of client-data.
pub const CLIENT_DATA_SECRET: &str = "elaoms_client_data_key";
/// The name of the workspace's secret with the key of search-data.
pub const SEARCH_DATA_SECRET: &str = "elaoms_search_data_key";
/// The tool that searches what a caller told (guide, "Search Data").
pub const SEARCH_TOOL: &str = "search_data";
/// The type of the event that proves a signing secret. Nothing is kept of it.
pub const TEST_EVENT: &str = "elaoms_test";

/// Where ElevenLabs reaches the webhooks: scheme, host and perhaps a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PublicUrl(String);

/// Why a URL cannot be where ElevenLabs reaches the webhooks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PublicUrlError {
    #[error("it is no URL such as https://your.host")]
    NotAUrl,
    #[error(
        "ElevenLabs calls HTTPS only; put a reverse proxy with a certificate in front of the service"
    )]
    NotHttps,
    #[error("give it without /webhook/…, which is added")]
    WithWebhook,
    #[error("it must not hold a user, a password, a query or a fragment")]
    TooMuch,
}

impl PublicUrl {
    /// Takes a URL as it is written, with or without a slash at its end. Plain
    /// HTTP only to this machine, for trials.
    ///
    /// # Errors
    /// [`PublicUrlError`]
    pub fn parse(text: &str) -> Result<Self, PublicUrlError> {
        let url = Url::parse(text.trim()).map_err(|_| PublicUrlError::NotAUrl)?;
        let host = url.host_str().ok_or(PublicUrlError::NotAUrl)?;
        let is_here = matches!(host, "localhost" | "127.0.0.1" | "[::1]");
        match url.scheme() {
            "https" => {}
            "http" if is_here => {}
            "http" => return Err(PublicUrlError::NotHttps),
            _ => return Err(PublicUrlError::NotAUrl),
        }
        let is_bare = url.username().is_empty()
            && url.password().is_none()
            && url.query().is_none()
            && url.fragment().is_none();
        if !is_bare {
            return Err(PublicUrlError::TooMuch);
        }
        if url.path().contains("/webhook") {
            return Err(PublicUrlError::WithWebhook);
        }
        Ok(Self(url.as_str().trim_end_matches('/').to_owned()))
    }

    /// Host and port, for names that tell installations apart.
    #[must_use]
    pub fn host(&self) -> &str {
        let (_, rest) = self.0.split_once("://").unwrap_or_default();
        rest.split('/').next().unwrap_or_default()
    }

    /// `POST` here when a phone rings.
    #[must_use]
    pub fn client_data(&self) -> String {
        format!("{self}/webhook/client-data")
    }

    /// `POST` here to search.
    #[must_use]
    pub fn search_data(&self) -> String {
        format!("{self}/webhook/search-data")
    }

    /// `POST` here when a call has ended.
    #[must_use]
    pub fn post_call(&self) -> String {
        format!("{self}/webhook/post-call")
    }
}

impl fmt::Display for PublicUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The header in which the key travels, as a reference to a workspace secret.
fn key_header(secret_id: &str) -> Value {
    json!({"X-Api-Key": {"secret_id": secret_id}})
}

/// The tool with which an agent searches, as ElevenLabs takes it.
#[must_use]
pub fn search_tool(url: &PublicUrl, secret_id: &str) -> Value {
    json!({
        "type": "webhook",
        "name": SEARCH_TOOL,
        "description": "Searches what this caller told in earlier calls. Use it whenever the caller refers to \
            something from before, or when an answer depends on what they told once: names, dates, orders, \
            preferences, plans.",
        "response_timeout_secs": 5,
        "api_schema": {
            "url": url.search_data(),
            "method": "POST",
            "request_headers": key_header(secret_id),
            "request_body_schema": {
                "type": "object",
                "required": ["query", "user_id", "agent_id"],
                "properties": {
                    "query": {"type": "string",
                        "description": "What to look for, in the words of the question, such as: \
                            when is her delivery"},
                    "user_id": {"type": "string", "dynamic_variable": "system__caller_id"},
                    "agent_id": {"type": "string", "dynamic_variable": "system__agent_id"},
                    "conversation_id": {"type": "string", "dynamic_variable": "system__conversation_id"},
                },
            },
        },
    })
}

/// Whether `actual` has all that `wanted` has: servers fill in defaults. Lists
/// have to be equal.
#[must_use]
pub fn holds(actual: &Value, wanted: &Value) -> bool {
    match (actual, wanted) {
        (Value::Object(actual), Value::Object(wanted)) => wanted
            .iter()
            .all(|(key, wanted)| actual.get(key).is_some_and(|actual| holds(actual, wanted))),
        _ => actual == wanted,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_public_url_is_https_and_nothing_more() {
        let url = PublicUrl::parse(" https://Memory.example.org/ ").unwrap();
        assert_eq!(
            url.post_call(),
            "https://memory.example.org/webhook/post-call"
        );
        assert_eq!(url.host(), "memory.example.org");
        let below = PublicUrl::parse("https://example.org:8443/elaoms/").unwrap();
        assert_eq!(
            below.client_data(),
            "https://example.org:8443/elaoms/webhook/client-data"
        );
        assert!(PublicUrl::parse("http://127.0.0.1:8000").is_ok());
        for (wrong, why) in [
            ("your.host", PublicUrlError::NotAUrl),
            ("ftp://your.host", PublicUrlError::NotAUrl),
            ("http://your.host", PublicUrlError::NotHttps),
            ("http://127.0.0.1.example.org", PublicUrlError::NotHttps),
            ("https://me:secret@your.host", PublicUrlError::TooMuch),
            ("https://your.host/?a=1", PublicUrlError::TooMuch),
            (
                "https://your.host/webhook/client-data",
                PublicUrlError::WithWebhook,
            ),
        ] {
            assert_eq!(PublicUrl::parse(wrong), Err(why), "{wrong}");
        }
    }

    #[test]
    fn what_a_server_fills_in_is_no_difference() {
        let url = PublicUrl::parse("https://your.host").unwrap();
        let wanted = search_tool(&url, "secret_1");
        let mut actual = wanted.clone();
        actual["tool_error_handling_mode"] = "auto".into();
        actual["api_schema"]["content_type"] = "application/json".into();
        assert!(holds(&actual, &wanted));
        actual["api_schema"]["method"] = "GET".into();
        assert!(!holds(&actual, &wanted));
        assert!(!holds(&json!({}), &json!({"a": null})));
    }
}
