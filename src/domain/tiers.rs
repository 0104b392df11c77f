//! Both tiers of a caller together, and the changes that touch both.
//!
//! What a call changes is in [`profile`](super::profile). Every store applies
//! these rules and keeps what comes out; none has rules of its own.

use jiff::Timestamp;

use super::caller_id::CallerId;
use super::greeting::Greeting;
use super::ids::{AgentId, ConversationId};
use super::learning::Learning;
use super::name::{CallerName, Evidence, NameSource};
use super::profile::{CallOrder, ConversationState, UniversalProfile};

/// All that is known of a caller but the memories.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Tiers {
    /// Tier 1. `None` for a caller whom nobody knows.
    pub profile: Option<UniversalProfile>,
    /// Tier 2 of each agent.
    pub states: Vec<(AgentId, ConversationState)>,
    /// Which version of the caller's memories goes with these, and of what
    /// operators decided. 0 where one instance makes all changes.
    pub memories: u64,
    pub decisions: u64,
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
    /// Tier 2 of other agents, where it spoke a name that the call replaced.
    pub others: Vec<(AgentId, ConversationState)>,
}

/// What a call makes of Tier 1 and of its agent's Tier 2, and the name that it
/// replaces: the store has to drop what other agents' Tier 2 says with it, by
/// [`forget_name_in`].
#[must_use]
pub fn after_call(
    profile: Option<UniversalProfile>,
    state: Option<ConversationState>,
    learning: &Learning,
) -> (UniversalProfile, ConversationState, Option<CallerName>) {
    let known = profile.as_ref().and_then(|p| p.name.clone());
    let profile = UniversalProfile::after_call(profile, learning);
    let mut state = ConversationState::after_call(state, learning);
    let replaced = known.filter(|known| profile.name.as_ref() != Some(known));
    if let Some(old) = &replaced {
        state.forget_name(old);
    }
    (profile, state, replaced)
}

/// Drops a name that was wrong from what agents would say; those that change.
#[must_use]
pub fn forget_name_in(
    states: Vec<(AgentId, ConversationState)>,
    name: &CallerName,
) -> Vec<(AgentId, ConversationState)> {
    let changed = states
        .into_iter()
        .filter_map(|(agent, mut state)| state.forget_name(name).then_some((agent, state)));
    changed.collect()
}

/// A greeting to be stored.
#[derive(Debug, Clone)]
pub struct NewGreeting {
    /// For whom.
    pub caller: CallerId,
    /// From whom.
    pub agent: AgentId,
    /// The call that it is made from.
    pub conversation_id: ConversationId,
    /// The order of that call.
    pub order: CallOrder,
    /// The name that the model was told.
    pub addressed: Option<CallerName>,
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
    /// It speaks a name that is not the caller's any more, and was refused.
    pub misnamed: bool,
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
        let heard = new.name.clone().filter(|_| profile.name.is_none());
        let named = heard.is_some();
        if let Some(name) = heard {
            let source = NameSource {
                evidence: Evidence::Model,
                conversation_id: Some(new.conversation_id.clone()),
                at: new.order.started_at,
            };
            profile.set_name(name, source);
        }
        let greeted = state.with_greeting(&new.greeting, new.order);
        // Renamed while the model was at work.
        let own = profile.name.as_ref();
        let mut told = [&new.addressed, &new.name].into_iter().flatten();
        let misnamed = greeted.is_some()
            && told.any(|name| Some(name) != own && new.greeting.speaks(name, own));
        let greeted = greeted.filter(|_| !misnamed);
        Self {
            named,
            stored: greeted.is_some(),
            misnamed,
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
    /// What a name that an operator enters `now` makes of both tiers.
    #[must_use]
    pub fn to(
        name: &CallerName,
        now: Timestamp,
        mut profile: UniversalProfile,
        mut states: Vec<(AgentId, ConversationState)>,
    ) -> Self {
        let source = NameSource {
            evidence: Evidence::Operator,
            conversation_id: None,
            at: now,
        };
        let old = profile.set_name(name.clone(), source);
        let mut changed = Vec::new();
        if let Some(old) = old {
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
    use super::*;

    fn profile(name: Option<&str>) -> UniversalProfile {
        UniversalProfile {
            phone_number: CallerId::parse("+16125550101").unwrap(),
            name: name.map(|n| CallerName::parse(n).unwrap()),
            name_source: None,
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
            language: None,
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
            conversation_id: ConversationId::parse("c").unwrap(),
            order: order(100),
            addressed: None,
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
    fn a_greeting_that_speaks_a_name_replaced_meanwhile_is_refused() {
        let new = |text: &str| NewGreeting {
            caller: CallerId::parse("+16125550101").unwrap(),
            agent: AgentId::parse("a").unwrap(),
            conversation_id: ConversationId::parse("c").unwrap(),
            order: order(100),
            addressed: CallerName::parse("Nora").ok(),
            greeting: Greeting {
                next_greeting: Some(text.into()),
                ..Greeting::default()
            },
            name: None,
        };
        let renamed = || profile(Some("Nina"));
        let refused = Greeted::by(renamed(), state("Hi!", 50), &new("Hello Nora!"));
        assert!(refused.misnamed && !refused.stored);
        assert_eq!(refused.state.next_greeting.as_deref(), Some("Hi!"));
        let nameless = Greeted::by(renamed(), state("Hi!", 50), &new("Hello!"));
        assert!(nameless.stored && !nameless.misnamed);
        let too_late = Greeted::by(renamed(), state("Hi!", 200), &new("Hello Nora!"));
        assert!(!too_late.stored && !too_late.misnamed);
    }

    #[test]
    fn a_new_name_drops_what_speaks_the_old_one_and_nothing_else() {
        let states = ["Hello Nora!", "Hello!"].map(|text| {
            let agent = AgentId::parse(&format!("agent {}", text.len())).unwrap();
            (agent, state(text, 1))
        });
        let name = CallerName::parse("Nina").unwrap();
        let renamed = Renamed::to(
            &name,
            Timestamp::UNIX_EPOCH,
            profile(Some("Nora")),
            states.to_vec(),
        );
        assert_eq!(renamed.changed, [states[0].0.clone()]);
        assert_eq!(renamed.states[0].1.next_greeting, None);
        assert_eq!(renamed.states[1], states[1]);
        let again = Renamed::to(
            &name,
            Timestamp::UNIX_EPOCH,
            renamed.profile,
            renamed.states,
        );
        assert!(again.changed.is_empty());
    }
}
