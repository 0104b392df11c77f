//! `elaoms check setup`: the account at ElevenLabs as it is now, and our own
//! webhooks as ElevenLabs reaches them.

use std::sync::Arc;

use jiff::Timestamp;
use reqwest::Method;
use secrecy::SecretString;
use serde_json::Value;

use super::Finding;
use crate::account::Account;
use crate::cli::admin::{Operations, Request, reachable};
use crate::cli::setup::Trouble;
use crate::cli::setup::probe::Probe;
use crate::cli::setup::targets::{self, Selection, Target};
use crate::clients::{ElevenLabs, PhoneNumber, Tool, Webhook};
use crate::config::SetupConfig;
use crate::domain::connection::{
    CLIENT_DATA_SECRET, PublicUrl, SEARCH_TOOL, Scope, Setting, Wanted, agent_changes, holds,
    search_tool,
};

/// A failure that is older than this, in seconds, says nothing of today.
const RECENT: i64 = 24 * 3600;
/// A search that takes longer is heard as a pause, in seconds.
const SLOW_SEARCH: f64 = 2.0;

const RUN_SETUP: &str = "run elaoms setup: it corrects this";
const NETWORK: &str = "check ELEVENLABS_API_KEY, ELEVENLABS_BASE_URL and the network";

/// Everything that is found, in the order of a call: rings, talks, ends.
pub(super) async fn findings(config: SetupConfig) -> Vec<Finding> {
    let Some(url) = config.public_url.clone() else {
        let reason = "PUBLIC_URL is not set: it is not known where ElevenLabs reaches this service";
        let remedy = "run elaoms setup --url https://your.host, or set it";
        return vec![Finding::fail("setup", reason, remedy)];
    };
    let client = match ElevenLabs::new(config.base_url.clone(), config.api_key.clone()) {
        Ok(client) => client,
        Err(error) => {
            return vec![Finding::fail(
                "setup",
                error.to_string(),
                "check the system's TLS certificates",
            )];
        }
    };
    let mut check = Check {
        account: Account::new(Arc::new(client)),
        config,
        url,
        found: Vec::new(),
    };
    if let Err(trouble) = check.run().await {
        check
            .found
            .push(Finding::fail("setup", trouble.to_string(), NETWORK));
    }
    check.found
}

struct Check {
    account: Account,
    config: SetupConfig,
    url: PublicUrl,
    found: Vec<Finding>,
}

impl Check {
    async fn run(&mut self) -> Result<(), Trouble> {
        let (webhooks, tools, agents, numbers, workspace) = tokio::join!(
            self.account.ask(|api| async move { api.webhooks().await }),
            self.account
                .ask(|api| async move { api.tools(SEARCH_TOOL).await }),
            self.account.ask(|api| async move { api.agents().await }),
            self.account
                .ask(|api| async move { api.phone_numbers().await }),
            self.account
                .ask(|api| async move { api.workspace_settings().await }),
        );
        let agents = agents.map_err(|e| Trouble::api("agents", &e))?;
        let numbers = numbers.map_err(|e| Trouble::api("phone numbers", &e))?;
        let tools = tools.map_err(|e| Trouble::api("tools", &e))?;
        let workspace = workspace.map_err(|e| Trouble::api("the workspace's settings", &e))?;
        let webhook = match webhooks {
            Ok(webhooks) => self.webhook(&webhooks),
            Err(error) => {
                self.found.push(Finding::fail(
                    "webhook",
                    format!("cannot be read: {error}"),
                    "give ELEVENLABS_API_KEY read access to webhooks",
                ));
                self.config.webhook_id.clone()
            }
        };
        let ids = targets::chosen(&Selection::All, &[], &agents)?;
        let targets = targets::read(&self.account, &ids, &agents, &numbers).await?;
        let agent = targets
            .first()
            .map_or("", |target| target.agent.as_str())
            .to_owned();
        self.probes(&agent).await;
        self.service().await;
        self.tool(&tools);
        let mut connected = 0;
        for target in &targets {
            connected +=
                u32::from(self.agent(target, &workspace, webhook.as_deref(), &tools, &numbers));
        }
        if connected == 0 {
            self.found.push(Finding::fail(
                "agents",
                "no agent refers to this ELAOMS",
                "run elaoms setup with --agent ID or --all-agents",
            ));
        }
        Ok(())
    }

    /// Our post-call webhook; its id.
    fn webhook(&mut self, webhooks: &[Webhook]) -> Option<String> {
        let url = self.url.post_call();
        let known = self.config.webhook_id.as_deref();
        let by_id = webhooks.iter().find(|webhook| known == Some(&*webhook.id));
        let Some(webhook) = by_id.or_else(|| webhooks.iter().find(|webhook| webhook.url == url))
        else {
            self.found.push(Finding::fail(
                "webhook",
                format!("no webhook of the workspace leads to {url}: no call that ends arrives"),
                RUN_SETUP,
            ));
            return None;
        };
        let mut wrong = Vec::new();
        if webhook.url != url {
            wrong.push(format!("leads to {}, not to {url}", webhook.url));
        }
        if webhook.is_auto_disabled {
            wrong.push("was disabled by ElevenLabs, after failures".to_owned());
        } else if webhook.is_disabled {
            wrong.push("is disabled".to_owned());
        }
        if webhook.retry_enabled == Some(false) {
            wrong.push("has no retries: what ends while the service restarts is lost".to_owned());
        }
        if wrong.is_empty() {
            let retries = match webhook.retry_enabled {
                Some(_) => "enabled, with retries",
                None => "enabled; ElevenLabs does not tell whether it retries",
            };
            self.found.push(Finding::pass(
                "webhook",
                format!("{}: {retries}", webhook.name),
            ));
        } else {
            let reason = format!("{}: {}", webhook.name, wrong.join("; "));
            self.found.push(Finding::fail("webhook", reason, RUN_SETUP));
        }
        let failed = webhook.most_recent_failure_error_code;
        let since = webhook.most_recent_failure_timestamp.unwrap_or_default();
        if let Some(status) = failed.filter(|_| Timestamp::now().as_second() - since < RECENT) {
            let remedy = match status {
                401 => "its secret is not the one in the settings: run elaoms setup --rotate",
                _ => {
                    "see the service's log and the reverse proxy's; elaoms reconcile fetches what was lost"
                }
            };
            let reason = format!("its last failed delivery, within a day, was answered {status}");
            self.found.push(Finding::warn("webhook", reason, remedy));
        }
        Some(webhook.id.clone())
    }

    /// Our webhooks, through the public URL.
    async fn probes(&mut self, agent: &str) {
        let missing = |name: &str| (format!("{name} is not set"), RUN_SETUP);
        let key = |secrets: &crate::secrets::Secrets| -> Option<SecretString> {
            secrets.first().cloned()
        };
        let (ring, search, event) = (
            key(&self.config.client_data_key),
            key(&self.config.search_data_key),
            key(&self.config.post_call_key),
        );
        let probe = match Probe::new(&self.url) {
            Ok(probe) => probe,
            Err(error) => {
                return self
                    .found
                    .push(Finding::fail("client-data", error, NETWORK));
            }
        };
        let ring = match ring {
            Some(key) => probe.client_data(agent, &key).await,
            None => Err(missing("ELEVENLABS_CLIENT_DATA_KEY")),
        };
        self.probed("client-data", &self.url.client_data(), ring);
        let search = match search {
            Some(key) => probe.search_data(agent, &key).await,
            None => Err(missing("ELEVENLABS_SEARCH_DATA_KEY")),
        };
        self.probed("search-data", &self.url.search_data(), search);
        let event = match event {
            Some(secret) => probe.post_call(&secret).await,
            None => Err(missing("ELEVENLABS_POST_CALL_KEY")),
        };
        self.probed("post-call", &self.url.post_call(), event);
    }

    /// The service that runs here has the settings as they are now.
    async fn service(&mut self) {
        const WHAT: &str = "running service";
        const RESTART: &str = "restart it, so that it reads the settings as they are now";
        let addr = reachable(self.config.ops_addr);
        let operations = match Operations::of_running(addr, self.config.admin_keys.first()).await {
            Some(Ok(operations)) => operations,
            Some(Err(error)) => {
                let remedy = "set ADMIN_KEY, and restart the service";
                return self.found.push(Finding::warn(WHAT, error, remedy));
            }
            // It runs elsewhere.
            None => return,
        };
        let route = Request::new(Method::GET, "connection".to_owned());
        self.found.push(match operations.send(route).await {
            Err(error) => Finding::warn(WHAT, error, RESTART),
            Ok(answer) if answer["elevenlabs"].is_string() => Finding::fail(
                WHAT,
                format!(
                    "cannot ask ElevenLabs: {}; declared variables are not filled in, and calls that never came not \
                     fetched",
                    answer["elevenlabs"].as_str().unwrap_or_default()
                ),
                "correct ELEVENLABS_API_KEY, and restart it",
            ),
            Ok(answer) if answer["webhook_id"].as_str() != self.config.webhook_id.as_deref() => {
                let reason = "watches another webhook than that of the settings";
                Finding::warn(WHAT, reason, RESTART)
            }
            Ok(_) => Finding::pass(WHAT, "can ask ElevenLabs, and watches the webhook"),
        });
    }

    fn probed(
        &mut self,
        what: &'static str,
        url: &str,
        outcome: Result<(), (String, &'static str)>,
    ) {
        self.found.push(match outcome {
            Ok(()) => Finding::pass(
                what,
                format!("{url} takes what is authentic, and nothing else"),
            ),
            Err((reason, remedy)) => Finding::fail(what, reason, remedy),
        });
    }

    fn tool(&mut self, tools: &[Tool]) {
        let Some(tool) = self.our_tool(tools) else {
            self.found.push(Finding::warn(
                "search tool",
                format!(
                    "no tool asks {}: agents cannot look up what a caller told",
                    self.url.search_data()
                ),
                RUN_SETUP,
            ));
            return;
        };
        let config = &tool.tool_config;
        let secret = config["api_schema"]["request_headers"]["X-Api-Key"]["secret_id"].as_str();
        let mut wanted = search_tool(&self.url, secret.unwrap_or_default());
        wanted["description"] = config["description"].clone();
        if !holds(config, &wanted) {
            let reason = "is not as searches need it: method, parameters or key were changed";
            return self
                .found
                .push(Finding::fail("search tool", reason, RUN_SETUP));
        }
        let latency = tool.usage_stats["avg_latency_secs"]
            .as_f64()
            .filter(|s| *s > 0.0);
        self.found.push(match latency {
            Some(seconds) if seconds > SLOW_SEARCH => Finding::warn(
                "search tool",
                format!("ElevenLabs waits {seconds:.1} s for an answer on average"),
                "see elaoms_search_data_duration_seconds, and the way from ElevenLabs to the service",
            ),
            Some(seconds) => Finding::pass("search tool", format!("answers in {:.0} ms on average, as ElevenLabs sees it", seconds * 1000.0)),
            None => Finding::pass("search tool", "asks this ELAOMS; was not used yet"),
        });
    }

    fn our_tool<'a>(&self, tools: &'a [Tool]) -> Option<&'a Tool> {
        let url = self.url.search_data();
        tools
            .iter()
            .find(|tool| tool.tool_config["api_schema"]["url"] == url)
    }

    /// Whether an agent refers to us; what is wrong with it is found.
    fn agent(
        &mut self,
        target: &Target,
        workspace: &Value,
        webhook: Option<&str>,
        tools: &[Tool],
        numbers: &[PhoneNumber],
    ) -> bool {
        const RING: &str = "conversation_initiation_client_data_webhook";
        let overrides = &target.settings["platform_settings"]["workspace_overrides"];
        let own = |key: &str, part: &str| -> (Option<String>, bool) {
            let of = |place: &Value| place[key][part].as_str().map(str::to_owned);
            match of(overrides) {
                Some(own) => (Some(own), true),
                None => (of(workspace), false),
            }
        };
        let (rings, rings_itself) = own(RING, "url");
        let (ends, ends_itself) = own("webhooks", "post_call_webhook_id");
        let rings_here = rings.as_ref() == Some(&self.url.client_data());
        let ends_here = ends.is_some() && ends.as_deref() == webhook;
        let name = format!("agent {}", target.title());
        if !rings_here && !ends_here {
            let called = numbers.iter().find(|number| {
                let assigned = number.assigned_agent.as_ref();
                assigned.is_some_and(|assigned| assigned.agent_id == target.agent.as_str())
            });
            if let Some(number) = called {
                let reason = format!(
                    "{} leads to it, and it is not connected: its callers are not remembered",
                    number.phone_number
                );
                let remedy = "if they should be: run elaoms setup --agent with its id";
                self.found.push(Finding::warn(name, reason, remedy));
            }
            return false;
        }
        // As a call finds it: what the agent does not say, the workspace does.
        let mut effective = target.settings.clone();
        let inherits = &mut effective["platform_settings"]["workspace_overrides"];
        if !rings_itself {
            inherits[RING] = workspace[RING].clone();
        }
        if !ends_itself {
            inherits["webhooks"] = workspace["webhooks"].clone();
        }
        let secret = inherits[RING]["request_headers"]["X-Api-Key"]["secret_id"].as_str();
        let wanted = Wanted {
            url: self.url.clone(),
            scope: Scope::Agent,
            webhook_id: webhook.unwrap_or_default().to_owned(),
            client_data_secret: secret.unwrap_or(CLIENT_DATA_SECRET).to_owned(),
            search_tool: self.our_tool(tools).map(|tool| tool.id.clone()),
        };
        let mut changes = agent_changes(&effective, &Value::Null, &wanted);
        // Without the list of webhooks it is not known which one is ours.
        changes.retain(|c| webhook.is_some() || c.setting != Setting::PostCallWebhook);
        let before = self.found.len();
        for change in &changes {
            let reason = format!("{}: {}", change.describe(), change.setting.consequence());
            // What an agent only has from its workspace may not be meant for it.
            let asks = &target.settings["platform_settings"]["overrides"]["enable_conversation_initiation_client_data_from_webhook"];
            let is_meant = rings_itself || ends_itself || *asks == true;
            self.found
                .push(match change.setting.is_vital() && is_meant {
                    true => Finding::fail(name.clone(), reason, RUN_SETUP),
                    false => Finding::warn(name.clone(), reason, RUN_SETUP),
                });
        }
        if target.settings["platform_settings"]["privacy"]["zero_retention_mode"] == true {
            self.found.push(Finding::warn(
                name.clone(),
                "has zero retention: a call whose webhook never came cannot be fetched later",
                "nothing, if that is meant",
            ));
        }
        if self.found.len() == before {
            self.found
                .push(Finding::pass(name, "rings, searches and ends here"));
        }
        true
    }
}
