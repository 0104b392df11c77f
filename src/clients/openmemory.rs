//! OpenMemory's HTTP API, in both its generations.
//!
//! Up to 1.3.0 a request names the user it is for; since then the API key is
//! the tenant, and a `user_id` that differs from it is refused. The exact
//! reads and PATCH are the same in both; `/memory/query` is never used,
//! because it returns no metadata and ignores filters.

use std::time::Duration;

use reqwest::{Method, StatusCode};
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{BodyError, bounded_body, describe, http_client};

/// Longest wait for an answer to a question.
const READ_TIMEOUT: Duration = Duration::from_secs(5);
/// Longest wait for a change: the server may compute an embedding for it.
const WRITE_TIMEOUT: Duration = Duration::from_secs(30);
/// Largest answer taken, in bytes: a page of memories with their metadata.
const MAX_ANSWER_BYTES: usize = 64 * 1024 * 1024;
/// No user has this id; asking for it tells the generations apart.
const PROBE_USER: &str = "elaoms-generation-probe";

/// Which API a server speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Generation {
    /// Up to 1.3.0: `user_id` is honoured.
    First,
    /// From 2026: the API key is the tenant.
    Second,
}

impl std::fmt::Display for Generation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::First => "first generation: a user for each record",
            Self::Second => "second generation: one tenant for the API key",
        })
    }
}

pub struct OpenMemory {
    http: reqwest::Client,
    base_url: String,
    api_key: Option<SecretString>,
}

/// Why the server did not do what was asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OpenMemoryError {
    /// 401, or 403 for the key itself.
    #[error("OpenMemory refuses the key ({0}): check OPENMEMORY_KEY")]
    InvalidKey(u16),
    /// 403 `tenant_mismatch`: the server is of the second generation.
    #[error("OpenMemory refuses a user_id that is not its tenant")]
    TenantMismatch,
    /// 404 in the server's own words. Anybody else's, such as a proxy's, says
    /// nothing about the record.
    #[error("OpenMemory has no such record")]
    NotFound,
    /// Any other status.
    #[error("OpenMemory answers {0}")]
    Status(u16),
    /// The connection failed or took too long.
    #[error("OpenMemory cannot be reached: {0}")]
    Network(String),
    /// 200, but not what the API promises.
    #[error("OpenMemory answers something unexpected: {0}")]
    Unexpected(&'static str),
}

/// A record as it is stored.
#[derive(Debug, Clone, Deserialize)]
pub struct Record {
    /// Given by the server.
    pub id: String,
    /// Possibly shortened; what we need rides in the metadata.
    #[serde(default)]
    pub content: String,
    /// As it was given, whole.
    #[serde(default)]
    pub metadata: Value,
    /// As they were given, a list.
    #[serde(default)]
    pub tags: Value,
    /// Milliseconds since 1970.
    #[serde(default)]
    pub created_at: i64,
    /// OpenMemory's own classification.
    #[serde(default)]
    pub primary_sector: String,
    /// Absent from the list of a user's memories.
    #[serde(default)]
    pub user_id: Option<String>,
}

/// What became of an added record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Added {
    /// Stored.
    Stored {
        /// Under this id.
        id: String,
        /// As the server classifies it.
        sector: String,
    },
    /// NOT stored: its content looks like another record's.
    Refused,
}

type Result<T> = std::result::Result<T, OpenMemoryError>;

impl OpenMemory {
    /// A client for this server; the URL is without a path.
    ///
    /// # Errors
    /// If no TLS can be set up.
    pub fn new(
        base_url: String,
        api_key: Option<SecretString>,
    ) -> std::result::Result<Self, reqwest::Error> {
        Ok(Self {
            http: http_client()?,
            base_url,
            api_key,
        })
    }

    /// Asks which generation the server is of.
    ///
    /// # Errors
    /// [`OpenMemoryError`]
    pub async fn generation(&self) -> Result<Generation> {
        let path = format!("/memory/all?l=1&user_id={PROBE_USER}");
        match self.request(Method::GET, &path, None).await {
            Ok(body) if body["items"].is_array() => Ok(Generation::First),
            Ok(_) => Err(OpenMemoryError::Unexpected("/memory/all holds no items")),
            Err(OpenMemoryError::TenantMismatch) => Ok(Generation::Second),
            Err(error) => Err(error),
        }
    }

    /// A page of one user's records, newest first (first generation).
    ///
    /// # Errors
    /// [`OpenMemoryError`]
    pub async fn user_page(&self, user: &str, limit: usize, offset: usize) -> Result<Vec<Record>> {
        let path = format!(
            "/users/{}/memories?l={limit}&u={offset}",
            path_segment(user)
        );
        items(self.request(Method::GET, &path, None).await?)
    }

    /// A page of all records that the key may see, newest first.
    ///
    /// # Errors
    /// [`OpenMemoryError`]
    pub async fn page(&self, limit: usize, offset: usize) -> Result<Vec<Record>> {
        let path = format!("/memory/all?l={limit}&u={offset}");
        items(self.request(Method::GET, &path, None).await?)
    }

    /// One record, or `None` if there is none with this id.
    ///
    /// # Errors
    /// [`OpenMemoryError`]
    pub async fn get(&self, id: &str) -> Result<Option<Record>> {
        match self
            .request(Method::GET, &format!("/memory/{}", path_segment(id)), None)
            .await
        {
            Ok(body) => record(body).map(Some),
            Err(OpenMemoryError::NotFound) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Adds a record; `user` only in the first generation.
    ///
    /// # Errors
    /// [`OpenMemoryError`]; it may have been stored nevertheless.
    pub async fn add(
        &self,
        user: Option<&str>,
        content: &str,
        tags: &[&str],
        metadata: &Value,
    ) -> Result<Added> {
        let mut body = json!({"content": content, "tags": tags, "metadata": metadata});
        if let Some(user) = user {
            body["user_id"] = user.into();
        }
        let answer = self
            .request(Method::POST, "/memory/add", Some(&body))
            .await?;
        if answer["deduplicated"] == true {
            return Ok(Added::Refused);
        }
        match answer["id"].as_str() {
            Some(id) if !id.is_empty() => Ok(Added::Stored {
                id: id.to_owned(),
                sector: answer["primary_sector"]
                    .as_str()
                    .unwrap_or_default()
                    .to_owned(),
            }),
            _ => Err(OpenMemoryError::Unexpected("/memory/add gives no id")),
        }
    }

    /// Replaces a record's metadata.
    ///
    /// # Errors
    /// [`OpenMemoryError`]
    pub async fn update(&self, id: &str, metadata: &Value) -> Result<()> {
        let body = json!({"metadata": metadata});
        let path = format!("/memory/{}", path_segment(id));
        let answer = self.request(Method::PATCH, &path, Some(&body)).await?;
        if answer["updated"] == true && answer["id"] == id {
            Ok(())
        } else {
            Err(OpenMemoryError::Unexpected("an update is not confirmed"))
        }
    }

    /// Deletes a record. False if it was gone already.
    ///
    /// # Errors
    /// [`OpenMemoryError`]
    pub async fn delete(&self, id: &str) -> Result<bool> {
        let path = format!("/memory/{}", path_segment(id));
        match self.request(Method::DELETE, &path, None).await {
            Ok(_) => Ok(true),
            Err(OpenMemoryError::NotFound) => Ok(false),
            Err(error) => Err(error),
        }
    }

    async fn request(&self, method: Method, path: &str, body: Option<&Value>) -> Result<Value> {
        let network = |e: reqwest::Error| OpenMemoryError::Network(describe(e));
        let timeout = if method == Method::GET {
            READ_TIMEOUT
        } else {
            WRITE_TIMEOUT
        };
        let mut request = self
            .http
            .request(method, format!("{}{path}", self.base_url))
            .timeout(timeout);
        if let Some(key) = &self.api_key {
            request = request.bearer_auth(key.expose_secret());
        }
        if let Some(body) = body {
            request = request.json(body);
        }
        let response = request.send().await.map_err(network)?;
        let status = response.status();
        let body = bounded_body(response, MAX_ANSWER_BYTES)
            .await
            .map_err(|e| match e {
                BodyError::TooLarge => OpenMemoryError::Unexpected("the answer is too large"),
                BodyError::Http(e) => network(e),
            })?;
        let body: Option<Value> = serde_json::from_slice(&body).ok();
        if status.is_success() {
            return body.ok_or(OpenMemoryError::Unexpected("the answer is not JSON"));
        }
        let body = body.unwrap_or_default();
        let mismatch = body["error"] == "tenant_mismatch";
        Err(match status {
            StatusCode::NOT_FOUND if body["err"] == "nf" => OpenMemoryError::NotFound,
            StatusCode::FORBIDDEN if mismatch => OpenMemoryError::TenantMismatch,
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
                OpenMemoryError::InvalidKey(status.as_u16())
            }
            _ => OpenMemoryError::Status(status.as_u16()),
        })
    }
}

fn items(mut body: Value) -> Result<Vec<Record>> {
    let unexpected = OpenMemoryError::Unexpected("a list holds something that is no record");
    // Not by `[]`: that panics if the answer is no object.
    let items = body.get_mut("items").map(Value::take).unwrap_or_default();
    serde_json::from_value(items).map_err(|_| unexpected)
}

fn record(body: Value) -> Result<Record> {
    serde_json::from_value(body).map_err(|_| OpenMemoryError::Unexpected("it is no record"))
}

/// Keys hold `+`, `:`, `@` and whatever a SIP URI may hold.
fn path_segment(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len() + 16);
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b'~') {
            escaped.push(char::from(byte));
        } else {
            use std::fmt::Write as _;
            // Writing to a string cannot fail.
            let _ = write!(escaped, "%{byte:02X}");
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_becomes_one_path_segment() {
        assert_eq!(
            path_segment("user:+16125550101:profile"),
            "user%3A%2B16125550101%3Aprofile"
        );
        assert_eq!(path_segment("../x?y#ü"), "..%2Fx%3Fy%23%C3%BC");
    }
}
