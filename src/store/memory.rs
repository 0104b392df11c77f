//! What a memory store keeps: both tiers and the memories of callers.

use async_trait::async_trait;
use jiff::Timestamp;

use super::{CallerExport, Claim, Result};
use crate::domain::caller_id::CallerId;
use crate::domain::ids::ConversationId;
use crate::domain::learning::Learning;
use crate::domain::memory::Memory;
use crate::domain::name::CallerName;
use crate::domain::tiers::{Greeted, Learned, NewGreeting, Renamed, Tiers};

/// Calls of a caller that were learned.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct KnownCalls {
    /// Those whose id is known.
    pub conversations: Vec<ConversationId>,
    /// The [marks](super::call_mark) of all.
    pub marks: Vec<String>,
}

/// What of a caller was in the memory store.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ErasedMemory {
    /// Whether there was a Tier 1.
    pub profile: bool,
    /// Agents that had a Tier 2.
    pub agents: u64,
    pub memories: u64,
}

/// Both tiers and the memories of callers.
#[async_trait]
pub trait MemoryStore: Send + Sync + 'static {
    /// Both tiers of a caller, as they were at one moment. What a ring waits for.
    async fn tiers(&self, caller: &CallerId) -> Result<Tiers>;

    /// Whether other instances change it, too: then nothing read from it stays
    /// true.
    fn is_shared(&self) -> bool {
        false
    }

    /// Applies a call, once for each `conversation_id`. [`StoreError::Erased`]
    /// if the call was erased; [`StoreError::TakenOver`] if the `claim` does not
    /// hold any more, which a store that is not shared need not look at.
    ///
    /// [`StoreError::Erased`]: super::StoreError::Erased
    /// [`StoreError::TakenOver`]: super::StoreError::TakenOver
    async fn learn(&self, learning: &Learning, claim: Option<Claim>) -> Result<Learned>;

    /// Stores a greeting unless that of a newer call is stored. `None` if the
    /// caller or the state is not there (never learned). The `claim` is as in
    /// [`Self::learn`].
    async fn store_greeting(
        &self,
        greeting: &NewGreeting,
        claim: Option<Claim>,
    ) -> Result<Option<Greeted>>;

    /// Replaces a caller's name, and drops what speaks the old one. `None` if
    /// there is no such caller.
    async fn rename(
        &self,
        caller: &CallerId,
        name: &CallerName,
        now: Timestamp,
    ) -> Result<Option<Renamed>>;

    /// A caller's memories in the order in which they were learned, the newest `limit`.
    async fn memories(&self, caller: &CallerId, limit: usize) -> Result<Vec<Memory>>;

    /// The calls of a caller that were learned.
    async fn calls(&self, caller: &CallerId) -> Result<KnownCalls>;

    /// Removes everything of a caller; asked twice, nothing is left to remove.
    async fn erase(&self, caller: &CallerId) -> Result<ErasedMemory>;

    /// Adds what is known of a number to a person, and removes it there; asked
    /// twice, nothing is added twice. Nobody may change either meanwhile.
    async fn merge(&self, number: &CallerId, person: &CallerId) -> Result<()> {
        let Some(export) = self.export(number).await? else {
            return Ok(());
        };
        let known = self.export(person).await?;
        if let Some(merged) = export.merged_into(known, person) {
            self.import(&merged).await?;
        }
        self.erase(number).await?;
        Ok(())
    }

    /// Removes some of the memories of calls before `before`; returns how many,
    /// 0 when none is left.
    async fn expire_memories(&self, before: Timestamp) -> Result<u64>;

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
