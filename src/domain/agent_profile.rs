//! What we know of an ElevenLabs agent: `GET /v1/convai/agents/{id}`, read leniently.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::ids::AgentId;
use super::language::Language;

/// How much of an agent's system prompt is kept, in characters.
const MAX_PROMPT_CHARS: usize = 1_000;
/// Longest first message kept, in characters.
const MAX_FIRST_MESSAGE_CHARS: usize = 1_000;

/// Most words kept that an agent listens for.
const MAX_KEYWORDS: usize = 100;
/// Longest of them kept, in characters.
const MAX_KEYWORD_CHARS: usize = 100;

/// An agent's settings, as far as greetings and rings need them.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct AgentProfile {
    /// Its display name.
    pub name: Option<String>,
    /// What it says first unless overridden.
    pub first_message: Option<String>,
    /// The beginning of its system prompt.
    pub system_prompt: Option<String>,
    /// The dynamic variables it declares, with its own placeholder values.
    /// ElevenLabs ends a call in which a declared variable is missing.
    pub placeholders: Map<String, Value>,
    /// False if the agent forbids overriding its first message; ElevenLabs
    /// then ends a call in which an override comes nevertheless.
    pub first_message_override: bool,
    /// Whether the agent permits another language than its own.
    #[serde(default)]
    pub language_override: bool,
    /// The languages that it speaks: its own first, then those it is prepared for.
    #[serde(default)]
    pub languages: Vec<Language>,
    /// Whether the agent permits other words to be listened for.
    #[serde(default)]
    pub keywords_override: bool,
    /// The words that it listens for.
    #[serde(default)]
    pub keywords: Vec<String>,
}

impl AgentProfile {
    /// Reads the answer of ElevenLabs' agent endpoint. Whatever is missing or
    /// of another type counts as absent.
    #[must_use]
    pub fn from_response(response: &Value) -> Self {
        let agent = &response["conversation_config"]["agent"];
        let overrides = &response["platform_settings"]["overrides"]["conversation_config_override"];
        let text = |value: &Value, limit: usize| {
            value
                .as_str()
                .map(str::trim)
                .filter(|s| !s.is_empty())
                .map(|s| s.chars().take(limit).collect::<String>())
        };
        let config = &response["conversation_config"];
        let presets = config["language_presets"].as_object();
        let languages = agent["language"].as_str().into_iter();
        let languages = languages.chain(
            presets
                .into_iter()
                .flat_map(|p| p.keys().map(String::as_str)),
        );
        let keywords = config["asr"]["keywords"].as_array().into_iter().flatten();
        let placeholders = agent["dynamic_variables"]["dynamic_variable_placeholders"]
            .as_object()
            .map(declared)
            .unwrap_or_default();
        Self {
            name: text(&response["name"], 200),
            first_message: text(&agent["first_message"], MAX_FIRST_MESSAGE_CHARS),
            system_prompt: text(&agent["prompt"]["prompt"], MAX_PROMPT_CHARS),
            placeholders,
            first_message_override: overrides["agent"]["first_message"] != Value::Bool(false),
            language_override: overrides["agent"]["language"] == Value::Bool(true),
            languages: languages
                .filter_map(|code| Language::parse(code).ok())
                .collect(),
            keywords_override: overrides["asr"]["keywords"] == Value::Bool(true),
            keywords: keywords
                .filter_map(|word| text(word, MAX_KEYWORD_CHARS))
                .take(MAX_KEYWORDS)
                .collect(),
        }
    }

    /// The display name, else the id.
    #[must_use]
    pub fn name_or<'a>(&'a self, id: &'a AgentId) -> &'a str {
        self.name.as_deref().unwrap_or(id.as_str())
    }
}

/// ElevenLabs sets `system__…` itself and takes only strings, numbers and booleans.
fn declared(placeholders: &Map<String, Value>) -> Map<String, Value> {
    placeholders
        .iter()
        .filter(|(key, _)| !key.starts_with("system__"))
        .map(|(key, value)| {
            let value = match value {
                Value::String(_) | Value::Number(_) | Value::Bool(_) => value.clone(),
                _ => Value::String(String::new()),
            };
            (key.clone(), value)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_empty_or_odd_answer_is_a_profile_that_permits() {
        for odd in [
            json!({}),
            json!(null),
            json!({"conversation_config": 7, "platform_settings": []}),
        ] {
            let profile = AgentProfile::from_response(&odd);
            assert!(
                profile.first_message_override && profile.placeholders.is_empty(),
                "{odd}"
            );
        }
    }

    #[test]
    fn languages_and_keywords_are_read_and_permitted_only_expressly() {
        let mut answer = json!({"conversation_config": {
            "asr": {"keywords": ["Eircode", 7, " "]}, "language_presets": {"pt-br": {}, "klingon": {}},
            "agent": {"language": "en"}}});
        let profile = AgentProfile::from_response(&answer);
        let languages: Vec<&str> = profile.languages.iter().map(Language::as_str).collect();
        assert_eq!(
            (languages, profile.keywords),
            (vec!["en", "pt-br"], vec!["Eircode".to_owned()])
        );
        assert!(!profile.language_override && !profile.keywords_override);
        answer["platform_settings"]["overrides"]["conversation_config_override"] =
            json!({"agent": {"language": true}, "asr": {"keywords": true}});
        let profile = AgentProfile::from_response(&answer);
        assert!(profile.language_override && profile.keywords_override);
    }

    #[test]
    fn placeholders_keep_their_types() {
        let profile = AgentProfile::from_response(
            &json!({"conversation_config": {"agent": {"dynamic_variables": {
            "dynamic_variable_placeholders": {"vip": false, "visits": 0, "user_name": "there", "x": null, "system__time": "t"}}}}}),
        );
        assert_eq!(
            Value::Object(profile.placeholders),
            json!({"vip": false, "visits": 0, "user_name": "there", "x": ""})
        );
    }
}
