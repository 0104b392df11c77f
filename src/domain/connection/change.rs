//! A setting that has to become another, and what an operator reads of it.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use strum::{EnumString, IntoStaticStr};

use super::holds;

/// One of the settings that matter.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Hash, IntoStaticStr, EnumString, Serialize, Deserialize,
)]
#[strum(serialize_all = "kebab-case")]
#[serde(rename_all = "kebab-case")]
pub enum Setting {
    /// Whether client data is fetched when a phone rings.
    FetchClientData,
    /// Whether the first message may be overridden.
    FirstMessage,
    /// From where client data is fetched.
    ClientDataWebhook,
    /// Where calls go that have ended.
    PostCallWebhook,
    /// The tool for searches.
    SearchTool,
    /// A dynamic variable that is declared.
    Variable,
}

impl Setting {
    /// What an operator reads.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        self.into()
    }

    /// What it means for callers that this setting is not as it should be.
    #[must_use]
    pub fn consequence(self) -> &'static str {
        match self {
            Self::FetchClientData => "rings do not ask ELAOMS: nobody is recognised",
            Self::FirstMessage => {
                "greetings cannot be the first message; they come as the variable next_greeting"
            }
            Self::ClientDataWebhook => "rings do not reach this ELAOMS: nobody is recognised",
            Self::PostCallWebhook => {
                "calls that end do not reach this ELAOMS in a form that it reads: nothing is learned"
            }
            Self::SearchTool => "the agent cannot look up what a caller told",
            Self::Variable => {
                "a text that uses this variable ends the call when ELAOMS cannot be asked"
            }
        }
    }

    /// Whether callers are not remembered because of it.
    #[must_use]
    pub fn is_vital(self) -> bool {
        matches!(
            self,
            Self::FetchClientData | Self::ClientDataWebhook | Self::PostCallWebhook
        )
    }
}

/// A setting that has to become another.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Change {
    pub setting: Setting,
    /// Where it is.
    pub path: Vec<String>,
    /// What it is; null if it is not there.
    pub before: Value,
    /// What it has to hold.
    pub after: Value,
    /// What else is there than ours, or holds because nothing is, and would be
    /// detached: an address, or the id of a webhook.
    #[serde(default)]
    pub displaced: Option<String>,
}

impl Change {
    pub(super) fn new(setting: Setting, path: &[&str], settings: &Value, after: Value) -> Self {
        let before = at(settings, path).clone();
        Self {
            setting,
            path: path.iter().map(|part| (*part).to_owned()).collect(),
            before,
            after,
            displaced: None,
        }
    }

    /// What is there now, in `settings`.
    #[must_use]
    pub fn now<'a>(&self, settings: &'a Value) -> &'a Value {
        let path: Vec<&str> = self.path.iter().map(String::as_str).collect();
        at(settings, &path)
    }

    /// In a few words: from what, to what.
    #[must_use]
    pub fn describe(&self) -> String {
        let short = |value: &Value| match value {
            Value::Null => "nothing".to_owned(),
            Value::Object(object) => ["url", "post_call_webhook_id"]
                .iter()
                .find_map(|key| object.get(*key)?.as_str())
                .unwrap_or("nothing")
                .to_owned(),
            Value::Array(list) => format!("{} of them", list.len()),
            other => other.to_string(),
        };
        let name = match self.setting {
            Setting::Variable => self.path.last().map_or("?", String::as_str),
            setting => setting.as_str(),
        };
        match short(&self.before) {
            before if self.setting == Setting::Variable => {
                format!("{name}: declared (was {before})")
            }
            before if before == short(&self.after) => {
                format!("{name} ({before}): {}", self.differences())
            }
            before => format!("{name}: {before} → {}", short(&self.after)),
        }
    }
}

impl Change {
    /// The parts of an object that differ.
    fn differences(&self) -> String {
        let parts = self.after.as_object().into_iter().flatten();
        let parts = parts.filter(|(key, after)| !holds(&self.before[*key], after));
        let parts: Vec<String> = parts
            .map(|(key, after)| match &self.before[key] {
                // A header may be a secret in plain text.
                _ if key == "request_headers" => {
                    let headers = after.as_object().into_iter().flat_map(Map::keys);
                    let headers: Vec<&str> = headers.map(String::as_str).collect();
                    format!("the header {} is another", headers.join(", "))
                }
                Value::Null => format!("{key} is missing"),
                before => format!("{key} {before} → {after}"),
            })
            .collect();
        parts.join(", ")
    }
}

/// What is at this place.
pub(super) fn at<'a>(settings: &'a Value, path: &[&str]) -> &'a Value {
    path.iter().fold(settings, |value, key| &value[*key])
}

/// One object with a value at each path: what a server merges into what it has.
#[must_use]
pub fn merged<'a>(values: impl IntoIterator<Item = (&'a [String], Value)>) -> Value {
    let mut whole = Value::Object(Map::new());
    for (path, value) in values {
        let place = path.iter().fold(&mut whole, |object, key| {
            if !object.is_object() {
                *object = Value::Object(Map::new());
            }
            &mut object[key.as_str()]
        });
        *place = value;
    }
    whole
}
