//! What is kept: two traits, because what is kept has two natures.
//!
//! - [`Ledger`]: the durable inbox, dead letters and agent profiles. Always a
//!   SQL database of our own.
//! - [`MemoryStore`]: both tiers and the memories of callers. A SQL database,
//!   or a memory engine that the operator runs already.
//!
//! Learning is idempotent in the `MemoryStore` itself: a crash between the two
//! costs a repetition, never a double count, whichever backends are combined.
//!
//! Nothing here knows of actors or HTTP.

use std::fmt;

use async_trait::async_trait;
use jiff::Timestamp;
use rustc_hash::FxHashSet;
use sha2::{Digest, Sha256};

use crate::domain::agent_profile::AgentProfile;
use crate::domain::call_event::EventKey;
use crate::domain::caller_id::CallerId;
use crate::domain::greeting::Greeting;
use crate::domain::ids::{AgentId, ConversationId};
use crate::domain::learning::Learning;
use crate::domain::memory::Memory;
use crate::domain::name::CallerName;
use crate::domain::profile::{CallOrder, ConversationState, UniversalProfile};

mod archive;
mod openmemory;
mod sqlite;

pub use archive::{Archive, AudioSpool};
pub use openmemory::{Adopted, OpenMemoryStore};
pub use sqlite::{SqliteDatabase, SqliteLedger, SqliteMemoryStore, SqliteRecordIndex};

/// Why the store could not do what was asked. Never holds a caller's data.
#[derive(Debug, Clone, thiserror::Error)]
pub enum StoreError {
    /// The store is down, full, locked or too slow. Trying again may help.
    #[error("the store is unavailable: {0}")]
    Unavailable(String),
    /// What is stored cannot be read as what it should be.
    #[error("the store holds something unreadable: {0}")]
    Corrupt(String),
}

/// Result of a store operation.
pub type Result<T> = std::result::Result<T, StoreError>;

/// Identifies an event in the inbox; grows with arrival.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct EventId(pub i64);

impl fmt::Display for EventId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// What is still to be done with an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Stage {
    /// Tier 1, Tier 2 counts and memories. In order of arrival within a caller.
    Learn,
    /// The next greeting. Only the newest call of a caller and agent.
    Greet,
}

impl Stage {
    /// Every stage, in order.
    pub const ALL: [Self; 2] = [Self::Learn, Self::Greet];

    /// The name in the database.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Learn => "learn",
            Self::Greet => "greet",
        }
    }
}

/// An event to be taken into the inbox.
#[derive(Debug, Clone)]
pub struct NewEvent {
    /// Type, conversation and agent; type and conversation make it unique.
    pub key: EventKey,
    /// Whose call it is; events without a caller are only archived.
    pub caller: Option<CallerId>,
    /// When the call started: the order of greetings.
    pub started_at: Timestamp,
    /// Whether a greeting is to be made from it.
    pub greeting_wanted: bool,
    /// When it was received.
    pub received_at: Timestamp,
    /// The body as received.
    pub payload: Vec<u8>,
}

/// What became of an event that was offered to the inbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Accepted {
    /// It is new, and durable now.
    New,
    /// It was taken before; nothing has changed.
    Duplicate,
}

/// An event of the inbox whose turn it is.
#[derive(Debug, Clone)]
pub struct InboxEvent {
    /// Its place in the inbox.
    pub id: EventId,
    /// What is to be done with it.
    pub stage: Stage,
    /// Type, conversation and agent.
    pub key: EventKey,
    /// Whose call it is.
    pub caller: Option<CallerId>,
    /// The order of the call among its caller's calls.
    pub order: CallOrder,
    /// Failed tries in this stage, for whatever cause.
    pub attempts: u32,
    /// How often whoever worked on it failed.
    pub crashes: u32,
    /// How often the model's answers could not be used.
    pub unusable: u32,
    /// When it was received.
    pub received_at: Timestamp,
    /// The body as received.
    pub payload: bytes::Bytes,
}

/// An event whose body is to be written to the archive.
#[derive(Debug, Clone)]
pub struct Unarchived {
    /// Its place in the inbox.
    pub id: EventId,
    /// Type and conversation: where it is written.
    pub key: EventKey,
    /// Whether it is learned from as well.
    pub has_caller: bool,
    /// When it was received.
    pub received_at: Timestamp,
    /// The body as received.
    pub payload: bytes::Bytes,
}

/// Events whose turn it is.
#[derive(Debug, Clone, Default)]
pub struct Claimed {
    /// Those that can be worked on.
    pub events: Vec<InboxEvent>,
    /// Those that can no longer be read, and why.
    pub unreadable: Vec<(EventId, String)>,
}

/// What made an event be tried again. Outages pass and are waited for; the
/// other causes lie in the event and are counted on their own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RetryCause {
    /// A store or an upstream could not be had.
    Outage,
    /// Whoever worked on it failed or was stopped.
    Crash,
    /// The model's answers could not be used.
    Unusable,
}

/// How a stage of an event ended.
#[derive(Debug, Clone)]
pub enum Settlement {
    /// Learned; a greeting may be due.
    Learned,
    /// The greeting is stored, or none is to be made.
    Greeted,
    /// To be tried again at `run_at`.
    Retry {
        /// Not before this time.
        run_at: Timestamp,
        /// Why it failed, without any of the caller's data.
        error: String,
        /// What kind of failure it was.
        cause: RetryCause,
    },
    /// Given up; kept as a dead letter.
    Dead {
        /// Why, without any of the caller's data.
        error: String,
    },
}

/// What a settlement led to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Settled {
    /// The stage that follows, or `None` if there is none.
    pub next: Option<Stage>,
    /// When the events were received whose greetings this one made needless.
    pub superseded: Vec<Timestamp>,
}

/// The state of the inbox in numbers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct InboxStats {
    /// Events with something left to do.
    pub pending: u64,
    /// When the oldest of them was received.
    pub oldest: Option<Timestamp>,
    /// Events given up or never understood.
    pub dead_letters: u64,
}

/// A dead letter, without its body.
#[derive(Debug, Clone, serde::Serialize)]
pub struct DeadLetter {
    /// Its place in the inbox.
    pub id: i64,
    /// The event type, or `unknown`.
    pub kind: String,
    /// The conversation, if it names one.
    pub conversation_id: Option<String>,
    /// When it was received.
    pub received_at: Timestamp,
    /// Failed tries.
    pub attempts: u32,
    /// Why it was given up.
    pub error: String,
}

/// An agent profile as it was fetched.
#[derive(Debug, Clone)]
pub struct StoredAgent {
    /// The agent.
    pub agent: AgentId,
    /// What ElevenLabs said of it.
    pub profile: AgentProfile,
    /// When.
    pub fetched_at: Timestamp,
}

/// The inbox, dead letters and agent profiles.
#[async_trait]
pub trait Ledger: Send + Sync + 'static {
    /// Takes an event. When this returns `New`, the event survives a power loss.
    async fn accept(&self, event: NewEvent) -> Result<Accepted>;

    /// Keeps an authentic body that is no event we know. Asked twice with the
    /// same body, it keeps one.
    async fn keep_unknown(&self, payload: Vec<u8>, reason: &str, now: Timestamp) -> Result<()>;

    /// Events of `stage` whose time has come, oldest first, at most `limit`,
    /// without those in `busy`. Of the events of one caller that are to be
    /// learned, only the oldest.
    async fn claim(
        &self,
        stage: Stage,
        now: Timestamp,
        limit: usize,
        busy: Vec<EventId>,
    ) -> Result<Claimed>;

    /// Ends a stage of an event. Settling an event that is finished already
    /// changes nothing.
    async fn settle(&self, id: EventId, stage: Stage, how: Settlement) -> Result<Settled>;

    /// Events whose body is to be archived, oldest first: at most `limit`, and
    /// no more than `most_bytes` of bodies, but always one.
    async fn to_archive(
        &self,
        now: Timestamp,
        limit: usize,
        most_bytes: usize,
    ) -> Result<Vec<Unarchived>>;

    /// The bodies of these events are in the archive.
    async fn archived(&self, ids: Vec<EventId>) -> Result<()>;

    /// The bodies of these events are not archived before `at`.
    async fn archive_later(&self, ids: Vec<EventId>, at: Timestamp) -> Result<()>;

    /// The state of the inbox.
    async fn stats(&self) -> Result<InboxStats>;

    /// Dead letters, newest first.
    async fn dead_letters(&self, limit: usize) -> Result<Vec<DeadLetter>>;

    /// Gives a dead letter another chance. False if there is none with this
    /// id, or if it is of unknown type.
    async fn revive(&self, id: EventId, now: Timestamp) -> Result<bool>;

    /// Forgets finished events received before `before`. Their effects stay.
    async fn prune(&self, before: Timestamp) -> Result<u64>;

    /// Every agent profile kept.
    async fn agents(&self) -> Result<Vec<StoredAgent>>;

    /// Keeps an agent profile, replacing an earlier one.
    async fn save_agent(&self, agent: StoredAgent) -> Result<()>;

    /// Forgets an agent profile.
    async fn forget_agent(&self, agent: &AgentId) -> Result<()>;

    /// Writes something: proves that writing works.
    async fn check_writable(&self) -> Result<()>;
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
    /// From which call.
    pub conversation_id: ConversationId,
    /// The order of that call.
    pub order: CallOrder,
    /// The greeting and what came with it.
    pub greeting: Greeting,
    /// A name that the caller was heard to say, for a profile that has none.
    pub name: Option<CallerName>,
}

/// Both tiers after a greeting was offered.
#[derive(Debug, Clone, PartialEq)]
pub struct Greeted {
    /// False if a newer call's greeting was there already.
    pub stored: bool,
    /// Tier 1 as it is now.
    pub profile: UniversalProfile,
    /// Tier 2 as it is now.
    pub state: ConversationState,
}

/// A caller with a new name.
#[derive(Debug, Clone, PartialEq)]
pub struct Renamed {
    /// Tier 1 as it is now.
    pub profile: UniversalProfile,
    /// All of Tier 2 as it is now.
    pub states: Vec<(AgentId, ConversationState)>,
}

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

/// A short stand-in for a conversation id.
#[must_use]
pub fn call_mark(conversation: &ConversationId) -> String {
    hex::encode(&Sha256::digest(conversation.as_str())[..8])
}

/// Both tiers and the memories of callers.
#[async_trait]
pub trait MemoryStore: Send + Sync + 'static {
    /// Tier 1 of a caller.
    async fn universal_profile(&self, caller: &CallerId) -> Result<Option<UniversalProfile>>;

    /// Tier 2 of a caller: one state for each agent.
    async fn conversation_states(
        &self,
        caller: &CallerId,
    ) -> Result<Vec<(AgentId, ConversationState)>>;

    /// Applies a call, once for each `conversation_id`.
    async fn learn(&self, learning: &Learning) -> Result<Learned>;

    /// Stores a greeting unless that of a newer call is stored. `None` if the
    /// caller or the state is not there (never learned).
    async fn store_greeting(&self, greeting: &NewGreeting) -> Result<Option<Greeted>>;

    /// Replaces a caller's name, and drops what speaks the old one. `None` if
    /// there is no such caller.
    async fn rename(&self, caller: &CallerId, name: &CallerName) -> Result<Option<Renamed>>;

    /// A caller's memories in the order in which they were learned, the newest `limit`.
    async fn memories(&self, caller: &CallerId, limit: usize) -> Result<Vec<Memory>>;

    /// Every caller with a profile, in order.
    async fn callers(&self) -> Result<Vec<CallerId>>;

    /// Everything of a caller, to be copied elsewhere. `None` if there is no
    /// such caller.
    async fn export(&self, caller: &CallerId) -> Result<Option<CallerExport>>;

    /// Takes everything of a caller from elsewhere. Tiers are replaced,
    /// memories that are there already stay; asked twice, nothing changes.
    async fn import(&self, export: &CallerExport) -> Result<()>;

    /// Proves, as far as that does no harm, that writing works.
    async fn check_writable(&self) -> Result<()>;

    /// What it is, for logs and checks.
    async fn describe(&self) -> String;
}

/// What a [`RecordIndex`] keeps of a record.
#[derive(Debug, Clone)]
pub struct IndexedRecord {
    /// The key it is found under.
    pub key: String,
    /// Whose it is.
    pub caller: String,
    /// Its id in the store.
    pub id: String,
    /// When it was stored, in milliseconds since 1970.
    pub created_at: i64,
    /// How the store classifies it.
    pub sector: String,
    /// Its metadata as JSON, if they never change.
    pub metadata: Option<String>,
}

/// Where the records of a caller are in a store that cannot be asked for them:
/// OpenMemory's second generation. A cache, which can be rebuilt.
#[async_trait]
pub trait RecordIndex: Send + Sync + 'static {
    /// The records under a key, newest first, at most `limit`.
    async fn records(&self, key: &str, limit: usize) -> Result<Vec<IndexedRecord>>;

    /// Notes records; returns how many were new.
    async fn insert(&self, records: Vec<IndexedRecord>) -> Result<usize>;

    /// Whether everything in the store was indexed once.
    async fn is_complete(&self) -> Result<bool>;

    /// Everything in the store is indexed now.
    async fn set_complete(&self) -> Result<()>;

    /// Records of this caller may be stored from now on without being
    /// indexed. Noted already, the earlier time stands.
    async fn note_uncertain(&self, caller: &str, now: Timestamp) -> Result<()>;

    /// Since when that may be, if it may.
    async fn uncertain_since(&self, caller: &str) -> Result<Option<Timestamp>>;

    /// Everything of this caller is indexed.
    async fn forget_uncertain(&self, caller: &str) -> Result<()>;
}
