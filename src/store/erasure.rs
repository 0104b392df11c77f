//! Erasing a caller: everything, everywhere, for good.

use jiff::Timestamp;
use serde::Serialize;

use super::{ErasedEvents, ErasedMemory, Ledger, MemoryStore, Result};
use crate::domain::caller_id::CallerId;

/// What was removed from the databases. The archive's files follow.
#[derive(Debug, Clone, Default)]
pub struct Erasure {
    pub events: ErasedEvents,
    pub memory: ErasedMemory,
}

/// What an operator can show whoever asked for the erasure (design, "Privacy").
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Receipt {
    /// The caller, masked.
    pub caller: String,
    pub erased_at: Timestamp,
    /// Whether anything was kept of the caller.
    pub found: bool,
    /// Whether there was a Tier 1.
    pub profile: bool,
    /// Agents that had a Tier 2.
    pub agents: u64,
    pub memories: u64,
    /// Post-call events, dead letters among them.
    pub events: u64,
    pub dead_letters: u64,
    /// Transcripts and recordings in the archive.
    pub files: u64,
    /// Conversations deleted at ElevenLabs, where that was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub elevenlabs: Option<u64>,
    /// What could not be removed, and why. Empty if all is gone.
    pub left: Vec<String>,
}

impl Receipt {
    /// A receipt for nothing yet.
    #[must_use]
    pub fn new(caller: &CallerId, now: Timestamp) -> Self {
        Self {
            caller: caller.masked(),
            erased_at: now,
            found: false,
            profile: false,
            agents: 0,
            memories: 0,
            events: 0,
            dead_letters: 0,
            files: 0,
            elevenlabs: None,
            left: Vec::new(),
        }
    }

    /// Adds what the databases held.
    pub fn add(&mut self, events: &ErasedEvents, memory: ErasedMemory) {
        self.found |= memory != ErasedMemory::default() || *events != ErasedEvents::default();
        self.profile |= memory.profile;
        self.agents += memory.agents;
        self.memories += memory.memories;
        self.events += events.events.len() as u64;
        self.dead_letters += events.dead_letters;
    }
}

/// Removes a caller from both stores. The calls are noted as erased before
/// anything is gone, so that a delivery that comes late, or a greeting that is
/// being made, brings nothing back; breaking off in between, it can be repeated.
///
/// # Errors
/// If a store fails.
pub async fn erase(
    ledger: &dyn Ledger,
    store: &dyn MemoryStore,
    caller: &CallerId,
    now: Timestamp,
) -> Result<Erasure> {
    let known = store.calls(caller).await?;
    let events = ledger.erase(caller, known, now).await?;
    let memory = store.erase(caller).await?;
    Ok(Erasure { events, memory })
}
