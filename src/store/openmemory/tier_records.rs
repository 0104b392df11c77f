//! The records of the two tiers. Each is read field by field and updated in
//! place: what it holds besides is written back.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::field::{Field, Others, Texts};
use super::keys::{profile_key, state_key};
use crate::domain::caller_id::CallerId;
use crate::domain::greeting::Sentiment;
use crate::domain::ids::AgentId;
use crate::domain::language::Language;
use crate::domain::name::{CallerName, NameSource};
use crate::domain::profile::{CallOrder, ConversationState, UniversalProfile};

/// How many learned calls a record remembers. Redeliveries come within the
/// hour; so many calls of one caller do not.
const MAX_LEARNED: usize = 1_000;

/// Tier 1.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct ProfileRecord {
    pub key: Field<String>,
    pub caller: Field<String>,
    name: Field<CallerName>,
    name_source: Field<NameSource>,
    first_seen: Field<Timestamp>,
    total_interactions: Field<u64>,
    /// Agents with a state: the first generation cannot list them.
    agents: Texts,
    /// Calls counted in it.
    learned: Texts,
    /// Calls that were begun to be learned; their memories may be there.
    pending: Texts,
    /// True once the caller's legacy calls are counted in it.
    legacy: Field<bool>,
    /// Which calls those were.
    legacy_calls: Texts,
    /// True until the first call is counted.
    provisional: Field<bool>,
    #[serde(flatten)]
    others: Others,
    /// When the record was stored, by the server's clock.
    #[serde(skip)]
    pub created_at: Timestamp,
}

impl ProfileRecord {
    /// A profile of a caller of whom no call is counted yet.
    pub fn new(caller: &CallerId, first_seen: Timestamp) -> Self {
        Self {
            key: Field::Read(profile_key(caller)),
            caller: Field::Read(caller.as_str().to_owned()),
            first_seen: Field::Read(first_seen),
            total_interactions: Field::Read(0),
            provisional: Field::Read(true),
            ..Self::default()
        }
    }

    /// Whether it is this caller's, by its caller or, without one, by its key.
    pub fn is_of(&self, caller: &CallerId) -> bool {
        match self.caller.get() {
            Some(stored) => stored == caller.as_str(),
            None => self.key.get() == Some(&profile_key(caller)),
        }
    }

    /// Without a readable count, the calls whose marks are there have been
    /// counted; without a date, the caller was first seen when it was stored.
    pub fn profile(&self, caller: &CallerId) -> UniversalProfile {
        UniversalProfile {
            phone_number: caller.clone(),
            name: self.name.get().cloned(),
            name_source: self.name_source.get().cloned(),
            first_seen: *self.first_seen.get().unwrap_or(&self.created_at),
            total_interactions: counted(&self.total_interactions, &self.learned),
        }
    }

    /// The profile, unless no call is counted in it yet.
    pub fn known(&self, caller: &CallerId) -> Option<UniversalProfile> {
        (!self.is_provisional()).then(|| self.profile(caller))
    }

    pub fn is_provisional(&self) -> bool {
        self.provisional.is_true()
    }

    pub fn has_legacy(&self) -> bool {
        self.legacy.is_true()
    }

    pub fn set_legacy(&mut self) {
        self.legacy.set("legacy", true, &mut self.others);
    }

    /// Whether this call was counted with the caller's legacy calls.
    pub fn has_legacy_call(&self, mark: &str) -> bool {
        self.legacy_calls.has(mark)
    }

    /// Notes a call that is counted with the legacy calls.
    pub fn note_legacy_call(&mut self, mark: &str) {
        self.legacy_calls
            .add("legacy_calls", mark, MAX_LEARNED, &mut self.others);
    }

    pub fn has_learned(&self, mark: &str) -> bool {
        self.learned.has(mark)
    }

    pub fn learned(&self) -> Vec<String> {
        self.learned.texts().map(str::to_owned).collect()
    }

    /// Notes a learned call.
    pub fn note_learned(&mut self, mark: &str) {
        self.pending.remove(mark);
        self.learned
            .add("learned", mark, MAX_LEARNED, &mut self.others);
    }

    pub fn has_begun(&self, mark: &str) -> bool {
        self.pending.has(mark)
    }

    /// Notes that a call is begun to be learned.
    pub fn note_begun(&mut self, mark: &str) {
        self.pending
            .add("pending", mark, MAX_LEARNED, &mut self.others);
    }

    /// The agents that the caller has a state with.
    pub fn agents(&self) -> Vec<AgentId> {
        let agents = self.agents.texts();
        agents.filter_map(|a| AgentId::parse(a).ok()).collect()
    }

    /// Notes that the caller has a state with this agent.
    pub fn add_agent(&mut self, agent: &AgentId) {
        self.agents
            .add("agents", agent.as_str(), usize::MAX, &mut self.others);
    }

    pub fn set(&mut self, profile: &UniversalProfile) {
        let others = &mut self.others;
        self.name.set_option("name", profile.name.clone(), others);
        self.name_source
            .set_option("name_source", profile.name_source.clone(), others);
        self.first_seen
            .set("first_seen", profile.first_seen, others);
        let total = profile.total_interactions;
        self.total_interactions
            .set("total_interactions", total, others);
        self.provisional.set("provisional", false, others);
    }

    /// Of two records of one caller, that in which more was counted goes on.
    pub fn rank(&self) -> (u64, usize) {
        let counted = counted(&self.total_interactions, &self.learned);
        (counted, self.learned.texts().count())
    }
}

/// Tier 2.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct StateRecord {
    pub key: Field<String>,
    pub caller: Field<String>,
    pub agent: Field<String>,
    conversation_count: Field<u64>,
    last_call_date: Field<Timestamp>,
    next_greeting: Field<String>,
    key_topics: Texts,
    sentiment: Field<Mood>,
    conversation_summary: Field<String>,
    greeted_from: Field<CallOrder>,
    language: Field<Language>,
    learned: Texts,
    #[serde(flatten)]
    others: Others,
    #[serde(skip)]
    pub created_at: Timestamp,
}

/// A sentiment that we know.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "&'static str")]
struct Mood(Sentiment);

impl TryFrom<String> for Mood {
    type Error = strum::ParseError;
    fn try_from(word: String) -> std::result::Result<Self, Self::Error> {
        word.parse().map(Self)
    }
}

impl From<Mood> for &'static str {
    fn from(mood: Mood) -> Self {
        mood.0.as_str()
    }
}

impl StateRecord {
    pub fn new(caller: &CallerId, agent: &AgentId) -> Self {
        Self {
            key: Field::Read(state_key(caller, agent)),
            caller: Field::Read(caller.as_str().to_owned()),
            agent: Field::Read(agent.to_string()),
            ..Self::default()
        }
    }

    /// Whether it is of this caller and agent, by what it says of them or,
    /// where it does not, by its key.
    pub fn is_of(&self, caller: &CallerId, agent: &AgentId) -> bool {
        let is = |stored: &Field<String>, text: &str| match stored.get() {
            Some(stored) => stored == text,
            None => self.key.get() == Some(&state_key(caller, agent)),
        };
        is(&self.caller, caller.as_str()) && is(&self.agent, agent.as_str())
    }

    pub fn state(&self) -> ConversationState {
        ConversationState {
            conversation_count: counted(&self.conversation_count, &self.learned),
            last_call_date: *self.last_call_date.get().unwrap_or(&self.created_at),
            next_greeting: self.next_greeting.get().cloned(),
            key_topics: self.key_topics.texts().map(str::to_owned).collect(),
            sentiment: self.sentiment.get().map(|mood| mood.0),
            conversation_summary: self.conversation_summary.get().cloned(),
            greeted_from: self.greeted_from.get().copied(),
            language: self.language.get().cloned(),
        }
    }

    pub fn set(&mut self, state: &ConversationState) {
        let others = &mut self.others;
        let count = state.conversation_count;
        self.conversation_count
            .set("conversation_count", count, others);
        self.last_call_date
            .set("last_call_date", state.last_call_date, others);
        self.next_greeting
            .set_option("next_greeting", state.next_greeting.clone(), others);
        self.key_topics
            .set_texts("key_topics", &state.key_topics, others);
        self.sentiment
            .set_option("sentiment", state.sentiment.map(Mood), others);
        let summary = state.conversation_summary.clone();
        self.conversation_summary
            .set_option("conversation_summary", summary, others);
        self.greeted_from
            .set_option("greeted_from", state.greeted_from, others);
        self.language
            .set_option("language", state.language.clone(), others);
    }

    pub fn has_learned(&self, mark: &str) -> bool {
        self.learned.has(mark)
    }

    /// Notes a learned call.
    pub fn note_learned(&mut self, mark: &str) {
        self.learned
            .add("learned", mark, MAX_LEARNED, &mut self.others);
    }

    /// Of two records of one state, that in which more was counted goes on.
    pub fn rank(&self) -> (u64, usize) {
        let counted = counted(&self.conversation_count, &self.learned);
        (counted, self.learned.texts().count())
    }
}

/// A count of calls, or without one the number of marks of counted calls.
fn counted(count: &Field<u64>, learned: &Texts) -> u64 {
    let marks = || learned.texts().count() as u64;
    count.get().copied().unwrap_or_else(marks)
}
