//! Both tiers of a caller together, and the changes that touch both.
//!
//! What a call changes is in [`profile`](super::profile). Every store applies
//! these rules and keeps what comes out; none has rules of its own.

use super::caller_id::CallerId;
use super::greeting::Greeting;
use super::ids::AgentId;
use super::name::CallerName;
use super::profile::{CallOrder, ConversationState, UniversalProfile};

/// All that is known of a caller but the memories.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Tiers {
    /// Tier 1. `None` for a caller whom nobody knows.
    pub profile: Option<UniversalProfile>,
    /// Tier 2 of each agent.
    pub states: Vec<(AgentId, ConversationState)>,
}

/// What learning a call led to.
#[derive(Debug, Clone, PartialEq)]
pub struct Learned {
    /// False if this conversation had been learned before.
    pub applied: bool,
    /// Tier 1 as it is now.
    pub profile: UniversalProfile,
    /// Tier 2 of the call's agent as it is now.
    pub state: ConversationState,
}

/// A greeting to be stored.
#[derive(Debug, Clone)]
pub struct NewGreeting {
    /// For whom.
    pub caller: CallerId,
    /// From whom.
    pub agent: AgentId,
    /// The order of the call that it is made from.
    pub order: CallOrder,
    /// The greeting and what came with it.
    pub greeting: Greeting,
    /// A name that the caller was heard to say, for a profile that has none.
    pub name: Option<CallerName>,
}

/// Both tiers after a greeting was offered.
#[derive(Debug, Clone, PartialEq)]
pub struct Greeted {
    /// Tier 1 has changed: it had no name, and the greeting came with one.
    pub named: bool,
    /// Tier 2 has changed. False if a newer call's greeting was there already.
    pub stored: bool,
    /// Tier 1 as it is now.
    pub profile: UniversalProfile,
    /// Tier 2 as it is now.
    pub state: ConversationState,
}

impl Greeted {
    /// What `new` makes of both tiers. The name counts even if the greeting
    /// comes too late.
    #[must_use]
    pub fn by(mut profile: UniversalProfile, state: ConversationState, new: &NewGreeting) -> Self {
        let named = profile.name.is_none() && new.name.is_some();
        if named {
            profile.name.clone_from(&new.name);
        }
        let greeted = state.with_greeting(&new.greeting, new.order);
        Self {
            named,
            stored: greeted.is_some(),
            profile,
            state: greeted.unwrap_or(state),
        }
    }
}

/// A caller with a new name.
#[derive(Debug, Clone, PartialEq)]
pub struct Renamed {
    /// Tier 1 as it is now.
    pub profile: UniversalProfile,
    /// All of Tier 2 as it is now.
    pub states: Vec<(AgentId, ConversationState)>,
    /// Those whose Tier 2 spoke the old name and has lost what did.
    pub changed: Vec<AgentId>,
}

impl Renamed {
    /// What a new name makes of both tiers.
    #[must_use]
    pub fn to(
        name: &CallerName,
        mut profile: UniversalProfile,
        mut states: Vec<(AgentId, ConversationState)>,
    ) -> Self {
        let old = profile.name.replace(name.clone());
        let mut changed = Vec::new();
        if let Some(old) = old.filter(|old| old != name) {
            for (agent, state) in &mut states {
                if state.forget_name(&old) {
                    changed.push(agent.clone());
                }
            }
        }
        Self {
            profile,
            states,
            changed,
        }
    }
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;

    fn profile(name: Option<&str>) -> UniversalProfile {
        UniversalProfile {
            phone_number: CallerId::parse("+16125550101").unwrap(),
            name: name.map(|n| CallerName::parse(n).unwrap()),
            first_seen: Timestamp::UNIX_EPOCH,
            total_interactions: 1,
        }
    }

    fn state(greeting: &str, started: i64) -> ConversationState {
        ConversationState {
            conversation_count: 1,
            last_call_date: Timestamp::UNIX_EPOCH,
            next_greeting: Some(greeting.into()),
            key_topics: Vec::new(),
            sentiment: None,
            conversation_summary: None,
            greeted_from: Some(order(started)),
        }
    }

    fn order(started: i64) -> CallOrder {
        CallOrder {
            started_at: Timestamp::from_second(started).unwrap(),
            arrival: 0,
        }
    }

    #[test]
    fn a_name_counts_even_if_its_greeting_comes_too_late() {
        let new = NewGreeting {
            caller: CallerId::parse("+16125550101").unwrap(),
            agent: AgentId::parse("a").unwrap(),
            order: order(100),
            greeting: Greeting::default(),
            name: CallerName::parse("Nora").ok(),
        };
        let late = Greeted::by(profile(None), state("newer", 200), &new);
        assert!(late.named && !late.stored);
        assert_eq!(late.state.next_greeting.as_deref(), Some("newer"));
        let known = Greeted::by(profile(Some("Tom")), state("older", 50), &new);
        assert!(!known.named && known.stored);
        assert_eq!(known.profile.name.unwrap().as_str(), "Tom");
    }

    #[test]
    fn a_new_name_drops_what_speaks_the_old_one_and_nothing_else() {
        let states = ["Hello Nora!", "Hello!"].map(|text| {
            let agent = AgentId::parse(&format!("agent {}", text.len())).unwrap();
            (agent, state(text, 1))
        });
        let name = CallerName::parse("Nina").unwrap();
        let renamed = Renamed::to(&name, profile(Some("Nora")), states.to_vec());
        assert_eq!(renamed.changed, [states[0].0.clone()]);
        assert_eq!(renamed.states[0].1.next_greeting, None);
        assert_eq!(renamed.states[1], states[1]);
        let again = Renamed::to(&name, renamed.profile, renamed.states);
        assert!(again.changed.is_empty());
    }
}
