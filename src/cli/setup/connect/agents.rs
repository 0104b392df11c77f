//! The settings of agents, and of the workspace.

use reqwest::Method;
use serde_json::Value;

use super::tool::overlaid;
use super::{Options, Seen};
use crate::cli::admin::Request;
use crate::cli::setup::journal::Record;
use crate::cli::setup::targets::Target;
use crate::cli::setup::{Outcome, Session, Trouble};
use crate::domain::connection::{
    Change, SEARCH_TOOL, Scope, Setting, Wanted, agent_changes, merged, workspace_changes,
};

impl Session {
    /// The workspace's settings, changed if that was asked for.
    pub(super) async fn change_workspace(
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
        if changes.iter().any(|change| change.displaced.is_some()) && !options.replace {
            return Err(Trouble::new(
                format!(
                    "the workspace refers to something else:\n{}",
                    displaced(&changes)
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
        self.replace_workspace(&whole).await?;
        let now = self.workspace().await?;
        match workspace_changes(&now, wanted).as_slice() {
            [] => Ok(now),
            left => Err(not_taken("the workspace", left)),
        }
    }

    pub(super) async fn change_agent(
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
        let detached = displaced(&changes);
        if !detached.is_empty() && !options.replace {
            self.report.warn(
                title,
                format!("left alone, because it refers to something else; --replace detaches that:\n{detached}"),
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
            .ask(|api| async move { api.agent_settings(agent, branch).await })
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
                && change.displaced.is_some()
                && change.before.is_object()
        });
        let emptied = merged(others_headers.map(|change| (&*change.path, Value::Null)));
        let whole = merged(
            changes
                .iter()
                .map(|change| (&*change.path, change.after.clone())),
        );
        let (agent, branch) = (&target.agent, target.branch_id());
        self.patch_agent(agent, branch, [&emptied, &whole]).await
    }

    /// What refers to a webhook or address that was ours is nobody else's.
    fn not_displacing_ourselves(&self, mut changes: Vec<Change>) -> Vec<Change> {
        let ours = &self.journal.record.ours;
        for change in &mut changes {
            change.displaced = change
                .displaced
                .take()
                .filter(|other| !ours.contains(other));
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
    pub(in crate::cli::setup) async fn refresh(&mut self, agent: &str) {
        let request = Request::new(Method::POST, format!("agents/{agent}/invalidate"));
        self.tell(request).await;
    }
}

fn listed(changes: &[Change]) -> String {
    let changes: Vec<String> = changes.iter().map(Change::describe).collect();
    changes.join("\n")
}

/// What of others would be detached.
fn displaced(changes: &[Change]) -> String {
    let displaced = changes.iter().filter_map(|change| {
        let other = change.displaced.as_ref()?;
        Some(format!("{}: {other}", change.setting.as_str()))
    });
    displaced.collect::<Vec<_>>().join("\n")
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
