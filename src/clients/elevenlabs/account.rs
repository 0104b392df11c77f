//! What belongs to an account as a whole: webhooks, secrets, tools, agents,
//! phone numbers (ElevenLabs' API reference, "Workspace" and "ElevenLabs Agents").
//!
//! Agents' settings are given and taken as JSON: they hold far more than is
//! known here, and what is not ours has to stay as it is.

use reqwest::Method;
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{ElevenLabs, ElevenLabsError, MAX_ANSWER_BYTES, READ_AGENTS, Request, WRITE_AGENTS};
use crate::domain::ids::{AgentId, is_plain};

/// Most pages read of one list: what goes on for longer does not end.
const MAX_PAGES: usize = 1_000;
/// The permission for webhooks, as ElevenLabs names it.
const WEBHOOKS: &str = "webhooks_write";

/// A post-call webhook of the workspace.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Webhook {
    pub name: String,
    #[serde(rename = "webhook_id")]
    pub id: String,
    #[serde(rename = "webhook_url")]
    pub url: String,
    /// By whomever.
    #[serde(default)]
    pub is_disabled: bool,
    /// By ElevenLabs, after failures.
    #[serde(default)]
    pub is_auto_disabled: bool,
    /// Not in the API's schema, but in its answers.
    #[serde(default)]
    pub retry_enabled: Option<bool>,
    /// Where it is attached; `None` if that was not told.
    #[serde(default)]
    pub usage: Option<Vec<Value>>,
    /// The status with which its last failed delivery was answered.
    #[serde(default)]
    pub most_recent_failure_error_code: Option<i64>,
    /// When that was, in seconds since 1970.
    #[serde(default)]
    pub most_recent_failure_timestamp: Option<i64>,
}

/// A webhook that was just made. Its secret is shown this once.
pub struct NewWebhook {
    pub id: String,
    pub secret: SecretString,
}

/// A secret of the workspace. Its value cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct StoredSecret {
    #[serde(rename = "secret_id")]
    pub id: String,
    pub name: String,
    /// What depends on it.
    #[serde(default)]
    pub used_by: Value,
}

/// A tool of the workspace.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Tool {
    pub id: String,
    pub tool_config: Value,
    /// How often and how fast it answered.
    #[serde(default)]
    pub usage_stats: Value,
}

/// An agent in the list of agents.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct ListedAgent {
    pub agent_id: String,
    #[serde(default)]
    pub name: String,
    #[serde(default)]
    pub archived: bool,
}

/// A branch of an agent.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Branch {
    pub id: String,
    #[serde(default)]
    pub name: String,
    #[serde(default)]
    pub is_archived: bool,
    /// The share of calls that it takes, in percent.
    #[serde(default)]
    pub current_live_percentage: f64,
}

/// A phone number, and whose it is.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct PhoneNumber {
    pub phone_number: String,
    #[serde(default)]
    pub label: String,
    #[serde(default)]
    pub assigned_agent: Option<AssignedAgent>,
}

/// The agent of a phone number.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct AssignedAgent {
    pub agent_id: String,
    #[serde(default)]
    pub branch_id: Option<String>,
}

impl ElevenLabs {
    /// The workspace's webhooks, with where they are attached.
    ///
    /// # Errors
    /// [`ElevenLabsError`]
    pub async fn webhooks(&self) -> Result<Vec<Webhook>, ElevenLabsError> {
        let request =
            Request::get("workspace/webhooks", WEBHOOKS).query("include_usages", "true".to_owned());
        each(&self.json(request).await?["webhooks"])
    }

    /// Makes a webhook that signs what it sends.
    ///
    /// # Errors
    /// [`ElevenLabsError`]
    pub async fn create_webhook(
        &self,
        name: &str,
        url: &str,
    ) -> Result<NewWebhook, ElevenLabsError> {
        let settings = json!({"auth_type": "hmac", "name": name, "webhook_url": url});
        let body = json!({"settings": settings});
        let request = Request::new(Method::POST, "workspace/webhooks", WEBHOOKS).body(body);
        let answer = self.json(request).await?;
        let text = |name: &str| answer[name].as_str().map(str::to_owned);
        let (id, secret) = (text("webhook_id"), text("webhook_secret"));
        let made = id.zip(secret).map(|(id, secret)| NewWebhook {
            id,
            secret: secret.into(),
        });
        made.ok_or(ElevenLabsError::Unusable)
    }

    /// Enables a webhook, and its retries.
    ///
    /// # Errors
    /// [`ElevenLabsError`]
    pub async fn enable_webhook(&self, id: &str, name: &str) -> Result<(), ElevenLabsError> {
        let path = format!("workspace/webhooks/{}", plain(id)?);
        let body = json!({"is_disabled": false, "name": name, "retry_enabled": true});
        let request = Request::new(Method::PATCH, path, WEBHOOKS).body(body);
        self.json(request).await.map(drop)
    }

    /// Deletes a webhook that is attached nowhere.
    ///
    /// # Errors
    /// [`ElevenLabsError`]
    pub async fn delete_webhook(&self, id: &str) -> Result<(), ElevenLabsError> {
        let path = format!("workspace/webhooks/{}", plain(id)?);
        self.send(Request::new(Method::DELETE, path, WEBHOOKS))
            .await
            .map(drop)
    }

    /// Secrets whose name holds `name`.
    ///
    /// # Errors
    /// [`ElevenLabsError`]
    pub async fn secrets(&self, name: &str) -> Result<Vec<StoredSecret>, ElevenLabsError> {
        let request = || Request::get("convai/secrets", READ_AGENTS).query("search", name.into());
        self.pages(request, "secrets").await
    }

    /// Keeps a secret in the workspace; its id.
    ///
    /// # Errors
    /// [`ElevenLabsError`]
    pub async fn create_secret(
        &self,
        name: &str,
        value: &SecretString,
    ) -> Result<String, ElevenLabsError> {
        let body = json!({"type": "new", "name": name, "value": value.expose_secret()});
        let request = Request::new(Method::POST, "convai/secrets", WRITE_AGENTS).body(body);
        let answer = self.json(request).await?;
        let id = answer["secret_id"].as_str().map(str::to_owned);
        id.ok_or(ElevenLabsError::Unusable)
    }

    /// Replaces the value of a secret.
    ///
    /// # Errors
    /// [`ElevenLabsError`]
    pub async fn update_secret(
        &self,
        id: &str,
        name: &str,
        value: &SecretString,
    ) -> Result<(), ElevenLabsError> {
        let path = format!("convai/secrets/{}", plain(id)?);
        let body = json!({"type": "update", "name": name, "value": value.expose_secret()});
        let request = Request::new(Method::PATCH, path, WRITE_AGENTS).body(body);
        self.json(request).await.map(drop)
    }

    /// Deletes a secret.
    ///
    /// # Errors
    /// [`ElevenLabsError`]
    pub async fn delete_secret(&self, id: &str) -> Result<(), ElevenLabsError> {
        let path = format!("convai/secrets/{}", plain(id)?);
        self.send(Request::new(Method::DELETE, path, WRITE_AGENTS))
            .await
            .map(drop)
    }

    /// Webhook tools whose name holds `name`.
    ///
    /// # Errors
    /// [`ElevenLabsError`]
    pub async fn tools(&self, name: &str) -> Result<Vec<Tool>, ElevenLabsError> {
        let request = || {
            Request::get("convai/tools", READ_AGENTS)
                .query("search", name.into())
                .query("types", "webhook".into())
        };
        self.pages(request, "tools").await
    }

    /// Makes a tool; its id.
    ///
    /// # Errors
    /// [`ElevenLabsError`]
    pub async fn create_tool(&self, config: &Value) -> Result<String, ElevenLabsError> {
        let body = json!({"tool_config": config});
        let request = Request::new(Method::POST, "convai/tools", WRITE_AGENTS).body(body);
        let answer = self.json(request).await?;
        let id = answer["id"].as_str().map(str::to_owned);
        id.ok_or(ElevenLabsError::Unusable)
    }

    /// Replaces what a tool is.
    ///
    /// # Errors
    /// [`ElevenLabsError`]
    pub async fn update_tool(&self, id: &str, config: &Value) -> Result<(), ElevenLabsError> {
        let path = format!("convai/tools/{}", plain(id)?);
        let body = json!({"tool_config": config});
        let request = Request::new(Method::PATCH, path, WRITE_AGENTS).body(body);
        self.json(request).await.map(drop)
    }

    /// Deletes a tool that no agent has.
    ///
    /// # Errors
    /// [`ElevenLabsError`]
    pub async fn delete_tool(&self, id: &str) -> Result<(), ElevenLabsError> {
        let path = format!("convai/tools/{}", plain(id)?);
        self.send(Request::new(Method::DELETE, path, WRITE_AGENTS))
            .await
            .map(drop)
    }

    /// Every agent that is not archived.
    ///
    /// # Errors
    /// [`ElevenLabsError`]
    pub async fn agents(&self) -> Result<Vec<ListedAgent>, ElevenLabsError> {
        let agents: Vec<ListedAgent> = self
            .pages(|| Request::get("convai/agents", READ_AGENTS), "agents")
            .await?;
        Ok(agents.into_iter().filter(|agent| !agent.archived).collect())
    }

    /// The branches of an agent.
    ///
    /// # Errors
    /// [`ElevenLabsError`]
    pub async fn branches(&self, agent: &AgentId) -> Result<Vec<Branch>, ElevenLabsError> {
        let path = format!("convai/agents/{}/branches", plain(agent.as_str())?);
        let request = Request::get(path, READ_AGENTS).query("limit", "100".to_owned());
        each(&self.json(request).await?["results"])
    }

    /// An agent's settings, on a branch or the one that is live.
    ///
    /// # Errors
    /// [`ElevenLabsError`]
    pub async fn agent_settings(
        &self,
        agent: &AgentId,
        branch: Option<&str>,
    ) -> Result<Value, ElevenLabsError> {
        let path = format!("convai/agents/{}", plain(agent.as_str())?);
        let request = Request::get(path, READ_AGENTS).query_if("branch_id", branch);
        let settings = self.json(request).await?;
        match settings["conversation_config"].is_object() {
            true => Ok(settings),
            false => Err(ElevenLabsError::Unusable),
        }
    }

    /// Merges `patch` into an agent's settings: deeply, but lists are replaced.
    ///
    /// # Errors
    /// [`ElevenLabsError`]
    pub async fn patch_agent(
        &self,
        agent: &AgentId,
        branch: Option<&str>,
        patch: &Value,
    ) -> Result<(), ElevenLabsError> {
        let path = format!("convai/agents/{}", plain(agent.as_str())?);
        let request = Request::new(Method::PATCH, path, WRITE_AGENTS)
            .query_if("branch_id", branch)
            .body(patch.clone());
        self.json(request).await.map(drop)
    }

    /// Every phone number.
    ///
    /// # Errors
    /// [`ElevenLabsError`]
    pub async fn phone_numbers(&self) -> Result<Vec<PhoneNumber>, ElevenLabsError> {
        let request = Request::get("convai/phone-numbers", READ_AGENTS);
        each(&self.json(request).await?)
    }

    /// What holds for every agent that does not say otherwise.
    ///
    /// # Errors
    /// [`ElevenLabsError`]
    pub async fn workspace_settings(&self) -> Result<Value, ElevenLabsError> {
        self.json(Request::get("convai/settings", READ_AGENTS))
            .await
    }

    /// Replaces what holds for every agent.
    ///
    /// # Errors
    /// [`ElevenLabsError`]
    pub async fn patch_workspace_settings(&self, settings: &Value) -> Result<(), ElevenLabsError> {
        let request = Request::new(Method::PATCH, "convai/settings", WRITE_AGENTS);
        self.json(request.body(settings.clone())).await.map(drop)
    }

    /// Finds out whether the key may write, without writing: what is asked for
    /// cannot exist. A server that looks for it first answers 404 whatever the key
    /// may; then the first write tells.
    ///
    /// # Errors
    /// [`ElevenLabsError::Forbidden`] names what it may not.
    pub async fn may_write(&self, webhooks: bool) -> Result<(), ElevenLabsError> {
        const NOBODY: &str = "elaoms_tries_what_its_key_may_do";
        let mut tried = vec![
            Request::new(
                Method::PATCH,
                format!("convai/agents/{NOBODY}"),
                WRITE_AGENTS,
            )
            .body(json!({})),
        ];
        if webhooks {
            let path = format!("workspace/webhooks/{NOBODY}");
            let body = json!({"is_disabled": false, "name": NOBODY});
            tried.push(Request::new(Method::PATCH, path, WEBHOOKS).body(body));
        }
        for request in tried {
            match self.send(request).await {
                Ok(_) | Err(ElevenLabsError::NotFound | ElevenLabsError::Invalid { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Every entry of a list that comes in pages.
    async fn pages<T: for<'de> Deserialize<'de>>(
        &self,
        request: impl Fn() -> Request,
        list: &str,
    ) -> Result<Vec<T>, ElevenLabsError> {
        let (mut all, mut cursor) = (Vec::new(), None);
        for _ in 0..MAX_PAGES {
            let page = request()
                .query("page_size", "100".to_owned())
                .query_if("cursor", cursor.as_deref());
            let page = self.json(page).await?;
            all.extend(each(&page[list])?);
            match next_cursor(&page) {
                Some(next) if cursor.as_ref() != Some(&next) => cursor = Some(next),
                _ => return Ok(all),
            }
        }
        Ok(all)
    }

    async fn json(&self, request: Request) -> Result<Value, ElevenLabsError> {
        let body = self.body(request, MAX_ANSWER_BYTES).await?;
        serde_json::from_slice(&body).map_err(|_| ElevenLabsError::Unusable)
    }
}

/// Where a list goes on.
pub(super) fn next_cursor(page: &Value) -> Option<String> {
    let cursor = page["next_cursor"].as_str().filter(|c| !c.is_empty())?;
    // Secrets come without `has_more`.
    (page["has_more"] != Value::Bool(false)).then(|| cursor.to_owned())
}

/// The entries of a list. One that cannot be read is no reason to lose the others,
/// but a list that is none is.
pub(super) fn each<T: for<'de> Deserialize<'de>>(list: &Value) -> Result<Vec<T>, ElevenLabsError> {
    let list = list.as_array().ok_or(ElevenLabsError::Unusable)?;
    let entries = list.iter().filter_map(|entry| T::deserialize(entry).ok());
    Ok(entries.collect())
}

/// An id that cannot reach another path.
pub(super) fn plain(id: &str) -> Result<&str, ElevenLabsError> {
    (!id.is_empty() && is_plain(id))
        .then_some(id)
        .ok_or(ElevenLabsError::NotFound)
}
