//! Connecting, in an order in which nothing is referred to before it is there:
//!
//! > our address answers → secrets → webhook → the service knows its secret →
//! > retries → tool → agents → read back → what was replaced is deleted
//!
//! Each step looks at what is there, notes what it is about to do, and does it.
//! So a run that was broken off anywhere is completed by the next.

use jiff::Timestamp;
use rand::distr::{Alphanumeric, SampleString};
use reqwest::Method;
use secrecy::{ExposeSecret, SecretString};
use serde_json::{Value, json};

use super::journal::{KnownSecret, KnownTool, Record, digest};
use super::probe::Probe;
use super::targets::{self, Selection, Target};
use super::{Outcome, Session, Trouble};
use crate::cli::admin::Request;
use crate::clients::{ListedAgent, PhoneNumber, StoredSecret, Tool, Webhook};
use crate::domain::connection::{
    CLIENT_DATA_SECRET, Change, PublicUrl, SEARCH_DATA_SECRET, SEARCH_TOOL, Scope, Setting,
    WEBHOOK_NAME, Wanted, agent_changes, holds, merged, search_tool, workspace_changes,
};
use crate::secrets::Secrets;

/// What a secret that nobody has entered yet begins with (`elaoms init`).
pub(in crate::cli) const UNCONNECTED: &str = "unconnected-";
/// How long a replaced secret stays good: ElevenLabs redelivers for 40 minutes.
const OLD_SECRETS_LAST: i64 = 2 * 3600;
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
            api.ask(async |api| api.webhooks().await),
            api.ask(async |api| api.secrets("elaoms_").await),
            api.ask(async |api| api.tools(SEARCH_TOOL).await),
            api.ask(async |api| api.agents().await),
            api.ask(async |api| api.phone_numbers().await),
            api.ask(async |api| api.workspace_settings().await),
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
            let allowed = self
                .account
                .ask(async |api| api.may_write(true).await)
                .await;
            allowed.map_err(|e| Trouble::api("writing", &e))?;
        }
        self.own(options);
        self.make_secrets(options).await?;
        self.reach(options, &targets).await?;

        let client_data = self.client_data_key.clone();
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
        let workspace = self.change_workspace(&seen, options, &wanted).await?;
        for target in &targets {
            self.change_agent(target, &workspace, &seen, options, &wanted)
                .await?;
        }
        self.delete_retired(&seen).await?;
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
    fn own(&mut self, options: &Options) {
        let record = &mut self.journal.record;
        let old = record.url.replace(options.url.to_string());
        for url in old.into_iter().chain([options.url.to_string()]) {
            record.ours.insert(format!("{url}/webhook/client-data"));
            record.ours.insert(format!("{url}/webhook/search-data"));
            record.ours.insert(format!("{url}/webhook/post-call"));
        }
    }

    // --- our own secrets ---------------------------------------------------

    /// Secrets that are missing, or to be changed, are made and written down
    /// before anybody uses them.
    async fn make_secrets(&mut self, options: &Options) -> Outcome<()> {
        let made = |known: &Secrets| -> Option<SecretString> {
            (options.rotate || known.first().is_none()).then(new_secret)
        };
        let (client_data, search_data) = (
            made(&self.config.client_data_key),
            made(&self.config.search_data_key),
        );
        let mut lines: Vec<(&str, String)> = vec![("PUBLIC_URL", options.url.to_string())];
        for (name, made, known) in [
            (
                "ELEVENLABS_CLIENT_DATA_KEY",
                &client_data,
                &self.config.client_data_key,
            ),
            (
                "ELEVENLABS_SEARCH_DATA_KEY",
                &search_data,
                &self.config.search_data_key,
            ),
        ] {
            let Some(made) = made else { continue };
            self.report
                .changed(name, "made, and written to the settings");
            self.journal.record.supersede(known);
            lines.push((name, with_old(made, known)));
        }
        self.write_settings(&lines)?;
        let first = |made: Option<SecretString>, known: &Secrets| {
            made.or_else(|| known.first().cloned()).unwrap_or_default()
        };
        self.client_data_key = first(client_data, &self.config.client_data_key);
        self.search_data_key = first(search_data, &self.config.search_data_key);
        self.tell_keys(None).await
    }

    /// Our address answers, with the secrets and not without.
    async fn reach(&mut self, options: &Options, targets: &[Target]) -> Outcome<()> {
        let agent = targets.first().map_or("", |target| target.agent.as_str());
        let probe = Probe::new(&options.url)?;
        let mut reached = probe.client_data(agent, &self.client_data_key).await;
        if reached.is_ok() && options.search {
            reached = probe.search_data(agent, &self.search_data_key).await;
        }
        match reached {
            Ok(()) => {
                let how = "answers with the key, and refuses without";
                self.report.kept(options.url.to_string(), how);
                Ok(())
            }
            Err((reason, remedy)) if self.dry_run => {
                self.report
                    .warn(options.url.to_string(), format!("{reason}\n{remedy}"));
                Ok(())
            }
            Err((reason, remedy)) => Err(Trouble::new(reason, remedy)),
        }
    }

    fn write_settings(&mut self, lines: &[(&str, String)]) -> Outcome<()> {
        if self.dry_run {
            return Ok(());
        }
        let lines: Vec<(&str, Option<&str>)> = lines
            .iter()
            .map(|(name, value)| (*name, Some(value.as_str())))
            .collect();
        // First what was superseded: in the other order it could be forgotten.
        self.journal.save()?;
        Ok(self.env_file.set(&lines)?)
    }

    /// Has the running service take the secrets that are used from now on. If there
    /// is none here, or it cannot be asked, the probes will tell.
    async fn tell_keys(&mut self, post_call: Option<&SecretString>) -> Outcome<()> {
        let Some(operations) = self.operations.as_ref().filter(|_| !self.dry_run) else {
            return Ok(());
        };
        let keys = match post_call {
            Some(secret) => json!({"post_call": secret.expose_secret()}),
            None => json!({"client_data": self.client_data_key.expose_secret(),
                "search_data": self.search_data_key.expose_secret()}),
        };
        let told = Request::new(Method::POST, "keys".to_owned()).with(keys);
        if let Err(error) = operations.send(told).await {
            self.report.warn("the running service", error);
        }
        Ok(())
    }

    // --- the workspace's secrets -------------------------------------------

    /// The id of the workspace's secret with this value.
    async fn keep_secret(
        &mut self,
        what: &str,
        value: &SecretString,
        options: &Options,
        seen: &Seen,
        targets: &[Target],
    ) -> Outcome<String> {
        let digest = digest(value.expose_secret().as_bytes());
        let known = self.journal.record.secrets.get(what).cloned();
        let there = known
            .as_ref()
            .and_then(|known| seen.secrets.iter().find(|there| there.id == known.id));
        let (found, name) = match (there, &known) {
            (Some(there), _) => (Some(there.clone()), there.name.clone()),
            (None, _) => self.own_secret(what, options, seen, targets),
        };
        let title = format!("secret {name}");
        let making = format!("secret {name}");
        if let (Some(_), Some(known)) = (there, &known)
            && known.digest == digest
        {
            self.report.kept(title, "in ElevenLabs");
            return Ok(known.id.clone());
        }
        if self.dry_run {
            let how = if found.is_some() {
                "would get the value of the settings"
            } else {
                "would be made"
            };
            self.report.changed(title, how);
            return Ok(found.map_or_else(|| NOT_MADE.to_owned(), |found| found.id));
        }
        let record = &mut self.journal.record;
        let (id, created) = match found {
            Some(found) => {
                let created =
                    known.is_some_and(|known| known.created) || record.making.contains(&making);
                let (id, name) = (&found.id, &name);
                let updated = self
                    .account
                    .ask(async |api| api.update_secret(id, name, value).await)
                    .await;
                updated.map_err(|e| Trouble::api("the secret of a webhook", &e))?;
                self.report
                    .changed(title, "has the value of the settings now");
                (found.id, created)
            }
            None => {
                record.making.insert(making.clone());
                self.journal.save()?;
                let name = &name;
                let made = self
                    .account
                    .ask_once(async |api| api.create_secret(name, value).await)
                    .await;
                self.report.changed(title, "made in ElevenLabs");
                (
                    made.map_err(|e| Trouble::api("the secret of a webhook", &e))?,
                    true,
                )
            }
        };
        let record = &mut self.journal.record;
        record.making.remove(&making);
        record.secrets.insert(
            what.to_owned(),
            KnownSecret {
                id: id.clone(),
                name,
                digest,
                created,
            },
        );
        self.journal.save()?;
        Ok(id)
    }

    /// The secret that nobody remembers: ours if nothing else uses it. Another
    /// installation in the same workspace keeps its own; ours gets another name.
    fn own_secret(
        &self,
        what: &str,
        options: &Options,
        seen: &Seen,
        targets: &[Target],
    ) -> (Option<StoredSecret>, String) {
        let host = options
            .url
            .host()
            .replace(|c: char| !c.is_ascii_alphanumeric(), "_");
        for name in [what.to_owned(), format!("{what}_{host}")] {
            let Some(there) = seen.secrets.iter().find(|secret| secret.name == name) else {
                return (None, name);
            };
            let is_unused = ["agents", "tools", "others", "phone_numbers", "mcp_servers"]
                .iter()
                .all(|users| there.used_by[*users].as_array().is_none_or(Vec::is_empty));
            if is_unused || self.refers_ours_to(&there.id, seen, targets) {
                return (Some(there.clone()), name);
            }
        }
        (
            None,
            format!("{what}_{host}_{}", Timestamp::now().as_second()),
        )
    }

    /// Whether something at one of our addresses uses this secret.
    fn refers_ours_to(&self, secret: &str, seen: &Seen, targets: &[Target]) -> bool {
        let ours = |place: &Value| {
            let is_ours = place["url"]
                .as_str()
                .is_some_and(|url| self.journal.record.ours.contains(url));
            let headers = place["request_headers"].as_object();
            is_ours
                && headers.is_some_and(|h| h.values().any(|header| header["secret_id"] == secret))
        };
        let webhook = "conversation_initiation_client_data_webhook";
        seen.tools
            .iter()
            .any(|tool| ours(&tool.tool_config["api_schema"]))
            || ours(&seen.workspace[webhook])
            || targets
                .iter()
                .any(|t| ours(&t.settings["platform_settings"]["workspace_overrides"][webhook]))
    }

    // --- the post-call webhook ----------------------------------------------

    /// The webhook that is to be replaced: for another address, or a new secret.
    fn replaced_webhook(&self, seen: &Seen, options: &Options) -> Outcome<Option<Webhook>> {
        let known = self.config.webhook_id.as_ref();
        let known = known.and_then(|id| seen.webhooks.iter().find(|webhook| webhook.id == *id));
        let is_at_our_place = |webhook: &&Webhook| webhook.url == options.url.post_call();
        if let Some(known) = known {
            return Ok((options.rotate || !is_at_our_place(&known)).then(|| known.clone()));
        }
        let unknown = seen.webhooks.iter().filter(is_at_our_place);
        let unknown = unknown.filter(|webhook| !self.is_lost(webhook)).next();
        match unknown {
            None => Ok(None),
            Some(webhook) if options.rotate => Ok(Some(webhook.clone())),
            Some(webhook) if self.has_entered_secret() => {
                if webhook.most_recent_failure_error_code == Some(401) {
                    return Err(Trouble::new(
                        format!(
                            "the webhook {:?} was refused with 401 when it delivered last: its secret is another than \
                             ELEVENLABS_POST_CALL_KEY",
                            webhook.name
                        ),
                        "run it with --rotate: a new webhook is made, and takes its place",
                    ));
                }
                Ok(None)
            }
            Some(webhook) => Err(Trouble::new(
                format!(
                    "there is a webhook {:?} for this address, and its secret is not in the settings",
                    webhook.name
                ),
                "set ELEVENLABS_POST_CALL_KEY to its secret if you have it; else run it with --rotate: a new webhook \
                 is made, and takes its place",
            )),
        }
    }

    /// Whether a webhook was made by a run that was broken off before it had the
    /// secret, which is shown once.
    fn is_lost(&self, webhook: &Webhook) -> bool {
        let is_unused = webhook.usage.as_ref().is_none_or(Vec::is_empty);
        webhook.name == WEBHOOK_NAME && is_unused && self.journal.record.making.contains("webhook")
    }

    fn has_entered_secret(&self) -> bool {
        let first = self.config.post_call_key.first();
        first.is_some_and(|secret| !secret.expose_secret().starts_with(UNCONNECTED))
    }

    /// The id of the webhook whose secret we have. It is enabled, with retries, and
    /// the service behind our address knows the secret.
    async fn keep_webhook(
        &mut self,
        seen: &Seen,
        options: &Options,
        replaced: Option<Webhook>,
    ) -> Outcome<String> {
        let title = format!("webhook {WEBHOOK_NAME}");
        let at_our_place = |webhook: &&Webhook| webhook.url == options.url.post_call();
        let known = self.config.webhook_id.as_ref();
        let kept = match (&replaced, known) {
            (Some(_), _) => None,
            (None, Some(id)) => seen.webhooks.iter().find(|webhook| webhook.id == *id),
            (None, None) => None,
        };
        let adopted = seen.webhooks.iter().filter(at_our_place);
        let adopted = adopted
            .filter(|w| replaced.is_none() && !self.is_lost(w))
            .next();
        let Some(webhook) = kept.or(adopted) else {
            return self.make_webhook(seen, options, replaced).await;
        };
        let record = &mut self.journal.record;
        record.ours.insert(webhook.id.clone());
        if kept.is_none() {
            self.report.changed(
                title.clone(),
                "there is one for this address; taken over, with the secret in the settings",
            );
            self.write_settings(&[("ELEVENLABS_WEBHOOK_ID", webhook.id.clone())])?;
        }
        let secret = self.config.post_call_key.first().cloned();
        self.prove_secret(options, &secret.unwrap_or_default())
            .await?;
        let mut wrong = Vec::new();
        if webhook.is_disabled || webhook.is_auto_disabled {
            wrong.push(match webhook.is_auto_disabled {
                true => "was disabled by ElevenLabs after failures",
                false => "was disabled",
            });
        }
        if webhook.retry_enabled == Some(false)
            || (webhook.retry_enabled.is_none() && !self.journal.record.retries_on)
        {
            wrong.push("had no retries");
        }
        if wrong.is_empty() {
            self.report.kept(title.clone(), "enabled, with retries");
        } else {
            self.enable_webhook(&webhook.id).await?;
            self.report
                .changed(title.clone(), format!("{}: corrected", wrong.join(", ")));
        }
        if webhook.most_recent_failure_error_code == Some(401) {
            self.report.warn(
                title,
                "its last failure was a 401: if calls go on being refused, run this with --rotate",
            );
        }
        Ok(webhook.id.clone())
    }

    async fn make_webhook(
        &mut self,
        seen: &Seen,
        options: &Options,
        replaced: Option<Webhook>,
    ) -> Outcome<String> {
        let title = format!("webhook {WEBHOOK_NAME}");
        if self.dry_run {
            self.report.changed(
                title,
                format!("would be made for {}", options.url.post_call()),
            );
            return Ok(NOT_MADE.to_owned());
        }
        let lost: Vec<String> = seen
            .webhooks
            .iter()
            .filter(|webhook| webhook.url == options.url.post_call() && self.is_lost(webhook))
            .map(|webhook| webhook.id.clone())
            .collect();
        for id in &lost {
            let deleted = self
                .account
                .ask(async |api| api.delete_webhook(id).await)
                .await;
            deleted.map_err(|e| Trouble::api("a webhook whose secret was lost", &e))?;
        }
        self.journal.record.making.insert("webhook".to_owned());
        self.journal.record.retries_on = false;
        if let Some(replaced) = &replaced {
            self.journal.record.ours.insert(replaced.id.clone());
            self.journal.record.retired.insert(replaced.id.clone());
        }
        self.journal.save()?;
        let url = options.url.post_call();
        let made = self
            .account
            .ask_once(async |api| api.create_webhook(WEBHOOK_NAME, &url).await)
            .await;
        let made = made.map_err(|e| Trouble::api("a webhook", &e))?;
        // Its secret is shown this once: nothing else comes first.
        let known = match self.has_entered_secret() {
            true => self.config.post_call_key.clone(),
            false => Secrets::default(),
        };
        self.journal.record.supersede(&known);
        self.write_settings(&[
            ("ELEVENLABS_POST_CALL_KEY", with_old(&made.secret, &known)),
            ("ELEVENLABS_WEBHOOK_ID", made.id.clone()),
        ])?;
        let record = &mut self.journal.record;
        record.making.remove("webhook");
        record.ours.insert(made.id.clone());
        self.journal.save()?;
        self.report.changed(
            title,
            format!("made for {url}, its secret written to the settings"),
        );
        self.prove_secret(options, &made.secret).await?;
        self.enable_webhook(&made.id).await?;
        Ok(made.id)
    }

    /// The service takes what is signed with the secret. Nothing is attached before.
    async fn prove_secret(&mut self, options: &Options, secret: &SecretString) -> Outcome<()> {
        self.tell_keys(Some(secret)).await?;
        match Probe::new(&options.url)?.post_call(secret).await {
            Ok(()) => {
                self.report.kept(
                    "a signed test event",
                    "was taken, and one with a wrong signature refused",
                );
                Ok(())
            }
            Err((reason, remedy)) if self.dry_run => {
                self.report
                    .warn("a signed test event", format!("{reason}\n{remedy}"));
                Ok(())
            }
            Err((reason, remedy)) => Err(Trouble::new(reason, remedy)),
        }
    }

    async fn enable_webhook(&mut self, id: &str) -> Outcome<()> {
        if self.dry_run {
            return Ok(());
        }
        let enabled = self
            .account
            .ask(async |api| api.enable_webhook(id, WEBHOOK_NAME).await)
            .await;
        enabled.map_err(|e| Trouble::api("the webhook's retries", &e))?;
        self.journal.record.retries_on = true;
        Ok(self.journal.save()?)
    }

    // --- the tool -------------------------------------------------------------

    async fn keep_tool(
        &mut self,
        options: &Options,
        seen: &Seen,
        targets: &[Target],
    ) -> Outcome<String> {
        let key = self.search_data_key.clone();
        let secret = self
            .keep_secret(SEARCH_DATA_SECRET, &key, options, seen, targets)
            .await?;
        let wanted = search_tool(&options.url, &secret);
        let title = format!("tool {SEARCH_TOOL}");
        let known = self.journal.record.tool.clone();
        let is_ours = |tool: &&Tool| {
            let url = tool.tool_config["api_schema"]["url"].as_str();
            tool.tool_config["name"] == SEARCH_TOOL
                && url.is_some_and(|url| self.journal.record.ours.contains(url))
        };
        let there = known
            .as_ref()
            .and_then(|known| seen.tools.iter().find(|tool| tool.id == known.id))
            .or_else(|| seen.tools.iter().find(is_ours));
        let Some(there) = there else {
            if self.dry_run {
                self.report.changed(title, "would be made");
                return Ok(NOT_MADE.to_owned());
            }
            self.journal.record.making.insert("tool".to_owned());
            self.journal.save()?;
            let made = self
                .account
                .ask_once(async |api| api.create_tool(&wanted).await)
                .await;
            let id = made.map_err(|e| Trouble::api("the tool", &e))?;
            self.report.changed(title, "made");
            let tool = KnownTool {
                id,
                created: true,
                before: None,
            };
            return self.know_tool(tool);
        };
        // How it is described to the model is the operator's to word.
        let mut compared = wanted.clone();
        if there.tool_config["description"]
            .as_str()
            .is_some_and(|text| !text.trim().is_empty())
        {
            compared["description"] = there.tool_config["description"].clone();
        }
        let is_good = holds(&there.tool_config, &compared);
        let known = known
            .filter(|known| known.id == there.id)
            .unwrap_or_else(|| KnownTool {
                id: there.id.clone(),
                created: self.journal.record.making.contains("tool"),
                before: (!is_good).then(|| there.tool_config.clone()),
            });
        if is_good {
            self.report.kept(title, "asks this ELAOMS");
            return self.know_tool(known);
        }
        if self.dry_run {
            self.report.changed(title, "would be corrected");
            return Ok(known.id);
        }
        let id = self.know_tool(known)?;
        let whole = overlaid(&there.tool_config, &compared);
        let updated = self
            .account
            .ask(async |api| api.update_tool(&id, &whole).await)
            .await;
        updated.map_err(|e| Trouble::api("the tool", &e))?;
        self.report.changed(title, "corrected");
        Ok(id)
    }

    fn know_tool(&mut self, tool: KnownTool) -> Outcome<String> {
        let id = tool.id.clone();
        if !self.dry_run {
            self.journal.record.tool = Some(tool);
            self.journal.record.making.remove("tool");
            self.journal.save()?;
        }
        Ok(id)
    }

    // --- agents ---------------------------------------------------------------

    /// The workspace's settings, changed if that was asked for.
    async fn change_workspace(
        &mut self,
        seen: &Seen,
        options: &Options,
        wanted: &Wanted,
    ) -> Outcome<Value> {
        if options.scope == Scope::Agent {
            return Ok(seen.workspace.clone());
        }
        let changes = self.not_displacing_ourselves(workspace_changes(&seen.workspace, wanted));
        if changes.is_empty() {
            self.report.kept("workspace", "refers to this ELAOMS");
            return Ok(seen.workspace.clone());
        }
        if changes.iter().any(|change| change.displaces) && !options.replace {
            return Err(Trouble::new(
                format!(
                    "the workspace refers to something else:\n{}",
                    listed(&changes)
                ),
                "run it with --replace to detach that, from every agent of the workspace; or without --workspace",
            ));
        }
        self.report.changed("workspace", listed(&changes));
        if self.dry_run {
            return Ok(seen.workspace.clone());
        }
        Record::remember(&mut self.journal.record.workspace, &changes);
        self.journal.save()?;
        // What is left out may be reset: all of it goes back.
        let mut whole = seen.workspace.clone();
        for change in &changes {
            whole[change.path[0].as_str()] = match &change.setting {
                Setting::PostCallWebhook => overlaid(&change.before, &change.after),
                _ => change.after.clone(),
            };
        }
        let patched = self
            .account
            .ask(async |api| api.patch_workspace_settings(&whole).await)
            .await;
        patched.map_err(|e| Trouble::api("the workspace's settings", &e))?;
        let now = self
            .account
            .ask(async |api| api.workspace_settings().await)
            .await;
        let now = now.map_err(|e| Trouble::api("the workspace's settings", &e))?;
        match workspace_changes(&now, wanted).as_slice() {
            [] => Ok(now),
            left => Err(not_taken("the workspace", left)),
        }
    }

    async fn change_agent(
        &mut self,
        target: &Target,
        workspace: &Value,
        seen: &Seen,
        options: &Options,
        wanted: &Wanted,
    ) -> Outcome<()> {
        let title = format!("agent {}", target.title());
        let mut wanted = wanted.clone();
        if let Some(other) = self.other_search_tool(target, seen, &wanted) {
            wanted.search_tool = None;
            self.report.warn(
                title.clone(),
                format!("has another tool {SEARCH_TOOL} ({other}), which is left alone; detach it to use ours"),
            );
        }
        let changes = agent_changes(&target.settings, workspace, &wanted);
        let changes = self.not_displacing_ourselves(changes);
        let displaced: Vec<Change> = changes.iter().filter(|c| c.displaces).cloned().collect();
        if !displaced.is_empty() && !options.replace {
            self.report.warn(
                title,
                format!(
                    "left alone, because it refers to something else; --replace detaches that:\n{}",
                    listed(&displaced)
                ),
            );
            return Ok(());
        }
        if changes.is_empty() {
            self.report.kept(title, "connected");
            if !self.dry_run {
                // Known as connected, though nothing had to change.
                self.journal.record.agents.entry(target.key()).or_default();
                self.journal.save()?;
            }
            return Ok(());
        }
        self.report.changed(title.clone(), listed(&changes));
        if self.dry_run {
            return Ok(());
        }
        let known = self.journal.record.agents.entry(target.key()).or_default();
        Record::remember(known, &changes);
        self.journal.save()?;
        self.patch(target, &changes).await?;
        let (agent, branch) = (&target.agent, target.branch_id());
        let now = self
            .account
            .ask(async |api| api.agent_settings(agent, branch).await)
            .await;
        let now = now.map_err(|e| Trouble::api("the settings of an agent", &e))?;
        let left = agent_changes(&now, workspace, &wanted);
        if !left.is_empty() {
            return Err(not_taken(&title, &left));
        }
        self.refresh(agent.as_str()).await;
        Ok(())
    }

    /// Merging would leave another's headers, secrets perhaps, beside ours: they go
    /// first.
    async fn patch(&self, target: &Target, changes: &[Change]) -> Outcome<()> {
        let others_headers = changes.iter().filter(|change| {
            change.setting == Setting::ClientDataWebhook
                && change.displaces
                && change.before.is_object()
        });
        let emptied = merged(others_headers.map(|change| (&*change.path, Value::Null)));
        let whole = merged(
            changes
                .iter()
                .map(|change| (&*change.path, change.after.clone())),
        );
        let (agent, branch) = (&target.agent, target.branch_id());
        for patch in [emptied, whole] {
            if patch.as_object().is_some_and(serde_json::Map::is_empty) {
                continue;
            }
            let patched = self
                .account
                .ask(async |api| api.patch_agent(agent, branch, &patch).await)
                .await;
            patched.map_err(|e| Trouble::api("the settings of an agent", &e))?;
        }
        Ok(())
    }

    /// What refers to a webhook or address that was ours is nobody else's.
    fn not_displacing_ourselves(&self, mut changes: Vec<Change>) -> Vec<Change> {
        let ours = &self.journal.record.ours;
        for change in &mut changes {
            let before = [
                &change.before["url"],
                &change.before["post_call_webhook_id"],
            ];
            let refers = before.iter().find_map(|value| value.as_str());
            if refers.is_some_and(|refers| ours.contains(refers)) {
                change.displaces = false;
            }
        }
        changes
    }

    /// Another tool of the same name that the agent has: two would be one to a model.
    fn other_search_tool(&self, target: &Target, seen: &Seen, wanted: &Wanted) -> Option<String> {
        let ours = wanted.search_tool.as_deref()?;
        let attached = &target.settings["conversation_config"]["agent"]["prompt"]["tool_ids"];
        let attached = attached.as_array()?;
        let other = seen.tools.iter().find(|tool| {
            tool.id != ours
                && tool.tool_config["name"] == SEARCH_TOOL
                && attached.iter().any(|id| *id == tool.id)
        })?;
        Some(
            other.tool_config["api_schema"]["url"]
                .as_str()
                .unwrap_or("?")
                .to_owned(),
        )
    }

    /// The running service fetches the agent's profile anew: it lacks the variables
    /// that are declared now.
    pub(super) async fn refresh(&mut self, agent: &str) {
        let Some(operations) = &self.operations else {
            return;
        };
        let request = Request::new(Method::POST, format!("agents/{agent}/invalidate"));
        if let Err(error) = operations.send(request).await {
            self.report.warn("the running service", error);
        }
    }

    // --- what was replaced -----------------------------------------------------

    async fn delete_retired(&mut self, seen: &Seen) -> Outcome<()> {
        if self.dry_run {
            return Ok(());
        }
        for id in self.journal.record.retired.clone() {
            if seen.webhooks.iter().any(|webhook| webhook.id == id) {
                let deleted = self
                    .account
                    .ask(async |api| api.delete_webhook(&id).await)
                    .await;
                if let Err(error) = deleted {
                    self.report.warn(
                        "the old webhook",
                        format!("cannot be deleted ({error}): something still refers to it, in another agent perhaps; \
                                 until then its secret has to stay in the settings"),
                    );
                    continue;
                }
                self.report.changed("the old webhook", "deleted");
            }
            self.journal.record.retired.remove(&id);
            self.journal.save()?;
        }
        Ok(())
    }

    /// Secrets that were replaced some hours ago leave the settings.
    fn forget_old_secrets(&mut self) -> Outcome<()> {
        let now = Timestamp::now().as_second();
        let record = &self.journal.record;
        if self.dry_run || record.superseded.is_empty() || !record.retired.is_empty() {
            return Ok(());
        }
        let is_old = |value: &[u8]| {
            let since = record.superseded.get(&digest(value));
            since.is_some_and(|since| now - since > OLD_SECRETS_LAST)
        };
        let mut lines = Vec::new();
        for (name, known) in [
            ("ELEVENLABS_CLIENT_DATA_KEY", &self.config.client_data_key),
            ("ELEVENLABS_SEARCH_DATA_KEY", &self.config.search_data_key),
            ("ELEVENLABS_POST_CALL_KEY", &self.config.post_call_key),
        ] {
            let kept: Vec<&[u8]> = known.values().filter(|value| !is_old(value)).collect();
            if !kept.is_empty() && kept.len() < known.values().count() {
                lines.push((
                    name,
                    String::from_utf8_lossy(&kept.join(&b',')).into_owned(),
                ));
            }
        }
        if !lines.is_empty() {
            self.write_settings(&lines)?;
            self.report.changed(
                "old secrets",
                "removed from the settings; the service forgets them when it is restarted",
            );
        }
        let record = &mut self.journal.record;
        record
            .superseded
            .retain(|_, since| now - *since <= OLD_SECRETS_LAST);
        Ok(self.journal.save()?)
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

impl Record {
    /// These values are good for a while, and no longer used.
    fn supersede(&mut self, values: &Secrets) {
        let now = Timestamp::now().as_second();
        for value in values.values() {
            self.superseded.entry(digest(value)).or_insert(now);
        }
    }
}

/// A new secret before those that are good for a while: comma-separated.
fn with_old(new: &SecretString, old: &Secrets) -> String {
    let mut values = vec![new.expose_secret().to_owned()];
    values.extend(
        old.values()
            .map(|value| String::from_utf8_lossy(value).into_owned()),
    );
    // More would be tried on whatever strangers send.
    values.truncate(4);
    values.join(",")
}

/// 256 bits, as `openssl rand -hex 32` makes them.
pub(in crate::cli) fn new_secret() -> SecretString {
    Alphanumeric.sample_string(&mut rand::rng(), 43).into()
}

/// `under` with everything that `over` has.
fn overlaid(under: &Value, over: &Value) -> Value {
    match (under, over) {
        (Value::Object(under), Value::Object(over)) => {
            let mut whole = under.clone();
            for (key, value) in over {
                let below = under.get(key).unwrap_or(&Value::Null);
                whole.insert(key.clone(), overlaid(below, value));
            }
            Value::Object(whole)
        }
        (_, over) => over.clone(),
    }
}

fn listed(changes: &[Change]) -> String {
    let changes: Vec<String> = changes.iter().map(Change::describe).collect();
    changes.join("\n")
}

fn not_taken(what: &str, left: &[Change]) -> Trouble {
    Trouble::new(
        format!(
            "ElevenLabs did not take all of it for {what}:\n{}",
            listed(left)
        ),
        "run it again; if it stays so, change this in ElevenLabs by hand and tell us",
    )
}
