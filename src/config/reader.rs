//! One setting after the other: what is missing or cannot be used is collected,
//! so that an operator learns of all of it at once.

mod openai;

use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use percent_encoding::percent_decode_str;
use reqwest::header::{HeaderName, HeaderValue};
use secrecy::{ExposeSecret, SecretString};

use super::{ConfigError, Environment, SESSION_IDLE, Services, SetupConfig};
use crate::actors::{Retention, SessionOptions};
use crate::domain::caller_rules::{CallerRules, Region};
use crate::domain::connection::PublicUrl;
use crate::domain::ids::AgentId;
use crate::http::TrustedProxies;
use crate::secrets::{AdminKey, Secrets};
use crate::store::{ArchiveOptions, BucketOptions, DatabaseUrl};
use crate::telemetry::{CallerIdFormat, LogFormat, TraceOptions};

/// A secret with fewer characters can be found by trying.
const SHORT_SECRET: usize = 16;

/// Reads from an environment.
pub(super) struct Reader<'a> {
    env: &'a Environment,
    problems: Vec<String>,
    warnings: Vec<String>,
}

impl<'a> Reader<'a> {
    pub fn new(env: &'a Environment) -> Self {
        Self {
            env,
            problems: Vec::new(),
            warnings: Vec::new(),
        }
    }

    pub fn finish<T>(self, config: T) -> Result<T, ConfigError> {
        if self.problems.is_empty() {
            Ok(config)
        } else {
            Err(ConfigError(self.problems))
        }
    }

    /// An empty value counts as not set.
    fn text(&self, name: &str) -> Option<String> {
        self.env
            .get(name)
            .map(|v| v.trim().to_owned())
            .filter(|v| !v.is_empty())
    }

    /// A secret, set directly or as the content of the file that `…_FILE` names.
    fn credential(&mut self, name: &str) -> Option<String> {
        let file = format!("{name}_FILE");
        let path = self.text(&file);
        if let Some(value) = self.text(name) {
            if path.is_some() {
                self.warnings
                    .push(format!("{name} and {file} are both set; {name} is used"));
            }
            return Some(value);
        }
        let path = path?;
        let refused = match std::fs::read_to_string(&path).as_deref().map(str::trim) {
            Ok("") => "is empty".to_owned(),
            Ok(content) if content.contains('\n') => {
                "has several lines; put several values on one line, comma-separated".to_owned()
            }
            Ok(content) => return Some(content.to_owned()),
            Err(error) => format!("cannot be read: {error}"),
        };
        self.problems
            .push(format!("{file} names {path:?}, which {refused}"));
        None
    }

    /// Warns of a secret that others show us and that can be found by trying.
    fn weigh<'s>(&mut self, name: &str, mut values: impl Iterator<Item = &'s [u8]>) {
        if values.any(|value| value.len() < SHORT_SECRET) {
            self.warnings.push(format!(
                "{name} holds a value of fewer than {SHORT_SECRET} characters, which can be found by \
                 trying; make one with: openssl rand -hex 32"
            ));
        }
    }

    /// Each key opens everything, so an empty or doubtful one is a mistake.
    fn admin_keys(&mut self) -> Vec<AdminKey> {
        let keys = AdminKey::parse_all(&self.credential("ADMIN_KEY").unwrap_or_default());
        for (i, AdminKey { name, key }) in keys.iter().enumerate() {
            let key = key.expose_secret();
            if key.is_empty() {
                self.problems
                    .push(format!("ADMIN_KEY has no key after {name:?} and the colon"));
            } else if let Some(first) = keys[..i].iter().find(|k| k.key.expose_secret() == key) {
                self.problems.push(format!(
                    "ADMIN_KEY gives {:?} and {name:?} the same key: nobody could tell them apart",
                    first.name
                ));
            }
        }
        self.weigh(
            "ADMIN_KEY",
            keys.iter().map(|k| k.key.expose_secret().as_bytes()),
        );
        keys
    }

    pub fn secrets(&mut self, name: &str, hint: &str) -> Secrets {
        let problems = self.problems.len();
        let secrets = Secrets::parse(&self.credential(name).unwrap_or_default());
        if secrets.first().is_none() && self.problems.len() == problems {
            self.problems.push(format!("{name} is not set: {hint}"));
        }
        self.weigh(name, secrets.values());
        secrets
    }

    pub fn address(&mut self, name: &str, default: &str) -> SocketAddr {
        let text = self.text(name).unwrap_or_else(|| default.to_owned());
        text.parse().unwrap_or_else(|_| {
            self.problems.push(format!(
                "{name} is {text:?}, not an address such as {default}"
            ));
            SocketAddr::from(([127, 0, 0, 1], 0))
        })
    }

    /// A misspelled one is no default: its callers would share its limits.
    pub fn proxies(&mut self) -> TrustedProxies {
        let text = self.text("TRUSTED_PROXIES").unwrap_or_default();
        TrustedProxies::parse(&text).unwrap_or_else(|wrong| {
            self.problems.push(format!(
                "TRUSTED_PROXIES holds {wrong:?}, not an address such as 127.0.0.1 or a prefix such as 10.0.0.0/8"
            ));
            TrustedProxies::default()
        })
    }

    fn url(&mut self, name: &str, default: &str) -> String {
        let text = self.text(name).unwrap_or_else(|| default.to_owned());
        let rest = text
            .strip_prefix("https://")
            .or_else(|| text.strip_prefix("http://"));
        if rest.is_none_or(|r| r.is_empty() || r.contains(char::is_whitespace)) {
            self.problems
                .push(format!("{name} is {text:?}, not a URL such as {default}"));
        } else if text.starts_with("http://") && !is_on_this_machine(&text) {
            // The URL may hold a password: it is not repeated.
            self.warnings.push(format!(
                "{name} is plain HTTP to another machine: keys and callers' words can be read on the way; use https://"
            ));
        }
        text.trim_end_matches('/').to_owned()
    }

    /// A number within `range`, else the default with a warning.
    fn number<T>(&mut self, name: &str, default: T, range: std::ops::RangeInclusive<T>) -> T
    where
        T: std::str::FromStr + PartialOrd + Copy + std::fmt::Display,
    {
        let Some(text) = self.text(name) else {
            return default;
        };
        match text.parse() {
            Ok(number) if range.contains(&number) => number,
            _ => {
                self.warnings.push(format!(
                    "{name} is {text:?}, not a number from {} to {}; using {default}",
                    range.start(),
                    range.end(),
                ));
                default
            }
        }
    }

    pub fn services(&mut self, post_call_key: Option<&SecretString>) -> Services {
        let ops_addr = self.address("OPS_ADDR", "127.0.0.1:9464");
        let admin_keys = self.admin_keys();
        let database = self.database();
        let openmemory = self.openmemory();
        let two_tier = self.switch("USE_TWO_TIER", true);
        let account = self.openai_account();
        let openai = self.openai(&account);
        let embeddings = self.embeddings(&account);
        let elevenlabs = self.elevenlabs();
        let log_format = match self.text("LOG_FORMAT").as_deref() {
            None | Some("text") => LogFormat::Text,
            Some("json") => LogFormat::Json,
            Some(other) => {
                self.warnings.push(format!(
                    "LOG_FORMAT is {other:?}, not text or json; using text"
                ));
                LogFormat::Text
            }
        };
        let caller_ids = match self.text("LOG_CALLER_IDS").as_deref() {
            None | Some("full") => CallerIdFormat::Full,
            Some("masked") => CallerIdFormat::Masked,
            Some("hashed") => {
                let key = post_call_key
                    .map(|k| k.expose_secret().as_bytes())
                    .unwrap_or_default();
                CallerIdFormat::hashed(key)
            }
            Some(other) => {
                // Who misspells it wanted less in the logs, not more.
                self.warnings.push(format!(
                    "LOG_CALLER_IDS is {other:?}, not full, masked or hashed; using masked"
                ));
                CallerIdFormat::Masked
            }
        };
        let hours = |hours: u64| Duration::from_secs(hours * 3600);
        Services {
            ops_addr,
            admin_keys,
            database,
            openmemory,
            two_tier,
            archive: self.archive(),
            openai,
            embeddings,
            elevenlabs,
            public_url: self.public_url(),
            webhook_id: self.text("ELEVENLABS_WEBHOOK_ID"),
            reconcile_interval: self.reconcile_interval(),
            agent_ttl: hours(self.number("AGENT_CACHE_TTL_HOURS", 24, 1..=8_760)),
            client_data_deadline: Duration::from_millis(self.number(
                "CLIENT_DATA_DEADLINE_MS",
                400,
                10..=10_000,
            )),
            greeting_retry: hours(self.number("GREETING_RETRY_HOURS", 24, 0..=720)),
            retention: self.retention(),
            max_body: self.number("MAX_BODY_MB", 64usize, 1..=1_024) * 1024 * 1024,
            sessions: SessionOptions {
                most: self.number("MAX_SESSIONS", 20_000, 16..=10_000_000),
                idle: SESSION_IDLE,
            },
            caller_rules: Arc::new(self.caller_rules()),
            log_format,
            caller_ids,
            log_filter: self.log_filter(),
            traces: self.traces(),
            warnings: std::mem::take(&mut self.warnings),
        }
    }

    fn public_url(&mut self) -> Option<PublicUrl> {
        let text = self.text("PUBLIC_URL")?;
        PublicUrl::parse(&text)
            .inspect_err(|why| self.problems.push(format!("PUBLIC_URL is {text:?}: {why}")))
            .ok()
    }

    fn reconcile_interval(&mut self) -> Option<Duration> {
        let minutes = self.number("RECONCILE_INTERVAL_MINUTES", 60u64, 0..=1_440);
        (minutes > 0).then(|| Duration::from_secs(minutes * 60))
    }

    pub fn setup(&mut self) -> SetupConfig {
        let mut secrets = |name| Secrets::parse(&self.credential(name).unwrap_or_default());
        let client_data_key = secrets("ELEVENLABS_CLIENT_DATA_KEY");
        let search_data_key = secrets("ELEVENLABS_SEARCH_DATA_KEY");
        let post_call_key = secrets("ELEVENLABS_POST_CALL_KEY");
        let api_key = self
            .credential("ELEVENLABS_SETUP_API_KEY")
            .or_else(|| self.credential("ELEVENLABS_API_KEY"));
        if api_key.is_none() {
            self.problems.push(
                "neither ELEVENLABS_SETUP_API_KEY nor ELEVENLABS_API_KEY is set: create one in ElevenLabs under \
                 API Keys, with read and write access to ElevenLabs Agents (convai_read, convai_write) and to \
                 webhooks (webhooks_write, for administrators of the workspace); a set-up alone needs write \
                 access, so it may be a key of its own"
                    .into(),
            );
        }
        SetupConfig {
            base_url: self.url("ELEVENLABS_BASE_URL", "https://api.elevenlabs.io"),
            api_key: api_key.unwrap_or_default().into(),
            public_url: self.public_url(),
            webhook_id: self.text("ELEVENLABS_WEBHOOK_ID"),
            client_data_key,
            search_data_key,
            post_call_key,
            ops_addr: self.address("OPS_ADDR", "127.0.0.1:9464"),
            admin_keys: self.admin_keys(),
        }
    }

    /// A bare word that is no level would name a module, and silence all others.
    fn log_filter(&mut self) -> Option<String> {
        const LEVELS: &[&str] = &["off", "error", "warn", "info", "debug", "trace"];
        let filter = self.text("RUST_LOG")?;
        let known = |part: &str| {
            part.contains('=')
                || part.contains("::")
                || part.contains('[')
                || LEVELS.contains(&part.to_lowercase().as_str())
        };
        let is_filter = tracing_subscriber::EnvFilter::try_new(&filter).is_ok();
        if is_filter && filter.split(',').map(str::trim).all(known) {
            return Some(filter);
        }
        self.warnings.push(format!(
            "RUST_LOG is {filter:?}, not a level (error, warn, info, debug, trace) or a filter; using info"
        ));
        None
    }

    fn traces(&mut self) -> Option<TraceOptions> {
        const OF_TRACES: &str = "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT";
        const OF_ALL: &str = "OTEL_EXPORTER_OTLP_ENDPOINT";
        const EXAMPLE: &str = "http://127.0.0.1:4318";
        let endpoint = if self.text(OF_TRACES).is_some() {
            self.url(OF_TRACES, EXAMPLE)
        } else {
            self.text(OF_ALL)?;
            let base = self.url(OF_ALL, EXAMPLE);
            format!("{}/v1/traces", base.trim_end_matches("/v1/traces"))
        };
        if let Some(other) = self
            .text("OTEL_EXPORTER_OTLP_PROTOCOL")
            .filter(|protocol| protocol != "http/protobuf")
        {
            self.warnings.push(format!(
                "OTEL_EXPORTER_OTLP_PROTOCOL is {other:?}; traces are sent as http/protobuf"
            ));
        }
        let headers = self
            .credential("OTEL_EXPORTER_OTLP_HEADERS")
            .unwrap_or_default();
        let headers = headers
            .split(',')
            .filter(|header| !header.trim().is_empty());
        let headers: Option<Vec<_>> = headers
            .map(|header| {
                let (name, value) = header.split_once('=')?;
                let value = percent_decode_str(value.trim()).decode_utf8().ok()?;
                let name = HeaderName::try_from(name.trim()).ok()?;
                HeaderValue::try_from(value.as_ref()).ok()?;
                Some((name.as_str().to_owned(), value.into_owned().into()))
            })
            .collect();
        if headers.is_none() {
            self.problems
                .push("OTEL_EXPORTER_OTLP_HEADERS is not of the form name=value,name=value".into());
        }
        Some(TraceOptions {
            endpoint,
            headers: headers.unwrap_or_default(),
            service: self
                .text("OTEL_SERVICE_NAME")
                .unwrap_or_else(|| "elaoms".into()),
        })
    }

    /// A PostgreSQL URL holds a password: like other secrets it may be in a file.
    fn database(&mut self) -> DatabaseUrl {
        let url = self
            .credential("DATABASE_URL")
            .unwrap_or_else(|| "sqlite://data/elaoms.db".into());
        match DatabaseUrl::parse(&url) {
            Some(DatabaseUrl::Postgres(_)) if self.text("OPENMEMORY_PORT").is_some() => {
                self.problems.push(
                    "OPENMEMORY_PORT cannot be used with DATABASE_URL=postgres://…: the index of its records \
                     is in SQLite"
                        .into(),
                );
            }
            Some(known) => {
                if matches!(known, DatabaseUrl::Postgres(_)) && !is_encrypted(&url) {
                    self.warnings.push(
                        "DATABASE_URL leads to another machine and does not insist on TLS: passwords and callers' \
                         words can be read on the way; add ?sslmode=verify-full (and sslrootcert=/path/to/ca.pem)"
                            .into(),
                    );
                }
                return known;
            }
            // A database URL may hold a password: only its scheme is repeated.
            None => self.problems.push(match url.split_once(':') {
                Some((scheme, _)) => format!(
                    "DATABASE_URL begins with {scheme:?}; what is known is sqlite://path/to/file.db and \
                     postgres://user:password@host/database"
                ),
                None => "DATABASE_URL is no URL; for a file write sqlite:// and its path, such as \
                         sqlite:///var/lib/elaoms/elaoms.db"
                    .to_owned(),
            }),
        }
        DatabaseUrl::Sqlite(PathBuf::new())
    }

    fn archive(&mut self) -> ArchiveOptions {
        let folder = self.text("PAYLOAD_STORAGE_PATH");
        ArchiveOptions {
            folder: folder.unwrap_or_else(|| "./payloads".into()).into(),
            bucket: self.bucket(),
        }
    }

    fn bucket(&mut self) -> Option<BucketOptions> {
        let url = self.text("PAYLOAD_STORAGE_URL")?;
        let Some((bucket, prefix)) = BucketOptions::parse(&url) else {
            self.problems.push(
                "PAYLOAD_STORAGE_URL is not of the form s3://bucket or s3://bucket/prefix (letters, digits, and -._)"
                    .into(),
            );
            return None;
        };
        let endpoint = self.text("AWS_ENDPOINT_URL");
        let endpoint = endpoint.map(|_| self.url("AWS_ENDPOINT_URL", "https://s3.example.org"));
        let id = self.credential("AWS_ACCESS_KEY_ID");
        let secret = self.credential("AWS_SECRET_ACCESS_KEY");
        let key = match (id, secret) {
            (Some(id), Some(secret)) => Some((id, secret.into())),
            (None, None) => None,
            _ => {
                self.problems.push(
                    "of AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY one is set; both are needed, or neither \
                     where a role gives access"
                        .into(),
                );
                None
            }
        };
        Some(BucketOptions {
            bucket,
            prefix,
            endpoint,
            region: self.text("AWS_REGION"),
            key,
        })
    }

    /// 0 keeps all.
    fn retention(&mut self) -> Retention {
        let mut days = |name: &str, default: u32| {
            let days = self.number(name, default, 0..=36_500);
            (days > 0).then(|| Duration::from_secs(u64::from(days) * 24 * 3600))
        };
        Retention {
            payloads: days("PAYLOAD_RETENTION_DAYS", 0),
            memories: days("MEMORY_RETENTION_DAYS", 0),
            dead_letters: days("DEAD_LETTER_RETENTION_DAYS", 90),
        }
    }

    fn caller_rules(&mut self) -> CallerRules {
        let region = self.text("DEFAULT_REGION").and_then(|code| {
            let region = Region::parse(&code);
            if region.is_none() {
                self.warnings.push(format!(
                    "DEFAULT_REGION is {code:?}, not a country code of two letters such as US; numbers \
                     without a plus stay as they are"
                ));
            }
            region
        });
        let agents = self.text("TRUSTED_USER_ID_AGENTS").unwrap_or_default();
        let mut trusted = Vec::new();
        for id in agents.split(',').map(str::trim).filter(|id| !id.is_empty()) {
            match AgentId::parse(id) {
                Ok(agent) => trusted.push(agent),
                Err(error) => self.problems.push(format!(
                    "TRUSTED_USER_ID_AGENTS holds something that is no agent id: it {error}"
                )),
            }
        }
        CallerRules::new(region, trusted)
    }

    /// A port on this machine, or a URL.
    fn openmemory(&mut self) -> Option<(String, Option<SecretString>)> {
        let place = self.text("OPENMEMORY_PORT")?;
        let url = match place.parse::<u16>() {
            Ok(port) => format!("http://127.0.0.1:{port}"),
            Err(_) => self.url("OPENMEMORY_PORT", "8080 or http://127.0.0.1:8080"),
        };
        Some((
            url,
            self.credential("OPENMEMORY_KEY").map(SecretString::from),
        ))
    }

    fn switch(&mut self, name: &str, default: bool) -> bool {
        match self.text(name).map(|t| t.to_lowercase()).as_deref() {
            None => default,
            Some("true" | "1" | "yes" | "on") => true,
            Some("false" | "0" | "no" | "off") => false,
            Some(other) => {
                self.warnings.push(format!(
                    "{name} is {other:?}, not true or false; using {default}"
                ));
                default
            }
        }
    }

    fn limit(&mut self, name: &str, default: u32) -> NonZeroU32 {
        NonZeroU32::new(self.number(name, default, 1..=100_000_000)).unwrap_or(NonZeroU32::MIN)
    }

    fn elevenlabs(&mut self) -> Option<(String, SecretString)> {
        let base_url = self.url("ELEVENLABS_BASE_URL", "https://api.elevenlabs.io");
        let Some(key) = self.credential("ELEVENLABS_API_KEY") else {
            self.warnings.push(
                "ELEVENLABS_API_KEY is not set: agent profiles cannot be fetched, so declared variables \
                 are not filled and greetings do not know their agent"
                    .into(),
            );
            return None;
        };
        Some((base_url, key.into()))
    }
}

/// Whether nobody on the way can read what a database is told: there is no way,
/// or the URL insists on TLS.
fn is_encrypted(url: &str) -> bool {
    let Ok(parsed) = reqwest::Url::parse(url) else {
        return true;
    };
    let mut query = parsed.query_pairs();
    !parsed.has_host()
        || is_on_this_machine(url)
        || query.any(|(name, value)| match &*name {
            "sslmode" | "ssl-mode" => matches!(&*value, "require" | "verify-ca" | "verify-full"),
            // A folder is that of a socket.
            "host" => value.starts_with('/'),
            _ => false,
        })
}

/// Whether the URL's host is a loopback address or `localhost`.
fn is_on_this_machine(url: &str) -> bool {
    let Ok(url) = reqwest::Url::parse(url) else {
        return false;
    };
    let host = url.host_str().unwrap_or_default();
    let address = host.trim_start_matches('[').trim_end_matches(']');
    address
        .parse::<IpAddr>()
        .map_or(host == "localhost", |ip| ip.to_canonical().is_loopback())
}
