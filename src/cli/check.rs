//! `elaoms check`: tries the configured services for real (guide, Phase 2).
//!
//! A line for each check: PASS, WARN or FAIL, the reason, the remedy. The exit
//! status is 0 only if none failed.

mod setup;

use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Subcommand};
use jiff::Timestamp;
use serde::Serialize;

use super::output::Output;
use super::{admin, load};
use crate::app::memory_store;
use crate::clients::{
    ElevenLabs, ElevenLabsError, Embeddings, EmbeddingsOptions, OpenAi, OpenAiError, TextRole,
};
use crate::config::{Config, ConfigError, Environment, Services, SetupConfig};
use crate::domain::agent_profile::AgentProfile;
use crate::domain::call_event::{Role, Turn};
use crate::domain::greeting::Greeting;
use crate::domain::ids::AgentId;
use crate::domain::prompt::GreetingPrompt;
use crate::store::{Archive, Database, DatabaseUrl, StoreError};

/// Longest wait for a running service, whose readiness waits for its stores.
const TIMEOUT: Duration = Duration::from_secs(20);

#[derive(Debug, Args)]
pub(super) struct CheckArguments {
    /// Print the findings as JSON.
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Ask OpenAI for a greeting.
    Openai,
    /// Ask the embeddings model for a vector.
    Embeddings,
    /// Fetch an agent's profile from ElevenLabs.
    Agent {
        /// The agent's id.
        id: String,
    },
    /// Open the database and the archive, and write to both.
    Memory,
    /// Read the settings that `serve` needs.
    Config,
    /// Look at the account at ElevenLabs, and call our webhooks as it would.
    Setup,
    /// All of these; the agent only if one is named, the set-up if PUBLIC_URL is set.
    All {
        /// The agent's id.
        #[arg(long)]
        agent: Option<String>,
    },
}

/// What a check found: a remark, or a reason and a remedy.
type Outcome = Result<String, (String, &'static str)>;

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "UPPERCASE")]
enum Level {
    Pass,
    Warn,
    Fail,
}

/// A line of the output.
#[derive(Debug, Clone, Serialize)]
struct Finding {
    check: String,
    level: Level,
    detail: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    remedy: Option<&'static str>,
}

impl Finding {
    fn pass(check: impl Into<String>, detail: impl Into<String>) -> Self {
        Self {
            check: check.into(),
            level: Level::Pass,
            detail: detail.into(),
            remedy: None,
        }
    }

    fn warn(check: impl Into<String>, detail: impl Into<String>, remedy: &'static str) -> Self {
        Self {
            level: Level::Warn,
            remedy: Some(remedy),
            ..Self::pass(check, detail)
        }
    }

    fn fail(check: impl Into<String>, detail: impl Into<String>, remedy: &'static str) -> Self {
        Self {
            level: Level::Fail,
            ..Self::warn(check, detail, remedy)
        }
    }

    fn of(check: &str, outcome: Outcome) -> Self {
        match outcome {
            Ok(remark) => Self::pass(check, remark),
            Err((reason, remedy)) => Self::fail(check, reason.trim_end(), remedy),
        }
    }
}

pub(super) async fn run(arguments: CheckArguments, file: Option<&Path>) -> ExitCode {
    // What `serve` lacks is one of the checks.
    let settings = |env: &Environment| {
        Ok((
            Services::from_env(env)?,
            config(env),
            SetupConfig::from_env(env),
        ))
    };
    let (services, config, setup) = match load(file, settings) {
        Ok(settings) => settings,
        Err(code) => return code,
    };
    let mut found = Vec::new();
    let mut add = |name: &str, outcome| found.push(Finding::of(name, outcome));
    match arguments.what {
        What::Openai => add("openai", openai(services).await),
        What::Embeddings => add(
            "embeddings",
            embeddings(services.embeddings.map(|(options, _)| options)).await,
        ),
        What::Agent { id } => add("agent", agent(&services, &id).await),
        What::Memory => add("memory", memory(&services).await),
        What::Config => add("config", config),
        What::Setup => found.extend(connection(setup).await),
        What::All { agent: id } => {
            add("config", config);
            add("memory", memory(&services).await);
            if let Some(id) = id {
                add("agent", agent(&services, &id).await);
            }
            let is_connected = services.public_url.is_some();
            let vectors = services.embeddings.clone();
            add("openai", openai(services).await);
            if let Some((options, _)) = vectors {
                add("embeddings", embeddings(Some(options)).await);
            }
            if is_connected {
                found.extend(connection(setup).await);
            }
        }
    }
    let mut output = Output::new();
    let passed = found.iter().all(|finding| finding.level != Level::Fail);
    if arguments.json {
        let found = serde_json::to_string_pretty(&found).unwrap_or_default();
        writeln!(output, "{found}");
        return output.status(passed);
    }
    for finding in found {
        let level = match finding.level {
            Level::Pass => "PASS",
            Level::Warn => "WARN",
            Level::Fail => "FAIL",
        };
        writeln!(output, "{level} {}: {}", finding.check, finding.detail);
        if let Some(remedy) = finding.remedy {
            writeln!(output, "     remedy: {remedy}");
        }
    }
    output.status(passed)
}

async fn connection(setup: Result<SetupConfig, ConfigError>) -> Vec<Finding> {
    match setup {
        Ok(setup) => setup::findings(setup).await,
        Err(error) => vec![Finding::fail(
            "setup",
            error.to_string(),
            "set it in .env or in the environment",
        )],
    }
}

fn config(env: &Environment) -> Outcome {
    let config = Config::from_env(env)
        .map_err(|e| (e.to_string(), "set them in .env or in the environment"))?;
    let warnings = config.services.warnings;
    if warnings.is_empty() {
        Ok("every setting is usable".into())
    } else {
        Ok(format!(
            "usable, with remarks:\n     - {}",
            warnings.join("\n     - ")
        ))
    }
}

async fn openai(services: Services) -> Outcome {
    let Some((options, _)) = services.openai else {
        return Err((
            "OPENAI_API_KEY is not set".into(),
            "get one at https://platform.openai.com/api-keys",
        ));
    };
    let model = options.model.clone();
    let client =
        OpenAi::new(options).map_err(|e| (e.to_string(), "check the system's TLS certificates"))?;
    let agent_id = AgentId::parse("agent_check").map_err(|e| (e.to_string(), "report this"))?;
    let agent = AgentProfile {
        name: Some("Test".into()),
        first_message: Some("Hi".into()),
        ..AgentProfile::default()
    };
    let turns = [
        Turn {
            role: Role::Agent,
            text: "Hello".into(),
        },
        Turn {
            role: Role::Caller,
            text: "Hi, my name is John. I want to plant tomatoes.".into(),
        },
    ];
    let prompt = GreetingPrompt::new(&agent_id, &agent, None, Timestamp::now(), &turns);
    let answer = client.complete(&prompt).await;
    let answer = answer.map_err(|error| {
        let remedy = match error {
            OpenAiError::InvalidKey(_) => "verify OPENAI_API_KEY",
            OpenAiError::Refused { .. } => "check OPENAI_MODEL and OPENAI_BASE_URL",
            OpenAiError::Network(_) => "check network connectivity and OPENAI_BASE_URL",
            OpenAiError::Unusable(_) => "raise OPENAI_MAX_TOKENS or choose another OPENAI_MODEL",
            _ => passing(&error),
        };
        (error.to_string(), remedy)
    })?;
    let greeting = Greeting::from_answer(&answer.content).map_err(|e| {
        (
            format!("{model} answers, but {e}"),
            "choose another OPENAI_MODEL",
        )
    })?;
    let said = greeting.next_greeting.unwrap_or_else(|| "(none)".into());
    Ok(format!(
        "{model} made a greeting with {} + {} tokens: {said}",
        answer.prompt_tokens, answer.completion_tokens
    ))
}

/// What helps where the service is there, and the request is right.
fn passing(error: &OpenAiError) -> &'static str {
    match error {
        OpenAiError::RateLimited { .. } | OpenAiError::QuotaExhausted => {
            "check your OpenAI plan and its limits"
        }
        OpenAiError::Timeout => "increase OPENAI_TIMEOUT or check network connectivity",
        _ => "try again later",
    }
}

async fn embeddings(options: Option<EmbeddingsOptions>) -> Outcome {
    let Some(options) = options else {
        return Err((
            "EMBEDDINGS_MODEL is not set: searches go by words alone".into(),
            "set it if they are to go by meaning, too",
        ));
    };
    let model = options.model.clone();
    let client = Embeddings::new(options)
        .map_err(|e| (e.to_string(), "check the system's TLS certificates"))?;
    let texts = ["When is the delivery?"];
    let started = std::time::Instant::now();
    let embedded = client.embed(&texts, TextRole::Query).await;
    let embedded = embedded.map_err(|error| {
        let remedy = match error {
            OpenAiError::InvalidKey(_) => "verify EMBEDDINGS_API_KEY",
            OpenAiError::Refused { .. } => {
                "check EMBEDDINGS_MODEL, EMBEDDINGS_DIMENSIONS and EMBEDDINGS_BASE_URL"
            }
            OpenAiError::Network(_) => "check network connectivity and EMBEDDINGS_BASE_URL",
            OpenAiError::Unusable(_) => "choose another EMBEDDINGS_MODEL",
            _ => passing(&error),
        };
        (error.to_string(), remedy)
    })?;
    let numbers = embedded.vectors.first().map_or(0, |v| v.dimensions());
    let took = started.elapsed().as_millis();
    Ok(format!(
        "{model} made a vector of {numbers} numbers in {took} ms (a search waits 200 ms)"
    ))
}

async fn agent(services: &Services, id: &str) -> Outcome {
    let Some((url, key)) = services.elevenlabs.clone() else {
        return Err((
            "ELEVENLABS_API_KEY is not set".into(),
            "create one in ElevenLabs under API Keys",
        ));
    };
    let client = ElevenLabs::new(url, key)
        .map_err(|e| (e.to_string(), "check the system's TLS certificates"))?;
    let agent =
        AgentId::parse(id).map_err(|e| (format!("the agent id {e}"), "copy it from ElevenLabs"))?;
    let profile = client.agent(&agent).await.map_err(|error| {
        let reason = match error {
            ElevenLabsError::NotFound => format!("Agent not found: {agent}"),
            ref other => other.to_string(),
        };
        let remedy = match error {
            ElevenLabsError::NotFound => {
                "verify the agent ID exists in ElevenLabs, and check ELEVENLABS_API_KEY"
            }
            ElevenLabsError::InvalidKey(_) | ElevenLabsError::Forbidden { .. } => {
                "check ELEVENLABS_API_KEY and its permission for agents"
            }
            _ => "check network connectivity and ELEVENLABS_BASE_URL",
        };
        (reason, remedy)
    })?;
    let declared: Vec<&str> = profile.placeholders.keys().map(String::as_str).collect();
    let permission = if profile.first_message_override {
        "its first message may be overridden"
    } else {
        "its first message may NOT be overridden: use {{next_greeting}} in it, or permit the override under Security"
    };
    Ok(format!(
        "{:?}; {permission}; variables declared: {}",
        profile.name_or(&agent),
        if declared.is_empty() {
            "none".to_owned()
        } else {
            declared.join(", ")
        },
    ))
}

async fn memory(services: &Services) -> Outcome {
    const REMEDY: &str = "see to what is named: DATABASE_URL, PAYLOAD_STORAGE_PATH and PAYLOAD_STORAGE_URL say where \
         it is; it needs write permission and free space";
    const OPENMEMORY_REMEDY: &str =
        "verify that OpenMemory is running and that OPENMEMORY_PORT and OPENMEMORY_KEY are correct";
    const TLS: &str = "check the system's TLS certificates";
    const SERVER_REMEDY: &str = "see that PostgreSQL runs, and that DATABASE_URL has the right host, user, password and database";
    let failed = |e: StoreError| {
        let remedy = match (&e, services.database.file()) {
            (StoreError::Unavailable(_), None) => SERVER_REMEDY,
            _ => REMEDY,
        };
        (e.to_string(), remedy)
    };
    // A check makes nothing where only a service should: it is tried elsewhere.
    let is_missing = |file: &Path| !file.exists();
    let in_a_bucket = services.archive.bucket.is_some();
    let nothing_yet = services.database.file().is_some_and(is_missing)
        && (in_a_bucket || is_missing(&services.archive.folder));
    let elsewhere = tempfile::tempdir()
        .map_err(|e| (e.to_string(), "see to the folder for temporary files"))?;
    let (database, archive, places) = if nothing_yet {
        let places = format!(
            "serve will make the database at {} and the archive at {}",
            services.database, services.archive
        );
        let file = elsewhere.path().join("elaoms.db");
        let database = Database::open(&DatabaseUrl::Sqlite(file)).await;
        let archive = if in_a_bucket {
            Archive::open_existing(&services.archive, false)
        } else {
            Archive::open(&elsewhere.path().join("payloads"))
        };
        (database, archive, places)
    } else {
        let places = format!(
            "{} and the archive at {} take writes",
            services.database, services.archive
        );
        let database = Database::open_existing(&services.database).await;
        if let Err(StoreError::InUse(_)) = database {
            return running(services).await;
        }
        let is_shared = services.database.file().is_none();
        let archive = Archive::open_existing(&services.archive, is_shared);
        (database, archive, places)
    };
    let (database, archive) = (database.map_err(failed)?, archive.map_err(failed)?);
    let ledger = database.ledger().check_writable().await;
    let store = memory_store(services, &database).map_err(|e| (e.to_string(), TLS))?;
    let described = store.describe().await;
    let answers = store.check_writable().await;
    database.close().await;
    ledger.map_err(failed)?;
    answers.map_err(|e| {
        let (reason, remedy) = failed(e);
        match services.openmemory {
            Some(_) => (reason, OPENMEMORY_REMEDY),
            None => (reason, remedy),
        }
    })?;
    archive.check_writable().await.map_err(failed)?;
    Ok(format!("memories are in {described}; {places}"))
}

/// A running service holds its database, and checks it itself.
async fn running(services: &Services) -> Outcome {
    let addr = admin::reachable(services.ops_addr);
    let asked = async {
        let client = crate::clients::client_builder()
            .no_proxy()
            .timeout(TIMEOUT)
            .build()?;
        let response = client
            .get(format!("http://{addr}/health/ready"))
            .send()
            .await?;
        Ok::<_, reqwest::Error>(response.status().is_success())
    };
    let held = format!("{} is held by a running service", services.database);
    match asked.await {
        Ok(true) => Ok(format!("{held}, which is ready")),
        Ok(false) => Err((
            format!("{held}, which is not ready"),
            "see what its /health/ready says",
        )),
        Err(_) => Err((
            format!("{held}, which does not answer at {addr}"),
            "set OPS_ADDR to where it answers, or stop it",
        )),
    }
}
