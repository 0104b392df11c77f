//! What the legacy system left in OpenMemory: free-form memories of a caller.
//!
//! Its own way of finding a name is kept (guide, Phase 3): name facts in the
//! metadata first, then "my name is …" in the caller's own memories.

use jiff::Timestamp;
use rustc_hash::FxHashSet;
use serde_json::Value;

use super::call_event::{Fact, Role, Turn};
use super::caller_id::CallerId;
use super::ids::ConversationId;
use super::name::{self, CallerName};
use super::profile::UniversalProfile;

/// A memory of the legacy system.
#[derive(Debug, Clone, PartialEq)]
pub struct LegacyMemory {
    /// Free text.
    pub content: String,
    /// Whatever was put beside it.
    pub metadata: Value,
    /// When it was stored.
    pub created_at: Timestamp,
}

/// Fields in which the legacy system and its integrations kept the caller.
const CALLER_FIELDS: [&str; 5] = ["user_id", "phone_number", "caller_id", "phone", "caller"];
/// Fields in which they kept the conversation.
const CONVERSATION_FIELDS: [&str; 2] = ["conversation_id", "call_id"];

/// Whose memory it is by its metadata, where the store does not tell.
#[must_use]
pub fn caller_of(metadata: &Value) -> Option<CallerId> {
    CALLER_FIELDS
        .iter()
        .filter_map(|field| metadata[field].as_str())
        .find_map(CallerId::parse_unmistakable)
}

/// What a caller's legacy memories amount to.
#[derive(Debug, Clone, PartialEq)]
pub struct LegacyProfile {
    /// As Tier 1. Calls are counted as the legacy system counted them, or by
    /// their conversations.
    pub profile: UniversalProfile,
    /// The conversations that the legacy system knew, each once, oldest first.
    pub conversations: Vec<ConversationId>,
}

impl LegacyProfile {
    /// `None` without memories.
    #[must_use]
    pub fn of(caller: &CallerId, memories: &[LegacyMemory]) -> Option<Self> {
        let mut oldest_first: Vec<&LegacyMemory> = memories.iter().collect();
        oldest_first.sort_by_key(|m| m.created_at);
        let conversations = conversations(&oldest_first);
        Some(Self {
            profile: UniversalProfile {
                phone_number: caller.clone(),
                name: name_of(&oldest_first),
                name_source: None,
                first_seen: oldest_first.first()?.created_at,
                total_interactions: counter(memories).unwrap_or(conversations.len() as u64),
            },
            conversations,
        })
    }

    /// `known` completed: with the name if it has none, the earlier beginning
    /// and the calls, but for those that are counted in it already because
    /// both systems saw them.
    #[must_use]
    pub fn complete(
        &self,
        known: UniversalProfile,
        is_counted: impl Fn(&ConversationId) -> bool,
    ) -> UniversalProfile {
        let twice = self.conversations.iter().filter(|c| is_counted(c)).count() as u64;
        let legacy = &self.profile;
        UniversalProfile {
            phone_number: known.phone_number,
            name: known.name.or_else(|| legacy.name.clone()),
            name_source: known.name_source,
            first_seen: known.first_seen.min(legacy.first_seen),
            total_interactions: known.total_interactions
                + legacy.total_interactions.saturating_sub(twice),
        }
    }
}

/// The legacy system's own count of calls.
fn counter(memories: &[LegacyMemory]) -> Option<u64> {
    let counted = ["total_interactions", "interaction_count", "total_calls"];
    let counts = memories.iter().flat_map(|m| {
        counted
            .iter()
            .filter_map(|field| m.metadata[field].as_u64())
    });
    counts.max()
}

fn conversations(oldest_first: &[&LegacyMemory]) -> Vec<ConversationId> {
    let mut seen = FxHashSet::default();
    oldest_first
        .iter()
        .flat_map(|m| {
            CONVERSATION_FIELDS
                .iter()
                .filter_map(|field| m.metadata[field].as_str())
        })
        .filter_map(|id| ConversationId::parse(id).ok())
        .filter(|id| seen.insert(id.clone()))
        .collect()
}

/// The earliest name decides: a household's second name never replaces the first.
fn name_of(oldest_first: &[&LegacyMemory]) -> Option<CallerName> {
    let facts: Vec<Fact> = oldest_first
        .iter()
        .flat_map(|m| facts_in(&m.metadata))
        .collect();
    name::from_facts(&facts).or_else(|| {
        let said: Vec<Turn> = oldest_first
            .iter()
            .flat_map(|m| callers_turns(&m.content))
            .collect();
        name::from_turns(&said).map(|(name, _)| name)
    })
}

/// `{"first_name": "Nora"}`, `{"field": "first_name", "value": "Nora"}`, and
/// `{"data_collection_id": "First Name", "value": "Nora"}`.
fn facts_in(metadata: &Value) -> Vec<Fact> {
    let Some(object) = metadata.as_object() else {
        return Vec::new();
    };
    let named = ["field", "key", "data_collection_id", "fact"]
        .iter()
        .filter_map(|field| object.get(*field)?.as_str())
        .filter_map(|key| {
            Some(Fact {
                key: key.to_owned(),
                value: object.get("value")?.clone(),
            })
        });
    let direct = object.iter().map(|(key, value)| Fact {
        key: key.clone(),
        value: value.clone(),
    });
    named.chain(direct).collect()
}

/// A memory is what the caller said, or a transcript in which lines of the
/// agent are marked.
fn callers_turns(content: &str) -> Vec<Turn> {
    content
        .lines()
        .map(|line| {
            let folded = line.trim_start().to_lowercase();
            let agents = ["agent:", "assistant:", "ai:"]
                .iter()
                .any(|p| folded.starts_with(p));
            let role = if agents { Role::Agent } else { Role::Caller };
            let text = ["user:", "caller:", "customer:"]
                .iter()
                .find(|p| folded.starts_with(**p))
                .map_or(line.trim(), |p| line.trim_start()[p.len()..].trim());
            Turn {
                role,
                text: text.to_owned(),
            }
        })
        .filter(|turn| !turn.text.is_empty())
        .collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn memory(content: &str, metadata: Value, second: i64) -> LegacyMemory {
        let created_at = Timestamp::from_second(second).unwrap();
        LegacyMemory {
            content: content.into(),
            metadata,
            created_at,
        }
    }

    fn profile(memories: &[LegacyMemory]) -> UniversalProfile {
        legacy(memories).profile
    }

    fn legacy(memories: &[LegacyMemory]) -> LegacyProfile {
        LegacyProfile::of(&CallerId::parse("+16125550101").unwrap(), memories).unwrap()
    }

    #[test]
    fn facts_come_before_words_and_the_earliest_before_later_ones() {
        let words = memory("User: Hi, my name is Nora.", json!({}), 10);
        let fact = memory("x", json!({"field": "First Name", "value": "Noreen"}), 20);
        let later = memory("x", json!({"first_name": "Tom"}), 30);
        let name = |memories: &[LegacyMemory]| profile(memories).name.map(|n| n.to_string());
        assert_eq!(
            name(&[later.clone(), fact, words.clone()]).as_deref(),
            Some("Noreen")
        );
        assert_eq!(name(std::slice::from_ref(&words)).as_deref(), Some("Nora"));
        assert_eq!(
            name(&[memory("Agent: My name is Margaret.", json!({}), 1)]),
            None
        );
        assert_eq!(profile(&[words, later]).first_seen.as_second(), 10);
    }

    #[test]
    fn calls_are_counted_as_they_were() {
        let call = |id: &str, second| memory("x", json!({"conversation_id": id}), second);
        assert_eq!(
            profile(&[call("a", 1), call("a", 2), call("b", 3)]).total_interactions,
            2
        );
        let counted = memory("x", json!({"total_interactions": 7}), 4);
        assert_eq!(profile(&[call("a", 1), counted]).total_interactions, 7);
        assert_eq!(
            LegacyProfile::of(&CallerId::parse("+16125550101").unwrap(), &[]),
            None
        );
    }

    #[test]
    fn a_call_that_both_systems_saw_is_counted_once() {
        let call = |id: &str, second| memory("x", json!({"conversation_id": id}), second);
        let known = UniversalProfile {
            total_interactions: 2,
            ..profile(&[call("b", 20)])
        };
        let total = |memories: &[LegacyMemory]| {
            let completed = legacy(memories).complete(known.clone(), |c| c.as_str() == "b");
            assert_eq!(completed.first_seen.as_second(), 10);
            completed.total_interactions
        };
        assert_eq!(total(&[call("a", 10), call("b", 20)]), 3);
        let counted = memory("x", json!({"total_interactions": 7}), 10);
        assert_eq!(total(&[call("b", 20), counted]), 8);
    }
}
