//! The keys under which records are found (guide, "OpenMemory storage keys").

use crate::domain::caller_id::CallerId;
use crate::domain::ids::AgentId;

/// The key of a caller's Tier 1 (guide, OpenMemory storage keys).
pub(super) fn profile_key(caller: &CallerId) -> String {
    format!("user:{}:profile", caller.as_str())
}

/// The key of a caller's Tier 2 with an agent.
pub(super) fn state_key(caller: &CallerId, agent: &AgentId) -> String {
    format!("user:{}:agent:{agent}:next_greeting", caller.as_str())
}

/// The key of a caller's memories: the caller, as the legacy system had it.
pub(super) fn memories_key(caller: &CallerId) -> String {
    caller.as_str().to_owned()
}

/// The key of what the legacy system left of a caller, in the index alone.
pub(super) fn legacy_key(caller: &CallerId) -> String {
    format!("legacy:{}", caller.as_str())
}
