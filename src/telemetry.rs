//! Logs: where they go, and how callers appear in them.

use std::fmt;
use std::io::BufWriter;

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use tracing_appender::non_blocking::{NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::EnvFilter;

use crate::domain::caller_id::CallerId;

/// `LOG_FORMAT`
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LogFormat {
    /// Lines for people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// `LOG_CALLER_IDS`: how a caller appears in logs.
#[derive(Clone, Default)]
pub enum CallerIdFormat {
    /// As it is, like the guide's log patterns.
    #[default]
    Full,
    /// All but the first three and last two characters hidden.
    Masked,
    /// A keyed hash: the same caller can be followed, nobody can be dialled.
    Hashed([u8; 32]),
}

impl CallerIdFormat {
    /// Hashes keyed with `secret`. A plain hash of a telephone number could be
    /// reversed by trying all numbers.
    #[must_use]
    pub fn hashed(secret: &[u8]) -> Self {
        Self::Hashed(keyed_hash(secret, b"elaoms log caller ids"))
    }

    /// The caller as logs show it.
    #[must_use]
    pub fn show<'a>(&'a self, caller: &'a CallerId) -> ShownCaller<'a> {
        ShownCaller {
            format: self,
            caller,
        }
    }
}

/// See [`CallerIdFormat::show`].
pub struct ShownCaller<'a> {
    format: &'a CallerIdFormat,
    caller: &'a CallerId,
}

impl fmt::Display for ShownCaller<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.format {
            CallerIdFormat::Full => f.write_str(self.caller.as_str()),
            CallerIdFormat::Masked => f.write_str(&self.caller.masked()),
            CallerIdFormat::Hashed(key) => {
                let hash = keyed_hash(key, self.caller.as_str().as_bytes());
                write!(f, "caller-{}", hex::encode(&hash[..8]))
            }
        }
    }
}

fn keyed_hash(key: &[u8], data: &[u8]) -> [u8; 32] {
    // HMAC takes keys of any length.
    let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(key) else {
        return [0; 32];
    };
    mac.update(data);
    mac.finalize().into_bytes().into()
}

/// Sends logs to standard output, through a thread of its own: an output that
/// blocks must not hold up a ring. Lines that do not fit its buffer are lost.
///
/// Keep the guard: dropping it writes what is buffered.
pub fn init(format: LogFormat, filter: Option<&str>) -> WorkerGuard {
    let (writer, guard) = NonBlockingBuilder::default()
        .buffered_lines_limit(64 * 1024)
        // Lines that come together are written together.
        .finish(BufWriter::with_capacity(64 * 1024, std::io::stdout()));
    let wanted = filter.unwrap_or("info");
    // The actor runtime opens a span for each actor, the PostgreSQL client tells
    // every notice; of no use in our logs.
    let quiet: String = ["ractor", "sqlx"]
        .into_iter()
        .filter(|module| !wanted.contains(module))
        .map(|module| format!(",{module}=warn"))
        .collect();
    let filter = EnvFilter::try_new(format!("{wanted}{quiet}"))
        .unwrap_or_else(|_| EnvFilter::new("info,ractor=warn,sqlx=warn"));
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(writer);
    // A second call, as in tests, keeps the first subscriber.
    let _ = match format {
        LogFormat::Text => builder.with_ansi(false).try_init(),
        LogFormat::Json => builder.json().flatten_event(true).try_init(),
    };
    guard
}
