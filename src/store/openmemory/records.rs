//! What a record holds: everything rides in its metadata, as JSON.
//!
//! A record's content may be shortened and is classified by OpenMemory; its
//! metadata comes back whole. Each of our records says in its metadata what it
//! is, under which key, and whose; a record that does not say so is not ours.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::clients::Record;
use crate::domain::caller_id::CallerId;
use crate::domain::ids::{AgentId, ConversationId};
use crate::domain::memory::{Memory, MemoryKind, Sector};
use crate::domain::name::{CallerName, NameSource};
use crate::domain::profile::{CallOrder, ConversationState, UniversalProfile};

/// How many learned calls a record remembers. Redeliveries come within the
/// hour; so many calls of one caller do not.
const MAX_LEARNED: usize = 1_000;

/// The key of a caller's Tier 1 (guide, OpenMemory storage keys).
pub(super) fn profile_key(caller: &CallerId) -> String {
    format!("user:{}:profile", caller.as_str())
}

/// The key of a caller's Tier 2 with an agent.
pub(super) fn state_key(caller: &CallerId, agent: &AgentId) -> String {
    format!("user:{}:agent:{agent}:next_greeting", caller.as_str())
}

/// The key of a caller's memories: the caller, as the legacy system had it.
pub(super) fn memories_key(caller: &CallerId) -> String {
    caller.as_str().to_owned()
}

/// Metadata of our records.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "elaoms", rename_all = "snake_case")]
pub(super) enum Metadata {
    Profile(ProfileRecord),
    State(StateRecord),
    Memory(MemoryRecord),
}

impl Metadata {
    /// Our metadata, if the record is ours.
    pub fn of(record: &Record) -> Option<Self> {
        serde_json::from_value(record.metadata.clone()).ok()
    }

    pub fn key(&self) -> &str {
        match self {
            Self::Profile(r) => &r.key,
            Self::State(r) => &r.key,
            Self::Memory(r) => &r.key,
        }
    }

    pub fn caller(&self) -> &str {
        match self {
            Self::Profile(r) => &r.caller,
            Self::State(r) => &r.caller,
            Self::Memory(r) => &r.caller,
        }
    }
}

/// Tier 1.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct ProfileRecord {
    pub key: String,
    pub caller: String,
    pub name: Option<CallerName>,
    #[serde(default)]
    pub name_source: Option<NameSource>,
    pub first_seen: Timestamp,
    pub total_interactions: u64,
    /// Agents with a state: the first generation cannot list them.
    #[serde(default)]
    pub agents: Vec<String>,
    /// Calls counted in it.
    #[serde(default)]
    pub learned: Vec<String>,
    /// Calls that were begun to be learned; their memories may be there.
    #[serde(default)]
    pub pending: Vec<String>,
    /// True once the caller's legacy calls are counted in it.
    #[serde(default)]
    pub legacy: bool,
    /// True until the first call is counted.
    #[serde(default)]
    pub provisional: bool,
}

impl ProfileRecord {
    /// A profile of a caller of whom no call is counted yet.
    pub fn new(caller: &CallerId, first_seen: Timestamp) -> Self {
        Self {
            key: profile_key(caller),
            caller: caller.as_str().to_owned(),
            name: None,
            name_source: None,
            first_seen,
            total_interactions: 0,
            agents: Vec::new(),
            learned: Vec::new(),
            pending: Vec::new(),
            legacy: false,
            provisional: true,
        }
    }

    pub fn profile(&self) -> Option<UniversalProfile> {
        Some(UniversalProfile {
            phone_number: CallerId::from_stored(&self.caller)?,
            name: self.name.clone(),
            name_source: self.name_source.clone(),
            first_seen: self.first_seen,
            total_interactions: self.total_interactions,
        })
    }

    /// The agents that the caller has a state with.
    pub fn agents(&self) -> Vec<AgentId> {
        let agents = self.agents.iter();
        agents.filter_map(|a| AgentId::parse(a).ok()).collect()
    }

    /// Notes that the caller has a state with this agent.
    pub fn add_agent(&mut self, agent: &AgentId) {
        if !self.agents.iter().any(|a| a == agent.as_str()) {
            self.agents.push(agent.to_string());
        }
    }

    pub fn set(&mut self, profile: &UniversalProfile) {
        self.name.clone_from(&profile.name);
        self.name_source.clone_from(&profile.name_source);
        self.first_seen = profile.first_seen;
        self.total_interactions = profile.total_interactions;
        self.provisional = false;
    }
}

/// Tier 2.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct StateRecord {
    pub key: String,
    pub caller: String,
    pub agent: String,
    pub conversation_count: u64,
    pub last_call_date: Timestamp,
    pub next_greeting: Option<String>,
    #[serde(default)]
    pub key_topics: Vec<String>,
    pub sentiment: Option<String>,
    pub conversation_summary: Option<String>,
    pub greeted_from: Option<CallOrder>,
    #[serde(default)]
    pub learned: Vec<String>,
}

impl StateRecord {
    pub fn new(caller: &CallerId, agent: &AgentId, state: &ConversationState) -> Self {
        Self {
            key: state_key(caller, agent),
            caller: caller.as_str().to_owned(),
            agent: agent.to_string(),
            conversation_count: state.conversation_count,
            last_call_date: state.last_call_date,
            next_greeting: state.next_greeting.clone(),
            key_topics: state.key_topics.clone(),
            sentiment: state.sentiment.map(|s| s.as_str().to_owned()),
            conversation_summary: state.conversation_summary.clone(),
            greeted_from: state.greeted_from,
            learned: Vec::new(),
        }
    }

    pub fn state(&self) -> ConversationState {
        ConversationState {
            conversation_count: self.conversation_count,
            last_call_date: self.last_call_date,
            next_greeting: self.next_greeting.clone(),
            key_topics: self.key_topics.clone(),
            sentiment: self.sentiment.as_deref().and_then(|s| s.parse().ok()),
            conversation_summary: self.conversation_summary.clone(),
            greeted_from: self.greeted_from,
        }
    }
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct MemoryRecord {
    pub key: String,
    pub caller: String,
    pub agent: Option<String>,
    pub conversation_id: String,
    pub ordinal: u32,
    pub kind: String,
    /// The whole text; the record's content may be shortened.
    pub content: String,
    #[serde(default)]
    pub before: String,
    #[serde(default)]
    pub after: String,
    pub salience: f32,
    pub timestamp: Timestamp,
}

impl MemoryRecord {
    pub fn new(caller: &CallerId, memory: &Memory) -> Self {
        Self {
            key: memories_key(caller),
            caller: caller.as_str().to_owned(),
            agent: memory.agent.as_ref().map(ToString::to_string),
            conversation_id: memory.conversation_id.to_string(),
            ordinal: memory.ordinal,
            kind: memory.kind.as_str().to_owned(),
            content: memory.content.clone(),
            before: memory.before.clone(),
            after: memory.after.clone(),
            salience: memory.salience,
            timestamp: memory.timestamp,
        }
    }

    pub fn memory(&self, sector: &str) -> Option<Memory> {
        let kind = self.kind.parse::<MemoryKind>().ok()?;
        Some(Memory {
            agent: self.agent.as_deref().map(AgentId::parse).transpose().ok()?,
            conversation_id: ConversationId::parse(&self.conversation_id).ok()?,
            ordinal: self.ordinal,
            kind,
            sector: sector.parse().unwrap_or(kind.sector()),
            content: self.content.clone(),
            before: self.before.clone(),
            after: self.after.clone(),
            salience: self.salience,
            timestamp: self.timestamp,
        })
    }
}

/// A record of the legacy system as a memory that every agent may know.
pub(super) fn legacy_memory(record: &Record) -> Option<Memory> {
    let content = record.content.trim();
    if content.is_empty() {
        return None;
    }
    let sector = record.primary_sector.parse().unwrap_or(Sector::Episodic);
    Some(Memory {
        agent: None,
        conversation_id: ConversationId::parse(&format!("legacy-{}", record.id)).ok()?,
        ordinal: 0,
        kind: MemoryKind::Fact,
        sector,
        content: content.to_owned(),
        before: String::new(),
        after: String::new(),
        salience: crate::domain::memory::TURN_SALIENCE,
        timestamp: Timestamp::from_millisecond(record.created_at).unwrap_or(Timestamp::UNIX_EPOCH),
    })
}

/// Notes a learned call, forgetting the oldest.
pub(super) fn note(learned: &mut Vec<String>, mark: &str) {
    if !learned.iter().any(|m| m == mark) {
        learned.push(mark.to_owned());
    }
    let surplus = learned.len().saturating_sub(MAX_LEARNED);
    learned.drain(..surplus);
}

/// The content under which a record is added.
///
/// OpenMemory drops a record whose simhash equals another's, of any user, and
/// the simhash sees only the set of words. Words made of the record's own key
/// tell it apart; with each refusal there are more of them and less text.
pub(super) fn content(text: &str, key: &str, attempt: u32) -> String {
    const TEXT_CHARS: usize = 120;
    let kept = if attempt == 0 {
        TEXT_CHARS
    } else {
        TEXT_CHARS / 4
    };
    let text: String = text
        .chars()
        .take(if attempt > 2 { 0 } else { kept })
        .collect();
    let words = 6 + 2 * attempt as usize;
    let hash = Sha256::digest(format!("{key} {attempt}"));
    let hash = hex::encode(hash);
    let unique: Vec<&str> = (0..words.min(16))
        .map(|i| &hash[i * 4..i * 4 + 4])
        .collect();
    format!("{text} [{}]", unique.join(" ")).trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_words_of_two_callers_are_two_contents() {
        let words = "I like roses.";
        let (a, b) = (content(words, "a", 0), content(words, "b", 0));
        assert_ne!(a, b);
        assert!(a.starts_with(words));
        assert_ne!(content(words, "a", 0), content(words, "a", 1));
        assert!(!content(words, "a", 3).contains("roses"));
    }

    #[test]
    fn learned_calls_are_bounded() {
        let mut learned = Vec::new();
        for i in 0..MAX_LEARNED + 5 {
            note(&mut learned, &i.to_string());
            note(&mut learned, &i.to_string());
        }
        assert_eq!(learned.len(), MAX_LEARNED);
        assert_eq!(learned[0], "5");
    }
}
