//! Requests that several steps make.

use serde_json::Value;

use super::{Outcome, Session, Trouble};
use crate::cli::admin::Request;
use crate::clients::ElevenLabsError;
use crate::domain::ids::AgentId;

impl Session {
    /// Tells the running service something; its answer. Nothing is told where none runs,
    /// or nothing is to be written; that it refuses is in the table.
    pub(super) async fn tell(&mut self, request: Request) -> Option<Value> {
        let operations = self.operations.as_ref().filter(|_| !self.dry_run)?;
        let told = operations.send(request).await;
        told.map_err(|error| self.report.warn("the running service", error))
            .ok()
    }

    /// The key may change agents and webhooks, as far as that can be told.
    pub(super) async fn may_write(&self) -> Outcome<()> {
        let allowed = self
            .account
            .ask(|api| async move { api.may_write(true).await })
            .await;
        allowed.map_err(|e| Trouble::api("writing", &e))
    }

    pub(super) async fn workspace(&self) -> Outcome<Value> {
        let settings = self
            .account
            .ask(|api| async move { api.workspace_settings().await })
            .await;
        settings.map_err(|e| Trouble::api("the workspace's settings", &e))
    }

    pub(super) async fn replace_workspace(&self, whole: &Value) -> Outcome<()> {
        let patched = self
            .account
            .ask(|api| async move { api.patch_workspace_settings(whole).await })
            .await;
        patched.map_err(|e| Trouble::api("the workspace's settings", &e))
    }

    /// Merges each of these into an agent's settings, one after the other.
    pub(super) async fn patch_agent(
        &self,
        agent: &AgentId,
        branch: Option<&str>,
        patches: [&Value; 2],
    ) -> Outcome<()> {
        for patch in patches {
            if patch.as_object().is_some_and(serde_json::Map::is_empty) {
                continue;
            }
            let patched = self
                .account
                .ask(|api| async move { api.patch_agent(agent, branch, patch).await })
                .await;
            patched.map_err(|e| Trouble::api("the settings of an agent", &e))?;
        }
        Ok(())
    }

    pub(super) async fn delete_webhook(&self, id: &str) -> Result<(), ElevenLabsError> {
        self.account
            .ask(|api| async move { api.delete_webhook(id).await })
            .await
    }
}
