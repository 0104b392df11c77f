//! What a record holds: everything rides in its metadata, as JSON.
//!
//! A record's content may be shortened and is classified by OpenMemory; its
//! metadata comes back whole. Each of our records says in its metadata what it
//! is, under which key, and whose; a record that does not say so is not ours.
//! One odd field never loses the others (see [`field`](super::field)).

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest, Sha256};

use super::field::Field;
use super::keys::memories_key;
use super::tier_records::{ProfileRecord, StateRecord};
use crate::clients::Record;
use crate::domain::caller_id::CallerId;
use crate::domain::ids::{AgentId, ConversationId};
use crate::domain::language::Language;
use crate::domain::legacy;
use crate::domain::memory::{FACT_SALIENCE, Memory, MemoryKind, Sector, TURN_SALIENCE};

/// Before the id of a legacy record, in place of the conversation that it does
/// not name.
pub(super) const LEGACY_CONVERSATION: &str = "legacy-";

/// A tag of all our records.
pub(super) const TAG: &str = "elaoms";

/// Whose a record of the legacy system is, by its metadata.
pub(super) fn legacy_caller(record: &Record) -> Option<CallerId> {
    legacy::caller_of(&record.metadata).filter(|_| is_legacy(record))
}

/// Whether the legacy system wrote a record: nothing in it says that it is
/// ours. One of ours that cannot be read is nobody's: whose it is, or who may
/// know it, is not certain.
pub(super) fn is_legacy(record: &Record) -> bool {
    let marked = match &record.metadata {
        Value::Null => false,
        Value::Object(fields) => fields.contains_key("elaoms"),
        _ => true,
    };
    let tags = record.tags.as_array().into_iter().flatten();
    !marked && !tags.into_iter().any(|tag| tag == TAG)
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
    /// Our metadata, if the record is ours and can be read.
    pub fn of(record: &Record) -> Option<Self> {
        let mut metadata = serde_json::from_value(record.metadata.clone()).ok()?;
        let created_at = Timestamp::from_millisecond(record.created_at).unwrap_or_default();
        match &mut metadata {
            Self::Profile(r) => r.created_at = created_at,
            Self::State(r) => r.created_at = created_at,
            Self::Memory(r) => r.created_at = created_at,
        }
        Some(metadata)
    }

    /// The key it is found under: as it says itself, or as its owner tells.
    pub fn key(&self) -> String {
        let key = match self {
            Self::Profile(r) => r.key.get(),
            Self::State(r) => r.key.get(),
            Self::Memory(r) => Some(&r.caller),
        };
        key.cloned().unwrap_or_else(|| match self {
            Self::State(StateRecord { agent, .. }) => {
                let agent = agent.get().map_or("", String::as_str);
                format!("user:{}:agent:{agent}:next_greeting", self.caller())
            }
            _ => format!("user:{}:profile", self.caller()),
        })
    }

    /// Whose it is, if it says so.
    pub fn caller(&self) -> &str {
        let caller = match self {
            Self::Profile(r) => r.caller.get(),
            Self::State(r) => r.caller.get(),
            Self::Memory(r) => Some(&r.caller),
        };
        caller.map_or("", String::as_str)
    }
}

/// A memory. It never changes. Without its owner, its agent, its place or its
/// words it cannot be read.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct MemoryRecord {
    #[serde(default)]
    key: Field<String>,
    caller: String,
    /// Null for memories of a time before agents were told apart. It must be
    /// there: without it, nobody knows who may know the memory.
    #[serde(deserialize_with = "Option::deserialize")]
    agent: Option<String>,
    conversation_id: String,
    ordinal: u32,
    /// The whole text; the record's content may be shortened.
    content: String,
    #[serde(default)]
    kind: Field<String>,
    #[serde(default)]
    before: Field<String>,
    #[serde(default)]
    after: Field<String>,
    #[serde(default)]
    salience: Field<f32>,
    #[serde(default)]
    timestamp: Field<Timestamp>,
    #[serde(default)]
    language: Field<Language>,
    #[serde(skip)]
    created_at: Timestamp,
}

impl MemoryRecord {
    pub fn new(caller: &CallerId, memory: &Memory) -> Self {
        Self {
            key: Field::Read(memories_key(caller)),
            caller: caller.as_str().to_owned(),
            agent: memory.agent.as_ref().map(ToString::to_string),
            conversation_id: memory.conversation_id.to_string(),
            ordinal: memory.ordinal,
            content: memory.content.clone(),
            kind: Field::Read(memory.kind.as_str().to_owned()),
            before: Field::Read(memory.before.clone()),
            after: Field::Read(memory.after.clone()),
            salience: Field::Read(memory.salience),
            timestamp: Field::Read(memory.timestamp),
            language: memory
                .language
                .clone()
                .map_or_else(Field::default, Field::Read),
            created_at: Timestamp::default(),
        }
    }

    pub fn is_of(&self, caller: &CallerId) -> bool {
        self.caller == caller.as_str()
    }

    pub fn is_older_than(&self, time: Timestamp) -> bool {
        *self.timestamp.get().unwrap_or(&self.created_at) < time
    }

    /// `None` if an agent is named that cannot be one.
    pub fn memory(&self, sector: &str) -> Option<Memory> {
        let kind = self.kind.get().and_then(|kind| kind.parse().ok());
        let kind = kind.unwrap_or(MemoryKind::Turn);
        let salience = match kind {
            MemoryKind::Fact => FACT_SALIENCE,
            MemoryKind::Turn => TURN_SALIENCE,
        };
        Some(Memory {
            agent: self.agent.as_deref().map(AgentId::parse).transpose().ok()?,
            conversation_id: ConversationId::parse(&self.conversation_id).ok()?,
            ordinal: self.ordinal,
            kind,
            sector: sector.parse().unwrap_or(kind.sector()),
            content: self.content.clone(),
            before: self.before.get().cloned().unwrap_or_default(),
            after: self.after.get().cloned().unwrap_or_default(),
            salience: self.salience.get().copied().unwrap_or(salience),
            timestamp: *self.timestamp.get().unwrap_or(&self.created_at),
            language: self.language.get().cloned(),
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
        conversation_id: ConversationId::parse(&format!("{LEGACY_CONVERSATION}{}", record.id))
            .ok()?,
        ordinal: 0,
        kind: MemoryKind::Fact,
        sector,
        content: content.to_owned(),
        before: String::new(),
        after: String::new(),
        salience: TURN_SALIENCE,
        timestamp: Timestamp::from_millisecond(record.created_at).unwrap_or(Timestamp::UNIX_EPOCH),
        language: None,
    })
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
}
