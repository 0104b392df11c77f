//! What a ring is answered with: the guide's three cases.
//!
//! ElevenLabs ends a call when a dynamic variable that the agent declares is
//! missing, and when a `first_message` override comes for an agent that
//! forbids it. Both are avoided here, wherever the agent's profile is known.

use std::borrow::Cow;
use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::Value;

use super::agent_profile::AgentProfile;
use super::caller_id::CallerId;
use super::language::Language;
use super::profile::{ConversationState, UniversalProfile};

/// The body of the answer to `POST /webhook/client-data`. It borrows what is
/// known: a ring has no time for copies.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Personalization<'a> {
    #[serde(rename = "type")]
    kind: &'static str,
    /// The caller's id: ElevenLabs keeps it with the conversation, which is found by
    /// it later (`GET /v1/convai/conversations?user_id=`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user_id: Option<&'a str>,
    /// Values for the agent's dynamic variables.
    pub dynamic_variables: BTreeMap<&'a str, Variable<'a>>,
    /// What the agent is to do otherwise than usual, where it permits that.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub conversation_config_override: Option<ConfigOverride<'a>>,
}

impl<'a> Personalization<'a> {
    /// With the id of who calls.
    #[must_use]
    pub fn of(self, caller: &'a CallerId) -> Self {
        Self {
            user_id: Some(caller.as_str()),
            ..self
        }
    }
}

/// The value of a dynamic variable.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(untagged)]
pub enum Variable<'a> {
    /// What we know.
    Known(Cow<'a, str>),
    /// The agent's own placeholder for what we don't.
    Placeholder(&'a Value),
}

/// `conversation_config_override`: only what an agent permits, for what it forbids
/// ends the call.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct ConfigOverride<'a> {
    /// The agent's part of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub agent: Option<AgentOverride<'a>>,
    /// What is listened for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub asr: Option<AsrOverride<'a>>,
}

/// `conversation_config_override.agent`
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct AgentOverride<'a> {
    /// What the agent says first.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub first_message: Option<Cow<'a, str>>,
    /// The language of the call.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub language: Option<&'a str>,
}

/// `conversation_config_override.asr`
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct AsrOverride<'a> {
    /// Words that are recognised better: the agent's own, and the caller's name.
    pub keywords: Vec<&'a str>,
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
pub fn personalize<'a>(
    profile: Option<&'a UniversalProfile>,
    state: Option<&'a ConversationState>,
    agent: Option<&'a AgentProfile>,
) -> (Recognition, Personalization<'a>) {
    let mut variables = Variables::declared_by(agent);
    variables.set("user_name", name_of(profile).map(Cow::Borrowed));
    let mut greeting = None;
    if let Some(state) = state {
        let summary = state.conversation_summary.as_deref();
        let summary = summary.filter(|summary| !summary.contains("{{"));
        variables.set("last_call_summary", summary.map(Cow::Borrowed));
        let sentiment = state.sentiment.map(|s| s.as_str());
        variables.set("user_sentiment", sentiment.map(Cow::Borrowed));
        let language = state.language.as_ref().map(|l| Cow::Borrowed(l.as_str()));
        variables.set("user_language", language);
        let topics = (!state.key_topics.is_empty()).then(|| state.key_topics.join(", "));
        variables.set("key_topics", topics.map(Cow::Owned));
        // Stored greetings are checked already; one that could be read as a
        // template would end the call, so it is checked again where it leaves.
        greeting = state
            .next_greeting
            .as_deref()
            .filter(|g| !g.contains("{{") && !g.trim().is_empty())
            .map(Cow::Borrowed);
    }
    let recognition = match (&greeting, profile) {
        (Some(_), _) => Recognition::Greeting,
        (None, Some(_)) => Recognition::Profile,
        (None, None) => Recognition::Unknown,
    };
    let language = state.and_then(|state| state.language.as_ref());
    (
        recognition,
        answer(variables, greeting, profile, language, agent),
    )
}

/// Answers a ring as the legacy system did, from a single tier: who the
/// caller is, and a first message with the agent's own name (guide, "Rollback
/// Plan"). What was said is still told only to the agent it was said to.
#[must_use]
pub fn personalize_single_tier<'a>(
    profile: Option<&'a UniversalProfile>,
    state: Option<&'a ConversationState>,
    agent: Option<&'a AgentProfile>,
) -> (Recognition, Personalization<'a>) {
    let mut variables = Variables::declared_by(agent);
    let name = name_of(profile);
    variables.set("user_name", name.map(Cow::Borrowed));
    variables.set("user_profile_summary", profile.map(summary).map(Cow::Owned));
    let last_call = state.and_then(|s| s.conversation_summary.as_deref());
    variables.set("last_call_summary", last_call.map(Cow::Borrowed));
    let greeting = name.map(|name| match agent.and_then(|a| a.name.as_deref()) {
        Some(agent) => format!("Hello {name}, this is {agent}. How can I help you today?"),
        None => format!("Hello {name}, good to hear from you again. How can I help you today?"),
    });
    let recognition = if profile.is_some() {
        Recognition::Profile
    } else {
        Recognition::Unknown
    };
    let speakable = greeting.filter(|g| !g.contains("{{")).map(Cow::Owned);
    (
        recognition,
        answer(variables, speakable, profile, None, agent),
    )
}

fn name_of(profile: Option<&UniversalProfile>) -> Option<&str> {
    profile.and_then(|p| p.name.as_ref()).map(|n| n.as_str())
}

fn summary(profile: &UniversalProfile) -> String {
    let who = profile.name.as_ref().map_or("The caller", |n| n.as_str());
    let times = match profile.total_interactions {
        // Legacy memories may not tell their calls; somebody has called.
        0 | 1 => "once".to_owned(),
        n => format!("{n} times"),
    };
    format!(
        "{who} has called {times} since {}.",
        profile.first_seen.strftime("%Y-%m-%d")
    )
}

/// Dynamic variables, beginning with the agent's own placeholders.
struct Variables<'a>(BTreeMap<&'a str, Variable<'a>>);

impl<'a> Variables<'a> {
    fn declared_by(agent: Option<&'a AgentProfile>) -> Self {
        let declared = agent.into_iter().flat_map(|agent| &agent.placeholders);
        Self(
            declared
                .map(|(key, value)| (key.as_str(), Variable::Placeholder(value)))
                .collect(),
        )
    }

    fn set(&mut self, key: &'a str, value: Option<Cow<'a, str>>) {
        if let Some(value) = value {
            self.0.insert(key, Variable::Known(value));
        }
    }
}

/// With the greeting as an override if the agent permits that, else as a variable.
fn answer<'a>(
    mut variables: Variables<'a>,
    mut greeting: Option<Cow<'a, str>>,
    profile: Option<&'a UniversalProfile>,
    language: Option<&'a Language>,
    agent: Option<&'a AgentProfile>,
) -> Personalization<'a> {
    if agent.is_some_and(|a| !a.first_message_override) {
        variables.set("next_greeting", greeting.take());
    }
    let language = language.and_then(|language| spoken(language, agent?));
    let agent_override = (greeting.is_some() || language.is_some()).then_some(AgentOverride {
        first_message: greeting,
        language,
    });
    let asr = name_of(profile).and_then(|name| listened_for(name, agent?));
    Personalization {
        kind: "conversation_initiation_client_data",
        user_id: None,
        dynamic_variables: variables.0,
        conversation_config_override: (agent_override.is_some() || asr.is_some()).then_some(
            ConfigOverride {
                agent: agent_override,
                asr,
            },
        ),
    }
}

/// The language of the last call, if the agent speaks it and not from the start.
fn spoken<'a>(language: &Language, agent: &'a AgentProfile) -> Option<&'a str> {
    let of = |code: &Language| code.as_str().split('-').next().map(str::to_owned);
    let spoken = agent.languages.iter();
    let mut spoken = spoken.filter(|l| *l == language || of(l) == of(language));
    let spoken = spoken.next().filter(|_| agent.language_override)?;
    (Some(spoken) != agent.languages.first()).then(|| spoken.as_str())
}

/// What the agent listens for, with the caller's name.
fn listened_for<'a>(name: &'a str, agent: &'a AgentProfile) -> Option<AsrOverride<'a>> {
    agent.keywords_override.then(|| {
        let own = agent.keywords.iter().map(String::as_str);
        AsrOverride {
            keywords: own.filter(|word| *word != name).chain([name]).collect(),
        }
    })
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;
    use serde_json::json;

    use super::*;
    use crate::domain::greeting::Sentiment;
    use crate::domain::name::CallerName;

    fn profile(name: Option<&str>) -> UniversalProfile {
        UniversalProfile {
            phone_number: CallerId::parse("+16125550101").unwrap(),
            name: name.map(|n| CallerName::parse(n).unwrap()),
            name_source: None,
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
            language: None,
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
        (recognition, answer): (Recognition, Personalization<'_>),
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
        check(
            personalize(
                Some(&profile(None)),
                Some(&state(Some("Hi!"))),
                Some(&agent(false)),
            ),
            Recognition::Greeting,
            &json!({"dynamic_variables": {"user_name": "there", "account_tier": "basic", "visits": 0,
                "last_call_summary": "Nora plans a bed.", "user_sentiment": "positive",
                "key_topics": "tomatoes, raised beds", "next_greeting": "Hi!"}}),
        );
    }

    #[test]
    fn languages_and_keywords_go_to_agents_that_permit_them() {
        let language = |code: &str| Language::parse(code).unwrap();
        let known = profile(Some("Aoife"));
        let spoken = ConversationState {
            language: Some(language("pt")),
            ..state(None)
        };
        let check = |agent: &AgentProfile, expected: Value| {
            let (_, answer) = personalize(Some(&known), Some(&spoken), Some(agent));
            assert_eq!(
                answer.dynamic_variables["user_language"],
                Variable::Known("pt".into())
            );
            let json = serde_json::to_value(answer).unwrap();
            assert_eq!(json["conversation_config_override"], expected);
        };
        let forbids = AgentProfile {
            languages: vec![language("en"), language("pt-br")],
            keywords: vec!["Eircode".into()],
            ..agent(true)
        };
        check(&forbids, Value::Null);
        let permits = AgentProfile {
            language_override: true,
            keywords_override: true,
            ..forbids
        };
        let keywords = json!({"keywords": ["Eircode", "Aoife"]});
        check(
            &permits,
            json!({"agent": {"language": "pt-br"}, "asr": keywords}),
        );
        // Neither a language that it does not speak, nor the one that it speaks anyway.
        for languages in [vec![language("en")], vec![language("pt"), language("en")]] {
            let agent = AgentProfile {
                languages,
                ..permits.clone()
            };
            check(&agent, json!({"asr": keywords}));
        }
    }

    #[test]
    fn a_single_tier_greets_with_the_agents_own_name() {
        let margaret = AgentProfile {
            name: Some("Margaret".into()),
            first_message_override: true,
            ..AgentProfile::default()
        };
        let (known, greeted) = (profile(Some("Nora")), state(Some("Hi!")));
        let (_, answer) = personalize_single_tier(Some(&known), Some(&greeted), Some(&margaret));
        assert_eq!(
            serde_json::to_value(answer).unwrap(),
            json!({
                "type": "conversation_initiation_client_data",
                "dynamic_variables": {"user_name": "Nora", "last_call_summary": "Nora plans a bed.",
                    "user_profile_summary": "Nora has called once since 1970-01-01."},
                "conversation_config_override": {"agent": {
                    "first_message": "Hello Nora, this is Margaret. How can I help you today?"}},
            })
        );
        let uncounted = UniversalProfile {
            total_interactions: 0,
            ..profile(Some("Nora"))
        };
        assert_eq!(
            summary(&uncounted),
            "Nora has called once since 1970-01-01."
        );
        let nameless = profile(None);
        let (_, unnamed) = personalize_single_tier(Some(&nameless), None, Some(&margaret));
        assert_eq!(unnamed.conversation_config_override, None);
    }

    #[test]
    fn a_greeting_that_reads_as_a_template_is_never_sent() {
        let (known, template) = (profile(None), state(Some("Hi {{user_name}}")));
        let (recognition, answer) = personalize(Some(&known), Some(&template), None);
        assert_eq!(recognition, Recognition::Profile);
        assert_eq!(answer.conversation_config_override, None);
    }
}
