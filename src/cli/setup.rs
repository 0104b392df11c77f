//! `elaoms setup`: connects agents at ElevenLabs with this ELAOMS, repairs what was
//! changed by hand, changes the secrets, and undoes all of it.

pub(super) mod connect;
pub(super) mod env_file;
mod journal;
pub(super) mod probe;
mod remove;
mod report;
mod requests;
pub(super) mod targets;

use std::fmt;
use std::fs::File;
use std::io::{self, BufRead, IsTerminal, Write};
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use super::admin::{Operations, reachable};
use super::load;
use super::output::Output;
use crate::account::Account;
use crate::clients::{ElevenLabs, ElevenLabsError, ListedAgent, PhoneNumber};
use crate::config::{SETTINGS_FILE, SetupConfig};
use crate::domain::connection::{PublicUrl, Scope};
use clap::Args;

use connect::{Keys, Options};
use env_file::EnvFile;
use journal::Journal;
use report::Report;
use targets::Selection;

#[derive(Debug, Args)]
pub(super) struct SetupArguments {
    /// Where ElevenLabs reaches the webhooks: https://your.host (the default is PUBLIC_URL).
    #[arg(long)]
    url: Option<String>,
    /// An agent to connect; can be given several times. Without any, those that are connected.
    #[arg(long, value_name = "ID")]
    agent: Vec<String>,
    /// Connect every agent of the workspace.
    #[arg(long, conflicts_with = "agent")]
    all_agents: bool,
    /// Print what would change, and write nothing.
    #[arg(long)]
    dry_run: bool,
    /// Attach the webhooks to the whole workspace: to every agent that has none of its own.
    #[arg(long)]
    workspace: bool,
    /// Give agents no tool for searches.
    #[arg(long)]
    no_search: bool,
    /// Make new secrets and a new webhook, without a gap.
    #[arg(long)]
    rotate: bool,
    /// Detach what belongs to others from the agents that are connected.
    #[arg(long)]
    replace: bool,
    /// Undo it: agents are as they were before. With --agent, of these alone.
    #[arg(long, conflicts_with_all = ["workspace", "rotate", "all_agents", "no_search", "replace"])]
    remove: bool,
}

type Outcome<T> = Result<T, Trouble>;

/// Why it cannot go on, and what to do.
#[derive(Debug)]
pub(super) struct Trouble {
    reason: String,
    remedy: Option<&'static str>,
}

impl Trouble {
    fn new(reason: String, remedy: &'static str) -> Self {
        Self {
            reason,
            remedy: Some(remedy),
        }
    }

    /// ElevenLabs refused something.
    pub fn api(what: &str, error: &ElevenLabsError) -> Self {
        let remedy = match error {
            ElevenLabsError::Forbidden { .. } => {
                "give the key this permission in ElevenLabs under API Keys (webhooks_write is for administrators of \
                 the workspace), or set ELEVENLABS_SETUP_API_KEY to one that has it"
            }
            ElevenLabsError::InvalidKey(_) => {
                "check ELEVENLABS_SETUP_API_KEY, or ELEVENLABS_API_KEY, and ELEVENLABS_BASE_URL: a workspace with data \
                 residency has an address of its own"
            }
            _ => "run the same command again: it goes on where it was",
        };
        Self::new(format!("{what}: {error}"), remedy)
    }
}

impl From<String> for Trouble {
    fn from(reason: String) -> Self {
        Self {
            reason,
            remedy: None,
        }
    }
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.reason)?;
        match self.remedy {
            Some(remedy) => write!(f, "\nremedy: {remedy}"),
            None => Ok(()),
        }
    }
}

/// What a run works with.
struct Session {
    account: Account,
    config: SetupConfig,
    env_file: EnvFile,
    journal: Journal,
    /// Of the service that runs here, if there is one and its key is known.
    operations: Option<Operations>,
    report: Report,
    dry_run: bool,
    /// The webhooks' secrets as the settings have them now.
    keys: Keys,
    /// `ELEVENLABS_WEBHOOK_ID` as the settings have it now.
    webhook_id: Option<String>,
    /// Whether secrets are being changed.
    rotates: bool,
    /// Nobody else changes the settings meanwhile.
    _lock: File,
}

pub(super) async fn run(arguments: SetupArguments, file: Option<&Path>) -> ExitCode {
    let config = match load(file, SetupConfig::from_env) {
        Ok(config) => config,
        Err(code) => return code,
    };
    let dry_run = arguments.dry_run;
    let mut session = match Session::open(config, file, dry_run).await {
        Ok(session) => session,
        Err(trouble) => return failed(&trouble),
    };
    let done = session.work(arguments).await;
    let mut output = Output::new();
    session.report.print(&mut output);
    if let Err(trouble) = done {
        drop(output);
        return failed(&trouble);
    }
    match (session.report.changes(), dry_run) {
        (0, _) if session.report.has_warnings() => {
            writeln!(output, "Nothing was changed; see the warnings.");
        }
        (0, _) => writeln!(output, "Nothing had to change."),
        (_, true) => writeln!(output, "Nothing was written: it was a dry run."),
        (_, false) => {}
    }
    output.status(true)
}

fn failed(trouble: &Trouble) -> ExitCode {
    eprintln!("elaoms: {trouble}");
    ExitCode::FAILURE
}

impl Session {
    async fn open(config: SetupConfig, file: Option<&Path>, dry_run: bool) -> Outcome<Self> {
        let client = ElevenLabs::new(config.base_url.clone(), config.api_key.clone());
        let client = client.map_err(|e| format!("cannot set up HTTPS: {e}"))?;
        let env_file = EnvFile::open(file.unwrap_or(Path::new(SETTINGS_FILE)))?;
        let lock = env_file.lock()?;
        let journal = Journal::open(&env_file.beside(journal::FILE))?;
        let mut report = Report::default();
        report.dry_run = dry_run;
        let addr = reachable(config.ops_addr);
        let operations = match Operations::of_running(addr, config.admin_keys.first()).await {
            Some(Ok(operations)) => Some(operations),
            Some(Err(error)) => {
                report.warn("the running service", error);
                None
            }
            None => None,
        };
        Ok(Self {
            account: Account::new(Arc::new(client)),
            keys: Keys {
                client_data: config.client_data_key.clone(),
                search_data: config.search_data_key.clone(),
                post_call: config.post_call_key.clone(),
            },
            webhook_id: config.webhook_id.clone(),
            rotates: false,
            _lock: lock,
            config,
            env_file,
            journal,
            operations,
            report,
            dry_run,
        })
    }

    async fn work(&mut self, arguments: SetupArguments) -> Outcome<()> {
        if arguments.remove {
            return self.remove(&arguments.agent).await;
        }
        let url = match arguments.url {
            Some(url) => parse_url(&url)?,
            None => match &self.config.public_url {
                Some(url) => url.clone(),
                None => parse_url(&ask(
                    "Where does ElevenLabs reach this service (https://your.host)? ",
                    "give the address at which ElevenLabs reaches the webhooks: --url https://your.host",
                )?)?,
            },
        };
        let selection = if arguments.all_agents {
            Selection::All
        } else if !arguments.agent.is_empty() {
            Selection::Named(arguments.agent)
        } else if !self.journal.record.agents.is_empty() {
            Selection::Connected
        } else {
            self.ask_for_agents().await?
        };
        let options = Options {
            url,
            selection,
            scope: match (arguments.workspace, self.journal.record.scope) {
                (true, _) => Scope::Workspace,
                (false, known) => known.unwrap_or(Scope::Agent),
            },
            search: !arguments.no_search,
            rotate: arguments.rotate,
            replace: arguments.replace,
        };
        self.connect(&options).await
    }

    /// Lists the agents, and has the operator choose.
    async fn ask_for_agents(&self) -> Outcome<Selection> {
        const NOT_ASKED: &str = "say which agents to connect: --agent ID, or --all-agents";
        if !io::stdin().is_terminal() {
            return Err(NOT_ASKED.to_owned().into());
        }
        let (agents, numbers) = tokio::join!(
            self.account.ask(|api| async move { api.agents().await }),
            self.account
                .ask(|api| async move { api.phone_numbers().await }),
        );
        let agents = agents.map_err(|e| Trouble::api("agents", &e))?;
        let numbers = numbers.map_err(|e| Trouble::api("phone numbers", &e))?;
        if agents.is_empty() {
            return Err("there is no agent in this workspace".to_owned().into());
        }
        for (i, agent) in agents.iter().enumerate() {
            eprintln!(
                "{:3}  {}  {}",
                i + 1,
                agent.name,
                numbers_of(agent, &numbers)
            );
        }
        let answer = ask(
            "Which agents are to remember their callers (1,3 or all)? ",
            NOT_ASKED,
        )?;
        if answer == "all" {
            return Ok(Selection::All);
        }
        let chosen = answer
            .split([',', ' '])
            .filter(|part| !part.is_empty())
            .map(|part| {
                let place: usize = part.parse().ok()?;
                Some(agents.get(place.checked_sub(1)?)?.agent_id.clone())
            });
        match chosen.collect::<Option<Vec<String>>>() {
            Some(chosen) if !chosen.is_empty() => Ok(Selection::Named(chosen)),
            _ => Err(format!("{answer:?} is no choice among 1 to {}", agents.len()).into()),
        }
    }
}

fn numbers_of(agent: &ListedAgent, numbers: &[PhoneNumber]) -> String {
    let numbers = numbers.iter().filter(|number| {
        let assigned = number.assigned_agent.as_ref();
        assigned.is_some_and(|assigned| assigned.agent_id == agent.agent_id)
    });
    let numbers: Vec<&str> = numbers.map(|number| number.phone_number.as_str()).collect();
    numbers.join(" ")
}

fn parse_url(text: &str) -> Outcome<PublicUrl> {
    PublicUrl::parse(text).map_err(|why| format!("{text:?} cannot be the address: {why}").into())
}

/// Asks at a terminal; elsewhere it is an error.
fn ask(question: &str, otherwise: &str) -> Outcome<String> {
    if !io::stdin().is_terminal() {
        return Err(otherwise.to_owned().into());
    }
    eprint!("{question}");
    let mut answer = String::new();
    let read = io::stderr()
        .flush()
        .and_then(|()| io::stdin().lock().read_line(&mut answer));
    read.map_err(|error| format!("the answer cannot be read: {error}"))?;
    Ok(answer.trim().to_owned())
}
