//! What a ring is answered with: the guide's three cases.
//!
//! ElevenLabs ends a call when a dynamic variable that the agent declares is
//! missing, and when a `first_message` override comes for an agent that
//! forbids it. Both are avoided here, wherever the agent's profile is known.

use serde::Serialize;
use serde_json::{Map, Value};

use super::agent_profile::AgentProfile;
use super::profile::{ConversationState, UniversalProfile};

/// The body of the answer to `POST /webhook/client-data`.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Personalization {
    #[serde(rename = "type")]
    kind: &'static str,
    /// Values for the agent's dynamic variables.
    pub dynamic_variables: Map<String, Value>,
    /// Present if the agent is to open with a greeting of our own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub conversation_config_override: Option<ConfigOverride>,
}

/// `conversation_config_override`
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ConfigOverride {
    /// The agent's part of it.
    pub agent: AgentOverride,
}

/// `conversation_config_override.agent`
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct AgentOverride {
    /// What the agent says first.
    pub first_message: String,
}

/// Which of the guide's cases a ring is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Recognition {
    /// Tier 2 holds a greeting of this agent for this caller.
    Greeting,
    /// Tier 1 knows the caller, but this agent has no greeting.
    Profile,
    /// Nobody knows the caller.
    Unknown,
}

/// Answers a ring from what is known.
#[must_use]
pub fn personalize(
    profile: Option<&UniversalProfile>,
    state: Option<&ConversationState>,
    agent: Option<&AgentProfile>,
) -> (Recognition, Personalization) {
    let mut variables = Map::new();
    if let Some(agent) = agent {
        variables.clone_from(&agent.placeholders);
    }
    let mut set = |key: &str, value: Option<String>| {
        if let Some(value) = value {
            variables.insert(key.to_owned(), Value::String(value));
        }
    };
    set(
        "user_name",
        profile
            .and_then(|p| p.name.as_ref())
            .map(ToString::to_string),
    );
    let mut greeting = None;
    if let Some(state) = state {
        set("last_call_summary", state.conversation_summary.clone());
        set(
            "user_sentiment",
            state.sentiment.map(|s| s.as_str().to_owned()),
        );
        set(
            "key_topics",
            (!state.key_topics.is_empty()).then(|| state.key_topics.join(", ")),
        );
        // Stored greetings are checked already; one that could be read as a
        // template would end the call, so it is checked again where it leaves.
        greeting = state
            .next_greeting
            .clone()
            .filter(|g| !g.contains("{{") && !g.trim().is_empty());
    }
    let recognition = match (&greeting, profile) {
        (Some(_), _) => Recognition::Greeting,
        (None, Some(_)) => Recognition::Profile,
        (None, None) => Recognition::Unknown,
    };
    let permitted = agent.is_none_or(|a| a.first_message_override);
    if !permitted {
        set("next_greeting", greeting.take());
    }
    let answer = Personalization {
        kind: "conversation_initiation_client_data",
        dynamic_variables: variables,
        conversation_config_override: greeting.map(|first_message| ConfigOverride {
            agent: AgentOverride { first_message },
        }),
    };
    (recognition, answer)
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;
    use serde_json::json;

    use super::*;
    use crate::domain::caller_id::CallerId;
    use crate::domain::greeting::Sentiment;
    use crate::domain::name::CallerName;

    fn profile(name: Option<&str>) -> UniversalProfile {
        UniversalProfile {
            phone_number: CallerId::parse("+16125550101").unwrap(),
            name: name.map(|n| CallerName::parse(n).unwrap()),
            first_seen: Timestamp::UNIX_EPOCH,
            total_interactions: 1,
        }
    }

    fn state(greeting: Option<&str>) -> ConversationState {
        ConversationState {
            conversation_count: 1,
            last_call_date: Timestamp::UNIX_EPOCH,
            next_greeting: greeting.map(Into::into),
            key_topics: vec!["tomatoes".into(), "raised beds".into()],
            sentiment: Some(Sentiment::Positive),
            conversation_summary: Some("Nora plans a bed.".into()),
            greeted_from: None,
        }
    }

    fn agent(overridable: bool) -> AgentProfile {
        let placeholders = json!({"user_name": "there", "account_tier": "basic", "visits": 0});
        AgentProfile {
            placeholders: placeholders.as_object().unwrap().clone(),
            first_message_override: overridable,
            ..AgentProfile::default()
        }
    }

    fn check(
        (recognition, answer): (Recognition, Personalization),
        expected: Recognition,
        json: &Value,
    ) {
        let mut json = json.clone();
        json["type"] = "conversation_initiation_client_data".into();
        assert_eq!(recognition, expected);
        assert_eq!(serde_json::to_value(answer).unwrap(), json);
    }

    #[test]
    fn a_known_greeting_comes_with_all_that_is_known() {
        check(
            personalize(
                Some(&profile(Some("Nora"))),
                Some(&state(Some("Hi Nora!"))),
                None,
            ),
            Recognition::Greeting,
            &json!({
                "dynamic_variables": {"user_name": "Nora", "last_call_summary": "Nora plans a bed.",
                    "user_sentiment": "positive", "key_topics": "tomatoes, raised beds"},
                "conversation_config_override": {"agent": {"first_message": "Hi Nora!"}},
            }),
        );
    }

    #[test]
    fn another_agent_knows_the_name_and_nothing_else() {
        check(
            personalize(Some(&profile(Some("Nora"))), None, None),
            Recognition::Profile,
            &json!({"dynamic_variables": {"user_name": "Nora"}}),
        );
    }

    #[test]
    fn an_unknown_caller_gets_the_agents_defaults() {
        check(
            personalize(None, None, None),
            Recognition::Unknown,
            &json!({"dynamic_variables": {}}),
        );
        check(
            personalize(None, None, Some(&agent(true))),
            Recognition::Unknown,
            &json!({"dynamic_variables": {"user_name": "there", "account_tier": "basic", "visits": 0}}),
        );
    }

    #[test]
    fn an_agent_that_forbids_overrides_gets_a_variable_instead() {
        let (_, answer) = personalize(
            Some(&profile(None)),
            Some(&state(Some("Hi!"))),
            Some(&agent(false)),
        );
        assert_eq!(answer.conversation_config_override, None);
        assert_eq!(answer.dynamic_variables["next_greeting"], "Hi!");
        assert_eq!(answer.dynamic_variables["user_name"], "there");
    }

    #[test]
    fn a_greeting_that_reads_as_a_template_is_never_sent() {
        let (recognition, answer) = personalize(
            Some(&profile(None)),
            Some(&state(Some("Hi {{user_name}}"))),
            None,
        );
        assert_eq!(recognition, Recognition::Profile);
        assert_eq!(answer.conversation_config_override, None);
    }
}
