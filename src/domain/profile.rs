//! The two tiers (guide, "Overview") and how a call changes them.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::caller_id::CallerId;
use super::greeting::{Greeting, Sentiment};
use super::language::Language;
use super::learning::Learning;
use super::name::{CallerName, Evidence, NameSource};

/// Tier 1: who a caller is, shared by all agents.
#[derive(Debug, Clone, PartialEq)]
pub struct UniversalProfile {
    /// The caller itself.
    pub phone_number: CallerId,
    /// Set by the first call that tells it. A later call replaces only a name
    /// that was doubtful, or that the caller corrects.
    pub name: Option<CallerName>,
    /// Who set the name and from which call; `None` if that was before sources
    /// were kept.
    pub name_source: Option<NameSource>,
    /// Start of the earliest call learned.
    pub first_seen: Timestamp,
    /// Calls learned, over all agents.
    pub total_interactions: u64,
}

impl UniversalProfile {
    /// The profile after one more call.
    #[must_use]
    pub fn after_call(known: Option<Self>, learning: &Learning) -> Self {
        let mut profile = known.unwrap_or_else(|| Self {
            phone_number: learning.caller.clone(),
            name: None,
            name_source: None,
            first_seen: learning.started_at,
            total_interactions: 0,
        });
        profile.total_interactions += 1;
        profile.first_seen = profile.first_seen.min(learning.started_at);
        let told = learning
            .naming
            .replaces(profile.name.as_ref(), profile.name_source.as_ref());
        if let Some((name, evidence)) = told {
            profile.set_name(
                name,
                NameSource {
                    evidence,
                    conversation_id: Some(learning.conversation_id.clone()),
                    at: learning.started_at,
                },
            );
        }
        profile
    }

    /// One person's two profiles: the name of this one stands, unless it has
    /// none or an operator entered the other. Returns the name that gives way.
    pub fn take_name_of(&mut self, other: Self) -> Option<CallerName> {
        let is_operators = |source: &Option<NameSource>| {
            source
                .as_ref()
                .is_some_and(|s| s.evidence == Evidence::Operator)
        };
        let theirs = other.name?;
        let takes = self.name.is_none()
            || (is_operators(&other.name_source) && !is_operators(&self.name_source));
        let loser = if takes {
            self.name_source = other.name_source;
            self.name.replace(theirs)
        } else {
            Some(theirs)
        };
        loser.filter(|loser| Some(loser) != self.name.as_ref())
    }

    /// Sets the name; returns another one that was known before.
    pub fn set_name(&mut self, name: CallerName, source: NameSource) -> Option<CallerName> {
        self.name_source = Some(source);
        let old = self.name.replace(name)?;
        (Some(&old) != self.name.as_ref()).then_some(old)
    }
}

/// The order of two calls of one caller: by their start, then by arrival.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct CallOrder {
    /// When the call started.
    pub started_at: Timestamp,
    /// Position in the inbox; decides between calls of the same second.
    pub arrival: i64,
}

/// Tier 2: what one agent and one caller share. No other agent sees it.
#[derive(Debug, Clone, PartialEq)]
pub struct ConversationState {
    /// Calls of this caller with this agent.
    pub conversation_count: u64,
    /// Start of the latest call.
    pub last_call_date: Timestamp,
    /// What the agent says first next time.
    pub next_greeting: Option<String>,
    /// Topics of the last call, at most five.
    pub key_topics: Vec<String>,
    /// The caller's mood in the last call.
    pub sentiment: Option<Sentiment>,
    /// The last call in a sentence or two.
    pub conversation_summary: Option<String>,
    /// The call from which the greeting was made.
    pub greeted_from: Option<CallOrder>,
    /// The language of the latest call, where that is known.
    pub language: Option<Language>,
}

impl ConversationState {
    /// The state after one more call, its greeting still being that of an earlier one.
    #[must_use]
    pub fn after_call(known: Option<Self>, learning: &Learning) -> Self {
        let mut state = known.unwrap_or_else(|| Self {
            conversation_count: 0,
            last_call_date: learning.started_at,
            next_greeting: None,
            key_topics: Vec::new(),
            sentiment: None,
            conversation_summary: None,
            greeted_from: None,
            language: None,
        });
        state.conversation_count += 1;
        if learning.started_at >= state.last_call_date && learning.language.is_some() {
            state.language.clone_from(&learning.language);
        }
        state.last_call_date = state.last_call_date.max(learning.started_at);
        state
    }

    /// Whether a greeting made from `call` may replace the present one: an
    /// older call delivered late never overwrites a newer greeting.
    fn accepts_greeting_of(&self, call: CallOrder) -> bool {
        self.greeted_from.is_none_or(|known| known <= call)
    }

    /// Whether a greeting is still to be made from `call`: neither a newer
    /// call's nor its own is here.
    #[must_use]
    pub fn lacks_greeting_of(&self, call: CallOrder) -> bool {
        self.greeted_from.is_none_or(|known| known < call)
    }

    /// Drops the greeting and summary if they speak `name`, which was wrong.
    /// True if there was something to drop.
    pub fn forget_name(&mut self, name: &CallerName) -> bool {
        let mut dropped = false;
        for text in [&mut self.next_greeting, &mut self.conversation_summary] {
            if text
                .as_ref()
                .is_some_and(|text| name.is_spoken_in(text, None))
            {
                *text = None;
                dropped = true;
            }
        }
        let topics = self.key_topics.len();
        self.key_topics
            .retain(|topic| !name.is_spoken_in(topic, None));
        dropped || self.key_topics.len() < topics
    }

    /// The state of one person who called from two numbers: the calls of both,
    /// and the greeting of the newer one.
    #[must_use]
    pub fn merged_with(&self, other: Self) -> Self {
        let calls = self.conversation_count + other.conversation_count;
        let last_call_date = self.last_call_date.max(other.last_call_date);
        let language = if other.last_call_date > self.last_call_date {
            other.language.clone().or_else(|| self.language.clone())
        } else {
            self.language.clone().or_else(|| other.language.clone())
        };
        let newer = if other.greeted_from > self.greeted_from {
            other
        } else {
            self.clone()
        };
        Self {
            language,
            conversation_count: calls,
            last_call_date,
            ..newer
        }
    }

    /// The state with a new greeting, or `None` if it is older than the present one.
    #[must_use]
    pub fn with_greeting(&self, greeting: &Greeting, call: CallOrder) -> Option<Self> {
        self.accepts_greeting_of(call).then(|| Self {
            conversation_count: self.conversation_count,
            last_call_date: self.last_call_date,
            next_greeting: greeting.next_greeting.clone(),
            key_topics: greeting.key_topics.clone(),
            sentiment: greeting.sentiment,
            conversation_summary: greeting.conversation_summary.clone(),
            greeted_from: Some(call),
            language: self.language.clone(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::ids::{AgentId, ConversationId};
    use crate::domain::name::Naming;

    fn learning(started: i64, name: Option<&str>) -> Learning {
        Learning {
            conversation_id: ConversationId::parse("c").unwrap(),
            caller: CallerId::parse("+16125550101").unwrap(),
            agent: AgentId::parse("a").unwrap(),
            started_at: Timestamp::from_second(started).unwrap(),
            language: None,
            naming: Naming {
                given: name.map(|n| (CallerName::parse(n).unwrap(), Evidence::Stated)),
                correction: None,
            },
            memories: Vec::new(),
        }
    }

    #[test]
    fn a_second_name_never_replaces_the_first() {
        let first = UniversalProfile::after_call(None, &learning(100, None));
        let named = UniversalProfile::after_call(Some(first), &learning(200, Some("Nora")));
        let again = UniversalProfile::after_call(Some(named), &learning(50, Some("Tom")));
        assert_eq!(again.name.unwrap().as_str(), "Nora");
        assert_eq!(again.total_interactions, 3);
        assert_eq!(again.first_seen.as_second(), 50);
    }

    #[test]
    fn an_older_call_never_overwrites_a_newer_greeting() {
        let order = |started, arrival| CallOrder {
            started_at: Timestamp::from_second(started).unwrap(),
            arrival,
        };
        let text = |t: &str| Greeting {
            next_greeting: Some(t.into()),
            ..Greeting::default()
        };
        let state = ConversationState::after_call(None, &learning(100, None));
        let state = state.with_greeting(&text("newer"), order(200, 1)).unwrap();
        assert_eq!(state.with_greeting(&text("older"), order(100, 2)), None);
        // Same second: the one that arrived later.
        assert_eq!(state.with_greeting(&text("late"), order(200, 0)), None);
        let state = state.with_greeting(&text("next"), order(200, 2)).unwrap();
        assert_eq!(state.next_greeting.as_deref(), Some("next"));
    }
}
