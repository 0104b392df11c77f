//! What a vector store keeps: what memories mean, and whose lack it. Always in
//! a SQL database of our own, beside the ledger, whatever store the memories are in.

use async_trait::async_trait;
use jiff::Timestamp;

use super::Result;
use crate::domain::caller_id::CallerId;
use crate::domain::ids::ConversationId;
use crate::domain::memory::MemoryVector;

/// How soon vectors are wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Urgency {
    /// A call was learned.
    Now,
    /// All callers are looked through, such as for another model.
    Sometime,
}

impl Urgency {
    /// From when on, in the queue's order.
    pub(super) fn not_before(self) -> i64 {
        match self {
            Self::Now => 0,
            Self::Sometime => 1,
        }
    }
}

/// A caller with memories that may lack a vector. What is made for it is taken
/// as long as the caller was not erased since.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WantingCaller {
    pub caller: CallerId,
    /// Its place in the queue; another one after an erasure.
    pub(crate) id: i64,
    /// How often it was asked for since.
    pub(crate) renewed: i64,
}

/// Vectors of memories, and the queue of callers that want some. Erased with
/// the caller by [`Ledger::erase`](super::Ledger::erase).
#[async_trait]
pub trait VectorStore: Send + Sync + 'static {
    /// A caller's vectors of one [kind](crate::clients::EmbeddingsOptions::kind),
    /// those of the newest `limit` memories.
    async fn vectors(
        &self,
        caller: &CallerId,
        kind: &str,
        limit: usize,
    ) -> Result<Vec<MemoryVector>>;

    /// Which of a caller's memories have a vector of this kind.
    async fn embedded(&self, caller: &CallerId, kind: &str) -> Result<Vec<(ConversationId, u32)>>;

    /// Notes that these callers may lack vectors. Those whom somebody has just
    /// talked to come before those who only have to be looked through.
    async fn want(&self, callers: Vec<CallerId>, urgency: Urgency) -> Result<()>;

    /// Who has waited longest, of those whose time has come.
    async fn next(&self, now: Timestamp) -> Result<Option<WantingCaller>>;

    /// How many callers wait.
    async fn waiting(&self) -> Result<u64>;

    /// Keeps vectors, in the place of others of the same memories. False, and
    /// nothing is kept, if the caller was erased since.
    async fn keep(
        &self,
        wanting: &WantingCaller,
        kind: &str,
        vectors: Vec<MemoryVector>,
    ) -> Result<bool>;

    /// The caller has all vectors, unless more were asked for meanwhile.
    async fn done(&self, wanting: &WantingCaller) -> Result<()>;

    /// The caller's turn comes again, not before `until`.
    async fn postpone(&self, wanting: &WantingCaller, until: Timestamp) -> Result<()>;

    /// Removes a caller's vectors, and the caller from the queue.
    async fn forget(&self, caller: &CallerId) -> Result<()>;

    /// Removes the vectors of memories from before `before`.
    async fn expire(&self, before: Timestamp) -> Result<()>;

    /// The kind that every caller has, or is queued for.
    async fn kind(&self) -> Result<Option<String>>;

    async fn set_kind(&self, kind: &str) -> Result<()>;

    /// Callers may have come, or calls, of whom nothing was queued: whoever makes
    /// vectors next queues everybody.
    async fn forget_kind(&self) -> Result<()>;
}
