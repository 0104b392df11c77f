//! Undoing: agents are as they were before they were connected, and what was made
//! is deleted.

use serde_json::{Value, json};

use super::journal::Record;
use super::targets::Target;
use super::{Outcome, Session, Trouble};
use crate::clients::ElevenLabsError;
use crate::domain::connection::{Change, Setting, holds, merged};
use crate::domain::ids::AgentId;

impl Session {
    /// Undoes it, for some agents or for all.
    pub async fn remove(&mut self, agents: &[String]) -> Outcome<()> {
        if self.journal.record == Record::default() {
            return Err(Trouble::new(
                "nothing is known to have been set up from here".to_owned(),
                "run it where the set-up was run: beside the settings is a file that tells what was changed",
            ));
        }
        let listed = self
            .account
            .ask(|api| async move { api.agents().await })
            .await;
        let listed = listed.map_err(|e| Trouble::api("agents", &e))?;
        if !self.dry_run {
            self.may_write().await?;
        }
        for key in self
            .journal
            .record
            .agents
            .keys()
            .cloned()
            .collect::<Vec<_>>()
        {
            let (agent, branch) = key
                .split_once('/')
                .map_or((&*key, None), |(a, b)| (a, Some(b)));
            if !agents.is_empty() && !agents.iter().any(|a| a == agent) {
                continue;
            }
            // One that was connected may be gone since.
            if let Some(listed) = listed.iter().find(|listed| listed.agent_id == agent) {
                let id = &AgentId::parse(agent)
                    .map_err(|e| Trouble::from(format!("the agent id {e}")))?;
                let read = self
                    .account
                    .ask(|api| async move { api.agent_settings(id, branch).await })
                    .await;
                let settings = match read {
                    Ok(settings) => settings,
                    // The branch was merged or deleted since.
                    Err(ElevenLabsError::NotFound) => Value::Null,
                    Err(error) => return Err(Trouble::api("the settings of an agent", &error)),
                };
                let target = Target {
                    agent: id.clone(),
                    name: listed.name.clone(),
                    branch: None,
                    settings,
                };
                self.restore(&target, branch, &key).await?;
            }
            if !self.dry_run {
                self.journal.record.agents.remove(&key);
                self.journal.save()?;
            }
        }
        let is_all = agents.is_empty() || self.journal.record.workspace.is_empty();
        if self.dry_run || !self.journal.record.agents.is_empty() || !is_all {
            return Ok(());
        }
        self.restore_workspace().await?;
        self.delete_what_was_made().await
    }

    async fn restore(&mut self, target: &Target, branch: Option<&str>, key: &str) -> Outcome<()> {
        let title = format!("agent {}", target.title());
        let known = self
            .journal
            .record
            .agents
            .get(key)
            .cloned()
            .unwrap_or_default();
        let mut patch = Vec::new();
        let mut stays = Vec::new();
        for change in &known {
            match self.restored(change, &target.settings) {
                Restored::To(value) => patch.push((change, value)),
                Restored::Cannot => stays.extend(change.path.last().cloned()),
                Restored::Already => {}
            }
        }
        if patch.is_empty() {
            self.report.kept(title.clone(), "refers to nothing of ours");
        } else {
            let names: Vec<&str> = patch
                .iter()
                .map(|(change, _)| change.setting.as_str())
                .collect();
            self.report
                .changed(title.clone(), format!("as before: {}", names.join(", ")));
        }
        if !stays.is_empty() {
            self.report.warn(
                title,
                format!(
                    "the variables {} stay declared: ElevenLabs' API adds and never removes; remove them by hand",
                    stays.join(", ")
                ),
            );
        }
        if self.dry_run || patch.is_empty() {
            return Ok(());
        }
        // Ours first goes: merging would leave our header beside what was there.
        let objects = patch.iter().filter(|(change, before)| {
            change.setting == Setting::ClientDataWebhook && before.is_object()
        });
        let emptied = merged(objects.map(|(change, _)| (&*change.path, Value::Null)));
        let whole = merged(
            patch
                .iter()
                .map(|(change, before)| (&*change.path, before.clone())),
        );
        let agent = &target.agent;
        self.patch_agent(agent, branch, [&emptied, &whole]).await?;
        self.refresh(target.agent.as_str()).await;
        Ok(())
    }

    /// What a setting is to be again, if it is still as we made it.
    fn restored(&self, change: &Change, settings: &Value) -> Restored {
        let now = change.now(settings);
        match change.setting {
            // Who changed it since meant it so.
            Setting::FetchClientData | Setting::FirstMessage => match holds(now, &change.after) {
                true => Restored::To(change.before.as_bool().unwrap_or(false).into()),
                false => Restored::Already,
            },
            Setting::ClientDataWebhook | Setting::PostCallWebhook => {
                let refers = now["url"].as_str().or(now["post_call_webhook_id"].as_str());
                let is_ours =
                    refers.is_some_and(|refers| self.journal.record.ours.contains(refers));
                // One that is deleted with the rest, or was when another took its place.
                let before = change.before["post_call_webhook_id"].as_str();
                let goes = before.is_some_and(|id| self.journal.record.made_webhooks.contains(id));
                match (is_ours, change.setting) {
                    (false, _) => Restored::Already,
                    (true, Setting::PostCallWebhook) if goes || change.before.is_null() => {
                        Restored::To(json!({"post_call_webhook_id": null}))
                    }
                    (true, _) => Restored::To(change.before.clone()),
                }
            }
            Setting::SearchTool => {
                let tool = self
                    .journal
                    .record
                    .tool
                    .as_ref()
                    .map(|tool| tool.id.as_str());
                let attached = now.as_array().cloned().unwrap_or_default();
                let left: Vec<Value> = attached
                    .iter()
                    .filter(|id| id.as_str() != tool)
                    .cloned()
                    .collect();
                match left.len() < attached.len() {
                    true => Restored::To(left.into()),
                    false => Restored::Already,
                }
            }
            Setting::Variable => match now.is_null() {
                true => Restored::Already,
                false => Restored::Cannot,
            },
        }
    }

    async fn restore_workspace(&mut self) -> Outcome<()> {
        let known = self.journal.record.workspace.clone();
        if known.is_empty() {
            return Ok(());
        }
        let mut whole = self.workspace().await?;
        let mut names = Vec::new();
        for change in &known {
            if let Restored::To(before) = self.restored(change, &whole) {
                whole[change.path[0].as_str()] = before;
                names.push(change.setting.as_str());
            }
        }
        if !names.is_empty() {
            self.replace_workspace(&whole).await?;
            self.report
                .changed("workspace", format!("as before: {}", names.join(", ")));
        }
        self.journal.record.workspace.clear();
        Ok(self.journal.save()?)
    }

    /// What nothing refers to any more.
    async fn delete_what_was_made(&mut self) -> Outcome<()> {
        let mut left = 0;
        if let Some(tool) = self.journal.record.tool.clone() {
            let id = &tool.id;
            let gone = match &tool.before {
                _ if tool.created => {
                    self.account
                        .ask(|api| async move { api.delete_tool(id).await })
                        .await
                }
                Some(before) => {
                    self.account
                        .ask(|api| async move { api.update_tool(id, before).await })
                        .await
                }
                None => Ok(()),
            };
            if self.told("tool search_data", gone) {
                self.journal.record.tool = None;
            } else {
                left += 1;
            }
        }
        let webhooks = self
            .account
            .ask(|api| async move { api.webhooks().await })
            .await;
        let webhooks = webhooks.map_err(|e| Trouble::api("webhooks", &e))?;
        for webhook in webhooks {
            if self.journal.record.made_webhooks.contains(&webhook.id) {
                let gone = self.delete_webhook(&webhook.id).await;
                left += u32::from(!self.told("webhook", gone));
            }
        }
        for (what, secret) in self.journal.record.secrets.clone() {
            if secret.created {
                let id = &secret.id;
                let gone = self
                    .account
                    .ask(|api| async move { api.delete_secret(id).await })
                    .await;
                if self.told(&format!("secret {}", secret.name), gone) {
                    self.journal.record.secrets.remove(&what);
                } else {
                    left += 1;
                }
            }
        }
        self.journal.save()?;
        if left > 0 {
            return Err(Trouble::new(
                "not everything that was made could be deleted".to_owned(),
                "detach it where it is still used, and run the same command again",
            ));
        }
        self.tell_place(None, None).await;
        self.env_file
            .set(&[("PUBLIC_URL", None), ("ELEVENLABS_WEBHOOK_ID", None)])?;
        Ok(self.journal.remove()?)
    }

    /// True if it is gone.
    fn told(&mut self, what: &str, gone: Result<(), ElevenLabsError>) -> bool {
        match gone {
            Ok(()) | Err(ElevenLabsError::NotFound) => {
                self.report.changed(what, "deleted, or as before");
                true
            }
            Err(error) => {
                self.report
                    .warn(what, format!("cannot be deleted: {error}"));
                false
            }
        }
    }
}

enum Restored {
    /// It is to be this again.
    To(Value),
    /// It is none of ours any more.
    Already,
    /// It cannot be undone through the API.
    Cannot,
}
