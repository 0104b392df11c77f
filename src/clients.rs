//! The wire: other people's HTTP APIs, one file each.
//!
//! A client makes one request and says what came of it. Waiting, repeating,
//! caching and limiting belong to the actors.

mod elevenlabs;
mod embeddings;
mod openai;
mod openmemory;

use std::time::Duration;

use jiff::Timestamp;
use reqwest::Response;
use reqwest::header::{HeaderMap, RETRY_AFTER};

pub use elevenlabs::{
    AssignedAgent, Branch, ConversationPage, ConversationQuery, ElevenLabs, ElevenLabsError,
    ListedAgent, ListedConversation, NewWebhook, PhoneNumber, StoredSecret, Tool, Webhook,
};
pub use embeddings::{Embedded, Embeddings, EmbeddingsOptions, TextRole};
pub use openai::{OpenAi, OpenAiAnswer, OpenAiError, OpenAiOptions};
pub use openmemory::{Added, Generation, OpenMemory, OpenMemoryError, Record};

/// How long a connection may take to come about.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// An HTTP client as all our clients use it.
///
/// # Errors
/// If no TLS can be set up.
fn http_client() -> Result<reqwest::Client, reqwest::Error> {
    client_builder()
        .connect_timeout(CONNECT_TIMEOUT)
        .user_agent(concat!("elaoms/", env!("CARGO_PKG_VERSION")))
        .redirect(reqwest::redirect::Policy::none())
        .build()
}

/// Begins an HTTP client, for whatever is not one of ours.
pub fn client_builder() -> reqwest::ClientBuilder {
    use_our_cryptography();
    reqwest::Client::builder()
}

/// Has every TLS connection of the process use the one implementation of
/// cryptography that is built in. Done more than once, it changes nothing.
pub fn use_our_cryptography() {
    let _ = rustls::crypto::ring::default_provider().install_default();
}

/// `retry-after-ms` (OpenAI) or `retry-after` in seconds or as an HTTP date.
fn retry_after(headers: &HeaderMap, now: Timestamp) -> Option<Duration> {
    let text = |name: &str| headers.get(name)?.to_str().ok().map(str::trim);
    let seconds = |s: f64| Duration::try_from_secs_f64(s).ok();
    if let Some(millis) = text("retry-after-ms").and_then(|t| t.parse::<f64>().ok()) {
        return seconds(millis / 1000.0);
    }
    let value = text(RETRY_AFTER.as_str())?;
    if let Ok(number) = value.parse::<f64>() {
        return seconds(number);
    }
    let date = jiff::fmt::rfc2822::parse(value).ok()?.timestamp();
    Some(Duration::try_from(date.duration_since(now)).unwrap_or_default())
}

/// Reads a body, giving up past `limit` bytes.
async fn bounded_body(mut response: Response, limit: usize) -> Result<Vec<u8>, BodyError> {
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await? {
        if body.len() + chunk.len() > limit {
            return Err(BodyError::TooLarge);
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body)
}

#[derive(Debug, thiserror::Error)]
enum BodyError {
    #[error("the answer is too large")]
    TooLarge,
    #[error(transparent)]
    Http(#[from] reqwest::Error),
}

/// What went wrong on the way, without the URL (it may hold an identifier).
fn describe(error: reqwest::Error) -> String {
    // Its own text is one of a few fixed ones.
    let error = error.without_url();
    let mut text = error.to_string();
    let causes = std::iter::successors(std::error::Error::source(&error), |e| e.source());
    for cause in causes.filter_map(known_cause) {
        text.push_str(": ");
        text.push_str(&cause);
    }
    text
}

/// The beginnings of errors that say enough for an operator.
const KNOWN_CAUSES: &[&str] = &[
    "dns error",
    "tcp connect error",
    "operation timed out",
    "tunnel error",
    "invalid peer certificate: UnknownIssuer",
    "invalid peer certificate: certificate expired",
    "invalid peer certificate: certificate not valid for name",
    "invalid peer certificate",
    "received fatal alert",
];

/// A cause as far as its text is ours or a library's: others hold what the
/// server chose, such as the names in its certificate or the reason it gives
/// for closing an HTTP/2 connection.
fn known_cause(cause: &(dyn std::error::Error + 'static)) -> Option<String> {
    if cause.is::<hyper::Error>() {
        return Some(cause.to_string());
    }
    let text = cause.to_string();
    let known = KNOWN_CAUSES.iter().find(|known| text.starts_with(**known));
    let io = || cause.downcast_ref::<std::io::Error>();
    known
        .map(|known| (*known).to_owned())
        .or_else(|| Some(io()?.kind().to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retry_after_in_each_of_its_forms() {
        let now = Timestamp::from_second(1_795_341_600).unwrap();
        let check = |name: &'static str, value: &str, expected: Option<u64>| {
            let mut headers = HeaderMap::new();
            headers.insert(name, value.parse().unwrap());
            assert_eq!(
                retry_after(&headers, now),
                expected.map(Duration::from_millis),
                "{value}"
            );
        };
        check("retry-after", "2", Some(2_000));
        check("retry-after", "0.5", Some(500));
        check("retry-after-ms", "750", Some(750));
        check("retry-after", "-3", None);
        check("retry-after", "soon", None);
        check("retry-after", "Sun, 22 Nov 2026 10:00:30 GMT", Some(30_000));
        check("retry-after", "Sun, 22 Nov 2020 10:00:30 GMT", Some(0));
    }

    #[test]
    fn of_a_failed_connection_only_known_causes_are_told() {
        use std::io::{Error, ErrorKind};
        let told = |error: Error| known_cause(&error);
        assert_eq!(
            told(ErrorKind::ConnectionRefused.into()).unwrap(),
            "connection refused"
        );
        assert_eq!(
            told(Error::other(
                "invalid peer certificate: certificate not valid for name \"a\"; only for \"I like roses\""
            ))
            .unwrap(),
            "invalid peer certificate: certificate not valid for name"
        );
        assert_eq!(told(Error::other("I like roses")).unwrap(), "other error");
        let farewell = std::fmt::Error;
        assert_eq!(known_cause(&farewell), None, "of an unknown kind");
    }

    #[tokio::test]
    async fn a_refused_connection_is_told_as_such() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/secret", listener.local_addr().unwrap());
        drop(listener);
        let error = http_client().unwrap().get(url).send().await.unwrap_err();
        assert_eq!(
            describe(error),
            "error sending request: tcp connect error: connection refused"
        );
    }
}
