//! The tool with which agents search.

use serde_json::Value;

use super::{NOT_MADE, Options, Seen};
use crate::cli::setup::journal::KnownTool;
use crate::cli::setup::targets::Target;
use crate::cli::setup::{Outcome, Session, Trouble};
use crate::clients::Tool;
use crate::domain::connection::{SEARCH_DATA_SECRET, SEARCH_TOOL, holds, search_tool};

impl Session {
    pub(super) async fn keep_tool(
        &mut self,
        options: &Options,
        seen: &Seen,
        targets: &[Target],
    ) -> Outcome<String> {
        let key = self.keys.first(SEARCH_DATA_SECRET);
        let secret = self
            .keep_secret(SEARCH_DATA_SECRET, &key, options, seen, targets)
            .await?;
        let wanted = &search_tool(&options.url, &secret);
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
                .ask_once(|api| async move { api.create_tool(wanted).await })
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
        let (updated, whole) = (&id, &overlaid(&there.tool_config, &compared));
        let updated = self
            .account
            .ask(|api| async move { api.update_tool(updated, whole).await })
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
}

/// `under` with everything that `over` has.
pub(super) fn overlaid(under: &Value, over: &Value) -> Value {
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
