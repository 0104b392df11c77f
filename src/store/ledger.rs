//! What the ledger keeps: the durable inbox, dead letters, agent profiles.

use std::fmt;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use jiff::Timestamp;
use strum::{EnumIter, IntoStaticStr};

use super::{KnownCalls, Result};
use crate::domain::agent_profile::AgentProfile;
use crate::domain::call_event::EventKey;
use crate::domain::caller_id::CallerId;
use crate::domain::ids::{AgentId, ConversationId};
use crate::domain::profile::CallOrder;
use crate::domain::trace_context::TraceContext;

/// Longest pause before something in the ledger is tried again. What is put off
/// for longer has its time from a clock that was set back since, and is due.
pub const LONGEST_PAUSE: Duration = Duration::from_secs(5 * 60);

/// Identifies an event in the inbox; grows with arrival.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct EventId(pub i64);

impl fmt::Display for EventId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// What is still to be done with an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EnumIter, IntoStaticStr)]
#[strum(serialize_all = "lowercase")]
pub enum Stage {
    /// Tier 1, Tier 2 counts and memories. In order of arrival within a caller.
    Learn,
    /// The next greeting. Only the newest call of a caller and agent.
    Greet,
}

impl Stage {
    /// The name in the database.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        self.into()
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
    /// The trace of its receipt, with which the work on it goes on.
    pub trace: Option<TraceContext>,
    /// The body as received.
    pub payload: Vec<u8>,
}

/// What became of an event that was offered to the inbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Accepted {
    /// It is new, and durable now.
    New(EventId),
    /// It was taken before; nothing has changed.
    Duplicate,
    /// Its caller has opted out; nothing has changed.
    Unwanted,
}

/// The right to work on a stage of an event, from having claimed it. Where several
/// instances share a ledger it ends when another takes the event over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Claim {
    pub id: EventId,
    pub stage: Stage,
    /// Tells this claim from those before and after; 0 where there is one
    /// instance.
    pub fence: i64,
}

/// An event of the inbox whose turn it is.
#[derive(Debug, Clone)]
pub struct InboxEvent {
    /// Its place in the inbox.
    pub id: EventId,
    /// What is to be done with it.
    pub stage: Stage,
    /// See [`Claim`].
    pub fence: i64,
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
    /// Since when its greeting is due; `None` before it was learned.
    pub greet_since: Option<Timestamp>,
    /// The trace of its receipt.
    pub trace: Option<TraceContext>,
    /// How large its body is, in bytes.
    pub payload_bytes: usize,
}

impl InboxEvent {
    /// By what right it is worked on.
    #[must_use]
    pub fn claim(&self) -> Claim {
        Claim {
            id: self.id,
            stage: self.stage,
            fence: self.fence,
        }
    }
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
    pub payload: Bytes,
}

/// Events whose turn it is.
#[derive(Debug, Clone, Default)]
pub struct Claimed {
    /// Those that can be worked on.
    pub events: Vec<InboxEvent>,
    /// Those that can no longer be read, and why.
    pub unreadable: Vec<(Claim, String)>,
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
    /// Nothing of it may be kept: it is removed.
    Erased,
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

/// What of a caller was in the ledger.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ErasedEvents {
    /// Events removed, dead letters among them.
    pub events: Vec<EventId>,
    /// How many of them were dead letters.
    pub dead_letters: u64,
    /// Calls whose body was archived, and when it was received; or since when
    /// its files are known to be left.
    pub archived: Vec<(ConversationId, Timestamp)>,
    /// Calls whose files another instance may be writing at this moment.
    pub being_archived: Vec<ConversationId>,
    /// Every call of the caller whose id is known: whose files are to go.
    pub conversations: Vec<ConversationId>,
    /// Marks of further calls, whose ids are not known.
    pub marks: Vec<String>,
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
    pub agent: AgentId,
    /// What ElevenLabs said of it.
    pub profile: AgentProfile,
    pub fetched_at: Timestamp,
}

/// The instances that share a ledger.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fleet {
    /// How many live, this one included.
    pub instances: u32,
    /// Events that this one has taken over from others that were gone.
    pub taken_over: u64,
    /// How often this one was refused because another had taken its event over.
    pub refused: u64,
    /// Connections to the database in use: for rings, and for everything else.
    pub busy_connections: [u32; 2],
    /// Standbys that follow the database; zero where the user may not see them.
    pub standbys: u32,
    /// How far the standby that is furthest behind is behind the database; zero
    /// without one, or where the user may not see it (`pg_monitor`).
    pub replication_lag: Duration,
}

impl Default for Fleet {
    /// Alone.
    fn default() -> Self {
        Self {
            instances: 1,
            taken_over: 0,
            refused: 0,
            busy_connections: [0; 2],
            standbys: 0,
            replication_lag: Duration::ZERO,
        }
    }
}

/// The inbox, dead letters and agent profiles.
#[async_trait]
pub trait Ledger: Send + Sync + 'static {
    /// Takes an event. When this returns [`Accepted::New`], the event survives a power loss.
    async fn accept(&self, event: NewEvent) -> Result<Accepted>;

    /// Keeps an authentic body that is no event we know. Asked twice with the
    /// same body, it keeps one.
    async fn keep_unknown(&self, payload: Vec<u8>, reason: &str, now: Timestamp) -> Result<()>;

    /// Events of `stage` whose time has come, or is further away than
    /// [`LONGEST_PAUSE`], oldest first, at most `limit`, without those in
    /// `busy`, which are worked on here. Of the events of one caller that are to
    /// be learned, only the oldest. What this instance has claimed it gets
    /// again, others do not while it lives.
    async fn claim(
        &self,
        stage: Stage,
        now: Timestamp,
        limit: usize,
        busy: Vec<EventId>,
    ) -> Result<Claimed>;

    /// The body of an event as it was received. `None` if it is kept no longer.
    async fn payload(&self, id: EventId) -> Result<Option<Bytes>>;

    /// Ends a stage of an event. Settling an event that is finished already, or
    /// that another instance has taken over, changes nothing.
    async fn settle(&self, claim: Claim, how: Settlement) -> Result<Settled>;

    /// Events whose body is to be archived by now, or not for longer than
    /// [`LONGEST_PAUSE`], oldest first: at most `limit`, and no more than
    /// `most_bytes` of bodies, but always one.
    async fn to_archive(
        &self,
        now: Timestamp,
        limit: usize,
        most_bytes: usize,
    ) -> Result<Vec<Unarchived>>;

    /// The bodies of these events are in the archive. Those that are not in the
    /// inbox any more, because they were erased meanwhile: of them nothing may
    /// stay there.
    async fn archived(&self, ids: Vec<EventId>) -> Result<Vec<EventId>>;

    /// The bodies of these events are not archived before `at`. Those that are not
    /// in the inbox any more.
    async fn archive_later(&self, ids: Vec<EventId>, at: Timestamp) -> Result<Vec<EventId>>;

    /// The state of the inbox.
    async fn stats(&self) -> Result<InboxStats>;

    /// Dead letters, newest first.
    async fn dead_letters(&self, limit: usize) -> Result<Vec<DeadLetter>>;

    /// Gives a dead letter another chance. False if there is none with this
    /// id, or if it is of unknown type.
    async fn revive(&self, id: EventId, now: Timestamp) -> Result<bool>;

    /// A dead letter with its body. `None` if there is none with this id.
    async fn dead_letter(&self, id: EventId) -> Result<Option<(DeadLetter, Bytes)>>;

    /// Drops a dead letter for good. False if there is none with this id.
    async fn discard(&self, id: EventId) -> Result<bool>;

    /// Drops some of the dead letters received before `before`; returns how
    /// many, 0 when none is left.
    async fn expire_dead_letters(&self, before: Timestamp) -> Result<u64>;

    /// Removes every event of a caller, notes these and the `known` calls as
    /// erased, and that files are to be removed: in one transaction, so that
    /// whatever breaks off afterwards can go on.
    async fn erase(
        &self,
        caller: &CallerId,
        known: KnownCalls,
        now: Timestamp,
    ) -> Result<ErasedEvents>;

    /// As [`Self::erase`], of a call of a caller of whom nothing is kept: no
    /// memory store knows it, and only files are left to be removed. An erasure
    /// that the stores have still to take part in stays one.
    async fn withdraw(
        &self,
        caller: &CallerId,
        conversation: ConversationId,
        now: Timestamp,
    ) -> Result<()>;

    /// Those of these calls of which nothing was taken, learned or erased yet.
    async fn unknown_calls(&self, calls: Vec<ConversationId>) -> Result<Vec<ConversationId>>;

    /// Until when every call was looked for whose event never came; `None` if that
    /// was never done.
    async fn reconciled_until(&self) -> Result<Option<Timestamp>>;

    /// See [`Self::reconciled_until`].
    async fn set_reconciled_until(&self, until: Timestamp) -> Result<()>;

    /// Adds to what is counted for a day (UTC, `YYYY-MM-DD`).
    async fn add_figures(&self, day: String, figures: Vec<(String, u64)>) -> Result<()>;

    /// What was counted from a day on: day, name, value; in the order of days.
    async fn figures(&self, since: String) -> Result<Vec<(String, String, u64)>>;

    /// Forgets finished events received before `before`. Their effects stay.
    async fn prune(&self, before: Timestamp) -> Result<u64>;

    /// Every agent profile kept.
    async fn agents(&self) -> Result<Vec<StoredAgent>>;

    /// Keeps an agent profile, replacing an earlier one.
    async fn save_agent(&self, agent: StoredAgent) -> Result<()>;

    /// Forgets an agent profile.
    async fn forget_agent(&self, agent: &AgentId) -> Result<()>;

    /// The profiles that were saved since a version, perhaps some from before as
    /// well, each with its own. For what other instances save.
    async fn agents_since(&self, _version: u64) -> Result<Vec<(u64, StoredAgent)>> {
        Ok(Vec::new())
    }

    /// Who else there is.
    async fn fleet(&self) -> Result<Fleet> {
        Ok(Fleet::default())
    }

    /// Whether this instance is to do a job that one instance does for all; it
    /// stays with one that lives.
    async fn leads(&self, _job: &'static str) -> Result<bool> {
        Ok(true)
    }

    /// Writes something: proves that writing works.
    async fn check_writable(&self) -> Result<()>;
}
