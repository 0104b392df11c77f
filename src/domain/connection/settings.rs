//! The settings of agents and of the workspace: those that are wanted, beside
//! those that are there.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::change::{Change, Setting, at};
use super::{PublicUrl, holds, key_header};

/// Events that we learn from, as settings name them. The recording is the
/// operator's choice.
const EVENTS: [&str; 2] = ["transcript", "call_initiation_failure"];
/// Events that may be asked for besides.
const MORE_EVENTS: [&str; 1] = ["audio"];
/// The dynamic variables that answers to rings fill in, each with an empty
/// placeholder: ElevenLabs ends a call in which a text uses one that it does not know.
pub(crate) const VARIABLES: [&str; 5] = [
    "user_name",
    "last_call_summary",
    "user_sentiment",
    "key_topics",
    "user_language",
];

/// Where the two webhooks are attached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Scope {
    /// To single agents.
    Agent,
    /// To the workspace: to every agent that does not say otherwise.
    Workspace,
}

/// What an agent, or the workspace, is to refer to.
#[derive(Debug, Clone)]
pub struct Wanted {
    pub url: PublicUrl,
    pub scope: Scope,
    /// The post-call webhook.
    pub webhook_id: String,
    /// The secret with the key of client-data.
    pub client_data_secret: String,
    /// The tool for searches; `None` if agents are not to search.
    pub search_tool: Option<String>,
}

const OVERRIDES: [&str; 2] = ["platform_settings", "workspace_overrides"];
const CLIENT_DATA: &str = "conversation_initiation_client_data_webhook";
const WEBHOOKS: &str = "webhooks";

/// What has to change in an agent's settings. `workspace` is what holds for agents
/// that do not say otherwise.
#[must_use]
pub fn agent_changes(settings: &Value, workspace: &Value, wanted: &Wanted) -> Vec<Change> {
    let mut changes = Vec::new();
    let mut want = |setting, path: &[&str], after: Value| {
        if !holds(at(settings, path), &after) {
            changes.push(Change::new(setting, path, settings, after));
        }
    };
    let overrides = "overrides";
    want(
        Setting::FetchClientData,
        &[
            "platform_settings",
            overrides,
            "enable_conversation_initiation_client_data_from_webhook",
        ],
        true.into(),
    );
    want(
        Setting::FirstMessage,
        &[
            "platform_settings",
            overrides,
            "conversation_config_override",
            "agent",
            "first_message",
        ],
        true.into(),
    );
    let prompt = ["conversation_config", "agent", "prompt", "tool_ids"];
    if let Some(tool) = &wanted.search_tool {
        let attached = at(settings, &prompt).as_array().cloned();
        let mut attached = attached.unwrap_or_default();
        if !attached.iter().any(|id| id == tool) {
            attached.push(tool.as_str().into());
            want(Setting::SearchTool, &prompt, attached.into());
        }
    }
    let declared = [
        "conversation_config",
        "agent",
        "dynamic_variables",
        "dynamic_variable_placeholders",
    ];
    let there = at(settings, &declared);
    for name in VARIABLES {
        // Whatever the operator chose as its placeholder stays.
        if there.get(name).is_none() {
            let path: Vec<&str> = declared.iter().copied().chain([name]).collect();
            want(Setting::Variable, &path, "".into());
        }
    }
    if wanted.scope == Scope::Agent {
        changes.extend(webhook_changes(settings, &OVERRIDES, workspace, wanted));
    }
    changes
}

/// What has to change in the settings of the workspace.
#[must_use]
pub fn workspace_changes(settings: &Value, wanted: &Wanted) -> Vec<Change> {
    webhook_changes(settings, &[], &Value::Null, wanted)
}

/// Both webhooks, below `place`. What is not set there is as in `otherwise`.
fn webhook_changes(
    settings: &Value,
    place: &[&str],
    otherwise: &Value,
    wanted: &Wanted,
) -> Vec<Change> {
    let mut changes = Vec::new();
    let path = |name| place.iter().copied().chain([name]).collect::<Vec<_>>();
    let ours = wanted.url.client_data();
    let there = path(CLIENT_DATA);
    let after = json!({"url": ours, "request_headers": key_header(&wanted.client_data_secret)});
    let now = at(settings, &there);
    if !holds(now, &after) {
        let mut change = Change::new(Setting::ClientDataWebhook, &there, settings, after);
        let effective = if now.is_null() {
            &otherwise[CLIENT_DATA]
        } else {
            now
        };
        let effective = effective["url"].as_str().filter(|url| *url != ours);
        change.displaced = effective.map(str::to_owned);
        changes.push(change);
    }
    let there = path(WEBHOOKS);
    let now = at(settings, &there);
    let id = now["post_call_webhook_id"].as_str();
    let is_ours = id == Some(&wanted.webhook_id);
    let after = json!({
        "post_call_webhook_id": wanted.webhook_id,
        "events": events(now, is_ours),
        "transcript_format": "json",
    });
    if !is_ours || !same_events(now, &after) || now["transcript_format"] != "json" {
        let mut change = Change::new(Setting::PostCallWebhook, &there, settings, after);
        let effective = id.or_else(|| otherwise[WEBHOOKS]["post_call_webhook_id"].as_str());
        let effective = effective.filter(|id| *id != wanted.webhook_id);
        change.displaced = effective.map(str::to_owned);
        changes.push(change);
    }
    changes
}

/// The events to subscribe to: ours, and what else was chosen for our webhook.
fn events(now: &Value, is_ours: bool) -> Vec<Value> {
    let mut events: Vec<Value> = EVENTS.iter().map(|event| (*event).into()).collect();
    let chosen = now["events"].as_array().filter(|_| is_ours);
    for event in chosen.into_iter().flatten() {
        let is_known = event.as_str().is_some_and(|e| MORE_EVENTS.contains(&e));
        if is_known && !events.contains(event) {
            events.push(event.clone());
        }
    }
    events
}

/// Events in any order.
fn same_events(now: &Value, after: &Value) -> bool {
    let list = |value: &Value| {
        let mut events: Vec<String> = value["events"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|event| event.as_str().map(str::to_owned))
            .collect();
        events.sort();
        events
    };
    list(now) == list(after)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::connection::merged;

    fn wanted() -> Wanted {
        Wanted {
            url: PublicUrl::parse("https://your.host").unwrap(),
            scope: Scope::Agent,
            webhook_id: "wh_ours".into(),
            client_data_secret: "secret_1".into(),
            search_tool: Some("tool_ours".into()),
        }
    }

    fn patched(mut settings: Value, changes: &[Change]) -> Value {
        fn merge(into: &mut Value, patch: &Value) {
            match (into, patch) {
                (Value::Object(into), Value::Object(patch)) => {
                    for (key, value) in patch {
                        merge(into.entry(key).or_insert(Value::Null), value);
                    }
                }
                (into, patch) => *into = patch.clone(),
            }
        }
        let patch = merged(changes.iter().map(|c| (&*c.path, c.after.clone())));
        merge(&mut settings, &patch);
        settings
    }

    #[test]
    fn what_was_changed_needs_no_change() {
        let before = json!({
            "name": "Margaret",
            "conversation_config": {"agent": {
                "prompt": {"tool_ids": ["tool_other"]},
                "dynamic_variables": {"dynamic_variable_placeholders": {"user_name": "there", "plan": 1}},
            }},
            "platform_settings": {},
        });
        let changes = agent_changes(&before, &Value::Null, &wanted());
        let after = patched(before, &changes);
        assert_eq!(agent_changes(&after, &Value::Null, &wanted()), []);
        let agent = &after["conversation_config"]["agent"];
        assert_eq!(
            agent["prompt"]["tool_ids"],
            json!(["tool_other", "tool_ours"])
        );
        let declared = &agent["dynamic_variables"]["dynamic_variable_placeholders"];
        assert_eq!(
            (&declared["user_name"], &declared["plan"]),
            (&json!("there"), &json!(1))
        );
        assert!(!changes.iter().any(|change| change.displaced.is_some()));
    }

    #[test]
    fn what_belongs_to_others_is_displaced_and_said_so() {
        let theirs = json!({"platform_settings": {"workspace_overrides": {
            "webhooks": {"post_call_webhook_id": "wh_theirs"}}}});
        let displaced = |agent: &Value, workspace: &Value| -> Vec<Setting> {
            let changes = agent_changes(agent, workspace, &wanted());
            let displaced = changes.iter().filter(|change| change.displaced.is_some());
            displaced.map(|change| change.setting).collect()
        };
        assert_eq!(displaced(&theirs, &Value::Null), [Setting::PostCallWebhook]);
        // What the agent has from its workspace would be lost to it as well.
        let workspace = json!({"conversation_initiation_client_data_webhook": {"url": "https://theirs"},
            "webhooks": {"post_call_webhook_id": "wh_theirs"}});
        assert_eq!(
            displaced(&json!({}), &workspace),
            [Setting::ClientDataWebhook, Setting::PostCallWebhook]
        );
        let ours = json!({"webhooks": {"post_call_webhook_id": "wh_ours"}});
        assert_eq!(displaced(&json!({}), &ours), []);
    }

    #[test]
    fn a_key_that_was_entered_in_plain_text_is_not_told() {
        let settings = json!({"platform_settings": {"workspace_overrides": {
            "conversation_initiation_client_data_webhook": {"url": "https://your.host/webhook/client-data",
                "request_headers": {"X-Api-Key": "the-key-itself"}}}}});
        let changes = agent_changes(&settings, &Value::Null, &wanted());
        let told: Vec<String> = changes.iter().map(Change::describe).collect();
        let told = told.join("; ");
        assert!(
            told.contains("X-Api-Key") && !told.contains("the-key-itself"),
            "{told}"
        );
    }

    #[test]
    fn a_recording_that_was_asked_for_stays_and_other_events_do_not() {
        let with = |id: &str, events: Value| {
            let settings = json!({"platform_settings": {"workspace_overrides": {"webhooks": {
                "post_call_webhook_id": id, "events": events, "transcript_format": "json"}}}});
            let changes = agent_changes(&settings, &Value::Null, &wanted());
            let change = changes
                .iter()
                .find(|c| c.setting == Setting::PostCallWebhook);
            change.map(|change| change.after["events"].clone())
        };
        let [ours, failures] = EVENTS;
        assert_eq!(with("wh_ours", json!(["audio", failures, ours])), None);
        assert_eq!(
            with("wh_ours", json!(["audio"])),
            Some(json!([ours, failures, "audio"]))
        );
        assert_eq!(
            with("wh_ours", json!([ours, failures, "unredacted_audio"])),
            Some(json!([ours, failures]))
        );
        assert_eq!(
            with("wh_theirs", json!(["audio"])),
            Some(json!([ours, failures]))
        );
    }
}
