//! Everything of one caller, on the way from one store to another.

use rustc_hash::FxHashSet;
use sha2::{Digest, Sha256};

use crate::domain::caller_id::CallerId;
use crate::domain::ids::{AgentId, ConversationId};
use crate::domain::memory::Memory;
use crate::domain::profile::{ConversationState, UniversalProfile};

/// Everything of one caller.
#[derive(Debug, Clone, PartialEq)]
pub struct CallerExport {
    /// Tier 1.
    pub profile: UniversalProfile,
    /// Tier 2, in the order of the agents.
    pub states: Vec<(AgentId, ConversationState)>,
    /// Memories, in the order in which they were learned.
    pub memories: Vec<Memory>,
    /// Marks of the calls learned (see [`call_mark`]), so that a redelivered
    /// call does not count again elsewhere.
    pub learned: Vec<String>,
}

impl CallerExport {
    /// Without the memories that `other` does not have. A target may hold more:
    /// what the legacy system left, or calls of its own.
    pub fn keep_memories_of(&mut self, other: &Self) {
        let wanted: FxHashSet<(&ConversationId, u32)> = other
            .memories
            .iter()
            .map(|m| (&m.conversation_id, m.ordinal))
            .collect();
        self.memories
            .retain(|m| wanted.contains(&(&m.conversation_id, m.ordinal)));
    }

    /// What a caller is with another number's calls added. `None` if they are
    /// all there already, told by their marks: adding them twice would count
    /// them twice.
    #[must_use]
    pub fn merged_into(self, known: Option<Self>, caller: &CallerId) -> Option<Self> {
        let mut whole = known.unwrap_or_else(|| Self {
            profile: UniversalProfile {
                phone_number: caller.clone(),
                name: None,
                name_source: None,
                first_seen: self.profile.first_seen,
                total_interactions: 0,
            },
            states: Vec::new(),
            memories: Vec::new(),
            learned: Vec::new(),
        });
        let there: FxHashSet<&String> = whole.learned.iter().collect();
        if !self.learned.is_empty() && self.learned.iter().all(|mark| there.contains(mark)) {
            return None;
        }
        let profile = &mut whole.profile;
        profile.total_interactions += self.profile.total_interactions;
        profile.first_seen = profile.first_seen.min(self.profile.first_seen);
        let loser = profile.take_name_of(self.profile);
        for (agent, state) in self.states {
            match whole.states.iter_mut().find(|(known, _)| *known == agent) {
                Some((_, known)) => *known = known.merged_with(state),
                None => whole.states.push((agent, state)),
            }
        }
        if let Some(loser) = loser {
            for (_, state) in &mut whole.states {
                state.forget_name(&loser);
            }
        }
        whole.memories.extend(self.memories);
        // In the order in which they were said, as everywhere.
        whole.memories.sort_by_key(|memory| memory.timestamp);
        whole.learned.extend(self.learned);
        Some(whole)
    }

    /// A checksum over all that counts: not the sector, which a store may
    /// choose itself, nor the marks, of which a store may keep the newest only.
    #[must_use]
    pub fn checksum(&self) -> String {
        let mut copy = self.clone();
        copy.learned.clear();
        copy.states.sort_by(|(a, _), (b, _)| a.cmp(b));
        copy.memories
            .sort_by(|a, b| (&a.conversation_id, a.ordinal).cmp(&(&b.conversation_id, b.ordinal)));
        for memory in &mut copy.memories {
            memory.sector = memory.kind.sector();
        }
        let mut hash = Sha256::new();
        // The debug form names every field; caller ids in it are masked, so
        // the caller is added.
        hash.update(copy.profile.phone_number.as_str());
        hash.update(format!("{copy:?}"));
        hex::encode(hash.finalize())
    }
}

/// A row of the inbox, on the way from one database to another.
#[derive(Debug, Clone)]
pub(super) struct InboxRow {
    pub id: i64,
    pub event_key: String,
    pub kind: String,
    pub conversation_id: Option<String>,
    pub agent: Option<String>,
    pub caller: Option<String>,
    pub started_at: i64,
    pub greeting_wanted: bool,
    pub stage: String,
    pub state: String,
    pub attempts: i64,
    pub crashes: i64,
    pub unusable: i64,
    pub run_at: i64,
    pub received_at: i64,
    pub greet_since: Option<i64>,
    pub archived: bool,
    pub archive_at: i64,
    pub last_error: Option<String>,
    pub payload: Option<Vec<u8>>,
}

/// A call that was learned, as above.
#[derive(Debug, Clone)]
pub(super) struct LearnedRow {
    pub conversation_id: String,
    pub caller: String,
    pub agent: String,
    /// In seconds.
    pub learned_at: f64,
}

/// An entry of the audit log, as above.
#[derive(Debug, Clone)]
pub(super) struct AuditRow {
    pub id: i64,
    pub at: i64,
    pub who: String,
    pub action: String,
    pub subject: String,
    pub outcome: String,
}

/// What was copied beside the memories.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Moved {
    /// Events of the inbox, finished ones and dead letters too.
    pub events: u64,
    /// Entries of the audit log.
    pub audit: u64,
    /// Agents' profiles.
    pub agents: u64,
}

/// A stand-in for an erased caller's id, among those of erased calls.
#[must_use]
pub fn caller_mark(caller: &CallerId) -> String {
    let digest = Sha256::digest(caller.as_str());
    format!("caller:{}", hex::encode(&digest[..16]))
}

/// A short stand-in for a conversation id.
#[must_use]
pub fn call_mark(conversation: &ConversationId) -> String {
    hex::encode(&Sha256::digest(conversation.as_str())[..8])
}
