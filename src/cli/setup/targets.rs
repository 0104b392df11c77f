//! The agents to be connected, on each branch that takes calls.

use futures_util::{StreamExt, TryStreamExt, stream};
use serde_json::Value;

use super::{Outcome, Trouble};
use crate::account::{Account, MOST_REQUESTS};
use crate::clients::{Branch, ElevenLabsError, ListedAgent, PhoneNumber};
use crate::domain::ids::AgentId;

/// Which agents are meant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::cli) enum Selection {
    Named(Vec<String>),
    All,
    /// Those that were connected before.
    Connected,
}

/// An agent on one of its branches.
pub(in crate::cli) struct Target {
    pub agent: AgentId,
    pub name: String,
    /// `None` if the agent has no branches.
    pub branch: Option<Branch>,
    /// Its settings as they were read.
    pub settings: Value,
}

impl Target {
    /// The name of the target in the journal.
    pub fn key(&self) -> String {
        match &self.branch {
            Some(branch) => format!("{}/{}", self.agent, branch.id),
            None => self.agent.to_string(),
        }
    }

    /// What an operator calls it.
    pub fn title(&self) -> String {
        let name = if self.name.is_empty() {
            self.agent.as_str()
        } else {
            &self.name
        };
        match &self.branch {
            Some(branch) if branch.name != "Main" => format!("{name} ({})", branch.name),
            _ => name.to_owned(),
        }
    }

    pub fn branch_id(&self) -> Option<&str> {
        self.branch.as_ref().map(|branch| branch.id.as_str())
    }
}

/// The ids of the agents that are meant, in the order of the list.
pub(in crate::cli) fn chosen(
    selection: &Selection,
    connected: &[String],
    listed: &[ListedAgent],
) -> Outcome<Vec<AgentId>> {
    let wanted: Vec<&str> = match selection {
        Selection::All => listed.iter().map(|agent| agent.agent_id.as_str()).collect(),
        Selection::Named(names) => names.iter().map(String::as_str).collect(),
        Selection::Connected => connected.iter().map(String::as_str).collect(),
    };
    let is_listed = |id: &str| listed.iter().any(|agent| agent.agent_id == id);
    let mut ids = Vec::new();
    for id in wanted {
        if !is_listed(id) {
            // One that was connected may be gone since.
            if *selection == Selection::Connected {
                continue;
            }
            return Err(Trouble::new(
                format!("there is no agent {id}, or it is archived"),
                "copy the id from ElevenLabs, and see that the API key is of the same workspace",
            ));
        }
        let id = AgentId::parse(id).map_err(|e| Trouble::from(format!("the agent id {e}")))?;
        if !ids.contains(&id) {
            ids.push(id);
        }
    }
    Ok(ids)
}

/// Reads the settings of agents, on every branch that takes calls.
pub(in crate::cli) async fn read(
    account: &Account,
    agents: &[AgentId],
    listed: &[ListedAgent],
    numbers: &[PhoneNumber],
) -> Outcome<Vec<Target>> {
    let reading = agents.iter().map(async |agent| {
        let name = listed.iter().find(|a| a.agent_id == agent.as_str());
        let name = name.map(|a| a.name.clone()).unwrap_or_default();
        let pinned: Vec<&str> = numbers
            .iter()
            .filter_map(|number| number.assigned_agent.as_ref())
            .filter(|assigned| assigned.agent_id == agent.as_str())
            .filter_map(|assigned| assigned.branch_id.as_deref())
            .collect();
        targets_of(account, agent, &name, &pinned).await
    });
    let targets: Vec<Vec<Target>> = stream::iter(reading)
        .buffered(MOST_REQUESTS)
        .try_collect()
        .await?;
    Ok(targets.into_iter().flatten().collect())
}

async fn targets_of(
    account: &Account,
    agent: &AgentId,
    name: &str,
    pinned: &[&str],
) -> Outcome<Vec<Target>> {
    let branches = account
        .ask(|api| async move { api.branches(agent).await })
        .await;
    let branches = match branches {
        Ok(branches) => branches,
        // An agent from before branches.
        Err(ElevenLabsError::NotFound) => Vec::new(),
        Err(error) => return Err(Trouble::api("the branches of an agent", &error)),
    };
    let takes_calls = |branch: &Branch| {
        !branch.is_archived
            && (branch.current_live_percentage > 0.0 || pinned.contains(&branch.id.as_str()))
    };
    let live = branches.into_iter().filter(takes_calls).map(Some);
    let mut live: Vec<Option<Branch>> = live.collect();
    if live.is_empty() {
        live.push(None);
    }
    let mut targets = Vec::new();
    for branch in live {
        let id = branch.as_ref().map(|branch| branch.id.as_str());
        let settings = account
            .ask(|api| async move { api.agent_settings(agent, id).await })
            .await;
        targets.push(Target {
            agent: agent.clone(),
            name: name.to_owned(),
            settings: settings.map_err(|e| Trouble::api("the settings of an agent", &e))?,
            branch,
        });
    }
    Ok(targets)
}
