//! Connecting, in an order in which nothing is referred to before it is there:
//!
//! > our address answers → secrets → webhook → the service knows its secret →
//! > retries → tool → agents → read back → what was replaced is deleted
//!
//! Each step looks at what is there, notes what it is about to do, and does it.
//! So a run that was broken off anywhere is completed by the next.

mod agents;
mod keys;
mod secrets;
mod tool;
mod webhook;

use serde_json::Value;

use super::targets::{self, Selection, Target};
use super::{Outcome, Session, Trouble};
use crate::clients::{ListedAgent, PhoneNumber, StoredSecret, Tool, Webhook};
use crate::domain::connection::{CLIENT_DATA_SECRET, PublicUrl, SEARCH_TOOL, Scope, Wanted};

pub(super) use keys::Keys;
pub(in crate::cli) use keys::new_secret;

/// What a secret that nobody has entered yet begins with (`elaoms init`).
pub(in crate::cli) const UNCONNECTED: &str = "unconnected-";
/// How long a replaced secret stays good: ElevenLabs redelivers for 40 minutes.
const OLD_SECRETS_LAST: i64 = 2 * 3600;
/// The settings that may get another value.
const WRITTEN: [&str; 4] = [
    "ELEVENLABS_CLIENT_DATA_KEY",
    "ELEVENLABS_SEARCH_DATA_KEY",
    "ELEVENLABS_POST_CALL_KEY",
    "ELEVENLABS_WEBHOOK_ID",
];
/// In the place of what a dry run does not make.
const NOT_MADE: &str = "(new)";

/// What is to be connected, and how.
pub(in crate::cli) struct Options {
    pub url: PublicUrl,
    pub selection: Selection,
    pub scope: Scope,
    pub search: bool,
    /// New secrets, and a new webhook.
    pub rotate: bool,
    /// Webhooks of others may be detached.
    pub replace: bool,
}

impl Options {
    /// Whether a webhook leads to our address.
    fn is_reached_by(&self, webhook: &Webhook) -> bool {
        webhook.url == self.url.post_call()
    }
}

/// The account as it is.
pub(super) struct Seen {
    pub webhooks: Vec<Webhook>,
    pub secrets: Vec<StoredSecret>,
    pub tools: Vec<Tool>,
    pub agents: Vec<ListedAgent>,
    pub numbers: Vec<PhoneNumber>,
    pub workspace: Value,
}

impl Session {
    /// Reads the account.
    pub(super) async fn look(&self) -> Outcome<Seen> {
        let api = &self.account;
        let (webhooks, secrets, tools, agents, numbers, workspace) = tokio::join!(
            api.ask(|api| async move { api.webhooks().await }),
            api.ask(|api| async move { api.secrets("elaoms_").await }),
            api.ask(|api| async move { api.tools(SEARCH_TOOL).await }),
            api.ask(|api| async move { api.agents().await }),
            api.ask(|api| async move { api.phone_numbers().await }),
            api.ask(|api| async move { api.workspace_settings().await }),
        );
        Ok(Seen {
            webhooks: webhooks.map_err(|e| Trouble::api("webhooks", &e))?,
            secrets: secrets.map_err(|e| Trouble::api("secrets", &e))?,
            tools: tools.map_err(|e| Trouble::api("tools", &e))?,
            agents: agents.map_err(|e| Trouble::api("agents", &e))?,
            numbers: numbers.map_err(|e| Trouble::api("phone numbers", &e))?,
            workspace: workspace.map_err(|e| Trouble::api("the workspace's settings", &e))?,
        })
    }

    /// Connects the agents.
    pub async fn connect(&mut self, options: &Options) -> Outcome<()> {
        let seen = self.look().await?;
        self.settle_replacement();
        self.begin_rotation(&seen, options);
        let connected = self.connected();
        let mut ids = targets::chosen(&options.selection, &connected, &seen.agents)?;
        let replaced = self.replaced_webhook(&seen, options)?;
        if replaced.is_some() || !self.journal.record.retired.is_empty() {
            // Whoever refers to a webhook that goes has to refer to the new one.
            let more = targets::chosen(&Selection::Connected, &connected, &seen.agents)?;
            ids.extend(
                more.into_iter()
                    .filter(|id| !ids.contains(id))
                    .collect::<Vec<_>>(),
            );
        }
        if ids.is_empty() {
            return Err(Trouble::from("there is no agent to connect".to_owned()));
        }
        let targets = targets::read(&self.account, &ids, &seen.agents, &seen.numbers).await?;
        if !self.dry_run {
            self.may_write().await?;
        }
        let makes_webhook = replaced.is_some() || self.known_webhook(&seen).is_none();
        if !self.dry_run && (self.rotates || makes_webhook) {
            // ElevenLabs shows a secret once: there has to be a place for it.
            self.env_file.check_writable(&WRITTEN)?;
        }
        self.make_secrets(options).await?;
        self.reach(options, &targets).await?;

        let client_data = self.keys.first(CLIENT_DATA_SECRET);
        let client_data_secret = self
            .keep_secret(CLIENT_DATA_SECRET, &client_data, options, &seen, &targets)
            .await?;
        let webhook_id = self.keep_webhook(&seen, options, replaced).await?;
        let tool = match options.search {
            true => Some(self.keep_tool(options, &seen, &targets).await?),
            false => None,
        };
        let wanted = Wanted {
            url: options.url.clone(),
            scope: options.scope,
            webhook_id,
            client_data_secret,
            search_tool: tool,
        };
        self.tell_place(Some(&options.url), Some(&wanted.webhook_id))
            .await;
        let workspace = self.change_workspace(&seen, options, &wanted).await?;
        for target in &targets {
            self.change_agent(target, &workspace, &seen, options, &wanted)
                .await?;
        }
        self.delete_retired(&seen).await?;
        if !self.dry_run {
            self.journal.record.rotating = None;
            self.journal.record.scope = Some(options.scope);
            self.journal.save()?;
        }
        self.forget_old_secrets()?;
        self.tell_numbers(&seen, &targets);
        Ok(())
    }

    /// The agents that were connected before.
    fn connected(&self) -> Vec<String> {
        let keys = self.journal.record.agents.keys();
        let mut ids: Vec<String> = keys
            .filter_map(|key| Some(key.split('/').next()?.to_owned()))
            .collect();
        ids.dedup();
        ids
    }

    /// Notes what is ours.
    pub(super) fn own(&mut self, options: &Options) {
        let url = &options.url;
        let ours = [url.client_data(), url.search_data(), url.post_call()];
        self.journal.record.ours.extend(ours);
    }

    fn tell_numbers(&mut self, seen: &Seen, targets: &[Target]) {
        for number in &seen.numbers {
            let Some(assigned) = &number.assigned_agent else {
                continue;
            };
            let target = targets
                .iter()
                .find(|t| t.agent.as_str() == assigned.agent_id);
            let is_left_alone = |target: &Target| {
                !self.dry_run && !self.journal.record.agents.contains_key(&target.key())
            };
            if let Some(target) = target.filter(|target| !is_left_alone(target)) {
                let name = target.title();
                self.report.kept(
                    number.phone_number.clone(),
                    format!("callers of {name} are remembered"),
                );
            }
        }
    }
}
