//! What is learned from a call at once, before any greeting is made.

use jiff::Timestamp;

use super::call_event::Call;
use super::caller_id::CallerId;
use super::ids::{AgentId, ConversationId};
use super::language::Language;
use super::memory::{self, Memory};
use super::name::{self, Naming};

/// The change that one call makes to its caller, applied exactly once per
/// `conversation_id` however often it is asked for.
#[derive(Debug, Clone, PartialEq)]
pub struct Learning {
    /// The unit of exactly-once.
    pub conversation_id: ConversationId,
    /// Whose call it was.
    pub caller: CallerId,
    /// With which agent.
    pub agent: AgentId,
    /// When it started.
    pub started_at: Timestamp,
    /// In what language it was held, where that is known.
    pub language: Option<Language>,
    /// What it tells of the caller's name.
    pub naming: Naming,
    /// What is remembered of it.
    pub memories: Vec<Memory>,
}

impl Learning {
    /// What `call` teaches of `caller`, or `None` if it names no agent.
    #[must_use]
    pub fn from_call(call: &Call, caller: CallerId) -> Option<Self> {
        let agent = call.key.agent_id.clone()?;
        Some(Self {
            conversation_id: call.key.conversation_id.clone(),
            naming: name::told(&call.turns, &call.facts),
            memories: memory::of_call(call, &agent),
            started_at: call.started_at,
            language: call.language.clone(),
            caller,
            agent,
        })
    }
}
