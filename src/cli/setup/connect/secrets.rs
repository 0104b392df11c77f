//! The workspace's secrets, which agents and tools refer to.

use jiff::Timestamp;
use secrecy::{ExposeSecret, SecretString};
use serde_json::Value;

use super::{NOT_MADE, Options, Seen};
use crate::cli::setup::journal::{KnownSecret, digest};
use crate::cli::setup::targets::Target;
use crate::cli::setup::{Outcome, Session, Trouble};
use crate::clients::StoredSecret;

impl Session {
    /// The id of the workspace's secret with this value.
    pub(super) async fn keep_secret(
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
                    .ask(|api| async move { api.update_secret(id, name, value).await })
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
                    .ask_once(|api| async move { api.create_secret(name, value).await })
                    .await;
                let id = made.map_err(|e| Trouble::api("the secret of a webhook", &e))?;
                self.report.changed(title, "made in ElevenLabs");
                (id, true)
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
}
