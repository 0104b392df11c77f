//! Logs and traces: where they go, and how callers appear in them.

pub(crate) mod traces;

use std::fmt;
use std::io::BufWriter;

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use tracing::level_filters::LevelFilter;
use tracing_appender::non_blocking::{NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer, Registry};

use crate::domain::caller_id::CallerId;

use traces::Exporter;
pub use traces::TraceOptions;

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

/// Writes and sends what is buffered when it is dropped.
#[derive(Debug)]
pub struct Telemetry {
    _traces: Option<Exporter>,
    _logs: WorkerGuard,
}

/// Sends logs to standard output, through a thread of its own: an output that
/// blocks must not hold up a ring. Lines that do not fit its buffer are lost.
/// Sends traces to a collector, if there is one, in the same way.
pub fn init(format: LogFormat, filter: Option<&str>, traces: Option<&TraceOptions>) -> Telemetry {
    let (writer, logs) = NonBlockingBuilder::default()
        .buffered_lines_limit(64 * 1024)
        // Lines that come together are written together.
        .finish(BufWriter::with_capacity(64 * 1024, std::io::stdout()));
    let wanted = filter.unwrap_or("info");
    // The actor runtime opens a span for each actor, the PostgreSQL client tells
    // every notice, the exporter of traces each step; of no use in our logs.
    let quiet: String = ["ractor", "sqlx", "opentelemetry"]
        .into_iter()
        .filter(|module| !wanted.contains(module))
        .map(|module| format!(",{module}=warn"))
        .collect();
    let of_traces = traces::TARGET;
    let filter = EnvFilter::try_new(format!("{wanted}{quiet},{of_traces}=off"))
        .unwrap_or_else(|_| EnvFilter::new(format!("info{quiet},{of_traces}=off")));
    let builder = tracing_subscriber::fmt::layer().with_writer(writer);
    let lines: Box<dyn Layer<Registry> + Send + Sync> = match format {
        LogFormat::Text => builder.with_ansi(false).boxed(),
        LogFormat::Json => builder.json().flatten_event(true).boxed(),
    };
    let exporter = traces.map(Exporter::new);
    let (exporter, failed) = match exporter.transpose() {
        Ok(exporter) => (exporter, None),
        Err(error) => (None, Some(error)),
    };
    // A second call, as in tests, keeps the first subscriber.
    let _ = match &exporter {
        // One filter for all is quicker than one for each.
        None => tracing_subscriber::registry()
            .with(lines)
            .with(filter)
            .try_init(),
        Some(exporter) => {
            let own = Targets::new().with_target("elaoms", LevelFilter::INFO);
            let spans = tracing_opentelemetry::layer()
                .with_tracer(exporter.tracer())
                .with_location(false)
                .with_threads(false)
                .with_target(false)
                .with_filter(own);
            tracing_subscriber::registry()
                .with(lines.with_filter(filter))
                .with(spans)
                .try_init()
        }
    };
    if let Some(error) = failed {
        tracing::error!(%error, "Traces cannot be sent");
    }
    Telemetry {
        _traces: exporter,
        _logs: logs,
    }
}
