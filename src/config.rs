//! The configuration: every environment variable is read here and nowhere else.
//!
//! A value that is out of range is warned about and replaced by its default
//! (guide, "Configuration Validation"); a value that cannot be guessed, such
//! as a secret or an address, is an error that says how to correct it.

mod environment;
mod reader;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use secrecy::SecretString;

use crate::actors::{OpenAiLimits, Retention, SessionOptions};
use crate::clients::{EmbeddingsOptions, OpenAiOptions};
use crate::domain::caller_rules::CallerRules;
use crate::domain::connection::PublicUrl;
use crate::http::TrustedProxies;
use crate::secrets::{AdminKey, Secrets};
use crate::store::{ArchiveOptions, DatabaseUrl};
use crate::telemetry::{CallerIdFormat, LogFormat, TraceOptions};

pub use environment::{Environment, SETTINGS_FILE};
use reader::Reader;

/// How long a caller's session stays in memory after the last call.
const SESSION_IDLE: Duration = Duration::from_secs(15 * 60);

/// Everything that can be set.
pub struct Config {
    /// `BIND_ADDR`
    pub bind_addr: SocketAddr,
    /// `TRUSTED_PROXIES`
    pub trusted_proxies: TrustedProxies,
    /// `ELEVENLABS_CLIENT_DATA_KEY`
    pub client_data_key: Secrets,
    /// `ELEVENLABS_SEARCH_DATA_KEY`
    pub search_data_key: Secrets,
    /// `ELEVENLABS_POST_CALL_KEY`
    pub post_call_key: Secrets,
    /// What does not depend on the webhooks' secrets.
    pub services: Services,
}

/// The part of the configuration that `check` needs as well: stores,
/// upstreams, limits, logs.
pub struct Services {
    /// `OPS_ADDR`
    pub ops_addr: SocketAddr,
    /// `ADMIN_KEY`
    pub admin_keys: Vec<AdminKey>,
    /// `DATABASE_URL`
    pub database: DatabaseUrl,
    /// `OPENMEMORY_PORT` as a URL, and `OPENMEMORY_KEY`; `None` if the memories
    /// are in the database.
    pub openmemory: Option<(String, Option<SecretString>)>,
    /// `USE_TWO_TIER`; false is the guide's rollback.
    pub two_tier: bool,
    /// `PAYLOAD_STORAGE_PATH`, `PAYLOAD_STORAGE_URL` and `AWS_…`
    pub archive: ArchiveOptions,
    /// `OPENAI_…`; `None` without `OPENAI_API_KEY`.
    pub openai: Option<(OpenAiOptions, OpenAiLimits)>,
    /// `EMBEDDINGS_…`; `None` without `EMBEDDINGS_MODEL`.
    pub embeddings: Option<(EmbeddingsOptions, OpenAiLimits)>,
    /// `ELEVENLABS_BASE_URL` and `ELEVENLABS_API_KEY`; `None` without the key.
    pub elevenlabs: Option<(String, SecretString)>,
    /// `PUBLIC_URL`; `None` if it is not known where ElevenLabs reaches the webhooks.
    pub public_url: Option<PublicUrl>,
    /// `ELEVENLABS_WEBHOOK_ID`: whose secret `ELEVENLABS_POST_CALL_KEY` is.
    pub webhook_id: Option<String>,
    /// `RECONCILE_INTERVAL_MINUTES`; `None` if calls are not looked for that never came.
    pub reconcile_interval: Option<Duration>,
    /// `AGENT_CACHE_TTL_HOURS`
    pub agent_ttl: Duration,
    /// `CLIENT_DATA_DEADLINE_MS`
    pub client_data_deadline: Duration,
    /// `GREETING_RETRY_HOURS`
    pub greeting_retry: Duration,
    /// `…_RETENTION_DAYS`
    pub retention: Retention,
    /// `MAX_BODY_MB`, in bytes.
    pub max_body: usize,
    /// `MAX_SESSIONS`
    pub sessions: SessionOptions,
    /// `DEFAULT_REGION` and `TRUSTED_USER_ID_AGENTS`
    pub caller_rules: Arc<CallerRules>,
    /// `LOG_FORMAT`
    pub log_format: LogFormat,
    /// `LOG_CALLER_IDS`
    pub caller_ids: CallerIdFormat,
    /// `RUST_LOG`
    pub log_filter: Option<String>,
    /// `OTEL_…`; `None` without an endpoint.
    pub traces: Option<TraceOptions>,
    /// What to tell the operator once logs are on.
    pub warnings: Vec<String>,
}

/// What is wrong with the configuration, one line each.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the configuration is not complete:\n{}", .0.iter().map(|p| format!("  - {p}\n")).collect::<String>())]
pub struct ConfigError(pub Vec<String>);

const API_KEY_HINT: &str = "choose any long random text, for instance with: openssl rand -hex 32; \
     then enter the same text as a secret in the agent's webhook header X-Api-Key";
const POST_CALL_HINT: &str = "ElevenLabs shows it once when the post-call webhook is created \
     (Settings, Webhooks); it begins with wsec_";

impl Config {
    /// Reads what `serve` needs.
    ///
    /// # Errors
    /// [`ConfigError`] names every missing or unusable variable at once.
    pub fn from_env(env: &Environment) -> Result<Self, ConfigError> {
        let mut reader = Reader::new(env);
        let client_data_key = reader.secrets("ELEVENLABS_CLIENT_DATA_KEY", API_KEY_HINT);
        let search_data_key = reader.secrets("ELEVENLABS_SEARCH_DATA_KEY", API_KEY_HINT);
        let post_call_key = reader.secrets("ELEVENLABS_POST_CALL_KEY", POST_CALL_HINT);
        let bind_addr = reader.address("BIND_ADDR", "0.0.0.0:8000");
        let trusted_proxies = reader.proxies();
        let services = reader.services(post_call_key.first());
        reader.finish(Self {
            bind_addr,
            trusted_proxies,
            client_data_key,
            search_data_key,
            post_call_key,
            services,
        })
    }
}

/// What `elaoms setup` works with.
pub struct SetupConfig {
    /// `ELEVENLABS_BASE_URL`
    pub base_url: String,
    /// `ELEVENLABS_SETUP_API_KEY`, else `ELEVENLABS_API_KEY`.
    pub api_key: SecretString,
    /// `PUBLIC_URL`
    pub public_url: Option<PublicUrl>,
    /// `ELEVENLABS_WEBHOOK_ID`
    pub webhook_id: Option<String>,
    /// The webhooks' secrets, as far as they are set.
    pub client_data_key: Secrets,
    /// See [`Self::client_data_key`].
    pub search_data_key: Secrets,
    /// See [`Self::client_data_key`].
    pub post_call_key: Secrets,
    /// `OPS_ADDR`
    pub ops_addr: SocketAddr,
    /// `ADMIN_KEY`
    pub admin_keys: Vec<AdminKey>,
}

impl SetupConfig {
    /// Reads what `setup` needs.
    ///
    /// # Errors
    /// [`ConfigError`] names every missing or unusable variable at once.
    pub fn from_env(env: &Environment) -> Result<Self, ConfigError> {
        let mut reader = Reader::new(env);
        let setup = reader.setup();
        reader.finish(setup)
    }
}

impl Services {
    /// Reads what `check` needs.
    ///
    /// # Errors
    /// [`ConfigError`] names every unusable variable at once.
    pub fn from_env(env: &Environment) -> Result<Self, ConfigError> {
        let mut reader = Reader::new(env);
        let services = reader.services(None);
        reader.finish(services)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECRETS: [(&str, &str); 3] = [
        ("ELEVENLABS_CLIENT_DATA_KEY", "a"),
        ("ELEVENLABS_SEARCH_DATA_KEY", "b"),
        ("ELEVENLABS_POST_CALL_KEY", "c"),
    ];

    fn config(more: &[(&str, &str)]) -> Result<Config, ConfigError> {
        Config::from_env(&Environment::from_pairs(
            SECRETS.iter().chain(more).copied(),
        ))
    }

    #[test]
    fn every_missing_secret_is_named_with_a_remedy() {
        let error = Config::from_env(&Environment::from_pairs([(
            "ELEVENLABS_CLIENT_DATA_KEY",
            " ",
        )]))
        .err()
        .unwrap();
        let text = error.to_string();
        for name in [
            "ELEVENLABS_CLIENT_DATA_KEY",
            "ELEVENLABS_SEARCH_DATA_KEY",
            "ELEVENLABS_POST_CALL_KEY",
        ] {
            assert!(text.contains(name), "{text}");
        }
        assert!(
            text.contains("openssl rand -hex 32") && text.contains("wsec_"),
            "{text}"
        );
    }

    #[test]
    fn a_database_elsewhere_without_tls_is_warned_about() {
        for (url, warned) in [
            ("sqlite://x.db", false),
            ("postgres://u:p@localhost/db", false),
            ("postgres://u:p@db.example.org/db", true),
            ("postgres://u:p@db.example.org/db?sslmode=prefer", true),
            (
                "postgres://u:p@db.example.org/db?sslmode=verify-full",
                false,
            ),
            ("postgres://u@ignored/db?host=/run/postgresql", false),
        ] {
            let config = config(&[("DATABASE_URL", url)]).unwrap();
            let warnings = config.services.warnings;
            let found = warnings
                .iter()
                .any(|w| w.contains("does not insist on TLS"));
            assert_eq!(found, warned, "{url}");
            assert!(!warnings.iter().any(|w| w.contains("u:p")));
        }
    }

    #[test]
    fn doubtful_secrets_are_refused_or_warned_about() {
        for (keys, why) in [
            ("ana:", "no key after"),
            (
                "ana:one-and-the-same-key,ops:one-and-the-same-key",
                "same key",
            ),
        ] {
            let refused = config(&[("ADMIN_KEY", keys)]).err().unwrap().to_string();
            assert!(refused.contains(why), "{refused}");
            assert!(!refused.contains("one-and-the-same-key"), "{refused}");
        }
        let folder = tempfile::tempdir().unwrap();
        let file = |name: &str, content: &str| {
            let path = folder.path().join(name);
            std::fs::write(&path, content).unwrap();
            path.to_str().unwrap().to_owned()
        };
        for (content, why) in [(" \n", "is empty"), ("one\ntwo\n", "several lines")] {
            let path = file("refused", content);
            let refused = config(&[("ADMIN_KEY_FILE", &path)]).err().unwrap();
            assert!(refused.to_string().contains(why), "{refused}");
        }
        let both = file("good", "a-key-from-a-file-0001\n");
        let used = config(&[("ADMIN_KEY", "x"), ("ADMIN_KEY_FILE", &both)]).unwrap();
        for what in [
            "ADMIN_KEY and ADMIN_KEY_FILE are both set",
            "ADMIN_KEY holds a value of fewer",
        ] {
            let warnings = &used.services.warnings;
            assert!(warnings.iter().any(|w| w.contains(what)), "{warnings:?}");
        }
    }

    #[test]
    fn out_of_range_values_warn_and_fall_back() {
        for (name, values) in [
            ("OPENAI_MAX_TOKENS", ["49", "501", "many"]),
            ("OPENAI_TEMPERATURE", ["-0.1", "2.1", "NaN"]),
            ("OPENAI_TIMEOUT", ["4", "121", ""]),
        ] {
            for value in values {
                let config = config(&[("OPENAI_API_KEY", "k"), (name, value)]).unwrap();
                let (options, _) = config.services.openai.unwrap();
                assert_eq!(
                    (options.max_tokens, options.timeout.as_secs()),
                    (150, 30),
                    "{name}={value}"
                );
                assert!(
                    (options.temperature - 0.7).abs() < f64::EPSILON,
                    "{name}={value}"
                );
                let warned = config.services.warnings.iter().any(|w| w.contains(name));
                assert_eq!(warned, !value.is_empty(), "{name}={value}");
            }
        }
        let config = config(&[
            ("OPENAI_API_KEY", "k"),
            ("OPENAI_MAX_TOKENS", "500"),
            ("OPENAI_TEMPERATURE", "0.0"),
        ])
        .unwrap();
        assert_eq!(config.services.openai.unwrap().0.max_tokens, 500);
    }

    #[test]
    fn a_password_in_a_database_url_is_not_repeated() {
        let error = config(&[("DATABASE_URL", "mysql://me:secret@host/db")])
            .err()
            .unwrap();
        assert!(!error.to_string().contains("secret"), "{error}");
    }

    #[test]
    fn a_misspelled_proxy_is_named() {
        let set = |value| config(&[("TRUSTED_PROXIES", value)]);
        assert!(set("127.0.0.1, 10.0.0.0/8,fd00::/8").is_ok());
        let error = set("127.0.0.1,localhost").err().unwrap().to_string();
        assert!(
            error.contains("TRUSTED_PROXIES holds \"localhost\""),
            "{error}"
        );
    }

    #[test]
    fn a_misspelled_log_setting_shows_less_not_more() {
        let config = config(&[("LOG_CALLER_IDS", "mask")]).unwrap();
        assert!(matches!(config.services.caller_ids, CallerIdFormat::Masked));
    }

    #[test]
    fn plain_http_to_another_machine_is_warned_about() {
        let warned = |name: &str, url: &str| {
            let config = config(&[
                ("OPENAI_API_KEY", "k"),
                ("ELEVENLABS_API_KEY", "k"),
                (name, url),
            ]);
            let warnings = config.unwrap().services.warnings;
            assert!(
                !warnings.iter().any(|w| w.contains("secret")),
                "{warnings:?}"
            );
            warnings
                .iter()
                .any(|w| w.contains(name) && w.contains("plain HTTP"))
        };
        for name in ["OPENAI_BASE_URL", "ELEVENLABS_BASE_URL", "OPENMEMORY_PORT"] {
            for url in [
                "http://model.example/v1",
                "http://10.0.0.7:8080",
                "http://[2001:db8::1]:8080",
                "http://localhost.example",
                "http://127.0.0.1@model.example",
                "http://me:secret@model.example",
            ] {
                assert!(warned(name, url), "{name}={url}");
            }
            for url in [
                "https://model.example/v1",
                "http://127.0.0.1:8080",
                "http://127.8.9.1",
                "http://[::1]:8080/v1",
                "http://LOCALHOST:8080/v1/",
            ] {
                assert!(!warned(name, url), "{name}={url}");
            }
        }
        assert!(!warned("OPENMEMORY_PORT", "8080"));
    }
}
