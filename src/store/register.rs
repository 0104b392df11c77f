//! What operators decide about callers, and the record of what operators did.

use async_trait::async_trait;
use jiff::Timestamp;
use serde::Serialize;

use super::Result;
use crate::domain::caller_id::CallerId;
use crate::domain::ids::ConversationId;
use crate::domain::standing::Standings;

/// A decision about a caller.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// Keep nothing of this caller from now on, or do again.
    OptOut(CallerId, bool),
    /// Several people use this number, or not any more.
    Share(CallerId, bool),
    /// The first is the second's number too; `None` parts them.
    Link(CallerId, Option<CallerId>),
}

/// What an operator did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct AuditEntry {
    pub at: Timestamp,
    /// The name of an admin key, or `command line`.
    pub who: String,
    pub action: String,
    /// A masked caller, an agent, or a dead letter's number.
    pub subject: String,
    pub outcome: String,
}

/// An erasure that has begun and not ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PendingErasure {
    pub caller: CallerId,
    /// Whose files are still to be removed.
    pub conversations: Vec<ConversationId>,
    /// Whether the stores have forgotten the caller, and only files are left.
    pub forgotten: bool,
}

/// The register. Always a SQL database of our own, beside the ledger.
#[async_trait]
pub trait Register: Send + Sync + 'static {
    /// Every decision in force.
    async fn standings(&self) -> Result<Standings>;

    /// The version of the decisions in force, where other instances take some, too.
    async fn version(&self) -> Result<u64> {
        Ok(0)
    }

    /// Takes a decision; taken before, nothing changes.
    async fn decide(&self, decision: Decision, now: Timestamp) -> Result<()>;

    /// Calls that no later delivery may bring back.
    async fn bury(&self, conversations: Vec<ConversationId>, now: Timestamp) -> Result<()>;

    /// Whether a call was erased.
    async fn is_erased(&self, conversation: &ConversationId) -> Result<bool>;

    /// When a caller was erased last: what was said before may not come back.
    async fn erased_at(&self, caller: &CallerId) -> Result<Option<Timestamp>>;

    /// Erasures to go on with, oldest first.
    async fn pending_erasures(&self) -> Result<Vec<PendingErasure>>;

    /// The stores have forgotten this caller; files are left.
    async fn note_forgotten(&self, caller: &CallerId) -> Result<()>;

    /// The files of these conversations are gone, too. With the last of them the
    /// erasure has ended, if the stores have forgotten the caller.
    async fn end_erasure(&self, caller: &CallerId, removed: Vec<ConversationId>) -> Result<()>;

    /// Adds to the audit log. Nothing in it is ever changed.
    async fn audit(&self, entry: AuditEntry) -> Result<()>;

    /// The newest entries of the audit log, newest first.
    async fn audit_log(&self, limit: usize) -> Result<Vec<AuditEntry>>;
}
