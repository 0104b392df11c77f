//! The log lines that are a contract: the guide's phrases (Phase 4, Log
//! Queries, Troubleshooting), which people search for. They stand here and
//! nowhere else, so that none is reworded by accident.
//!
//! The phrases about OpenAI's errors are the texts of
//! [`OpenAiError`](crate::clients::OpenAiError).

use std::fmt::Display;

use crate::domain::ids::AgentId;
use crate::domain::personalization::Recognition;

/// People search for `client-data` to follow rings.
const RINGS: &str = "elaoms::client-data";

/// A ring was answered, and from what. One line, for the ring path is short.
pub(crate) fn ring_answered(caller: &impl Display, agent: &AgentId, recognition: Recognition) {
    match recognition {
        Recognition::Greeting => tracing::info!(
            target: RINGS,
            "Client-data webhook called for caller: {caller}, agent: {agent} - Found agent-specific greeting for {caller}"
        ),
        Recognition::Profile => tracing::info!(
            target: RINGS,
            "Client-data webhook called for caller: {caller}, agent: {agent} - Found universal profile for {caller}"
        ),
        Recognition::Unknown => tracing::info!(
            target: RINGS,
            "Client-data webhook called for caller: {caller}, agent: {agent} - No universal profile found for {caller} - New caller {caller} - using agent defaults"
        ),
    }
}

/// A ring without a number that could be remembered.
pub(crate) fn ring_withheld(agent: &AgentId) {
    tracing::info!(
        target: RINGS,
        "Client-data webhook called for caller: withheld, agent: {agent} - using agent defaults"
    );
}

/// A ring from a number that several people share.
pub(crate) fn ring_shared(caller: &impl Display, agent: &AgentId) {
    tracing::info!(
        target: RINGS,
        "Client-data webhook called for caller: {caller}, agent: {agent} - several people share the number - using agent defaults"
    );
}

/// A ring got the defaults because something went wrong.
pub(crate) fn ring_failed(caller: &impl Display, agent: &AgentId, error: &impl Display) {
    tracing::error!(
        target: RINGS,
        %error,
        "Client-data webhook called for caller: {caller}, agent: {agent} - {caller} is not recognised - using agent defaults"
    );
}

/// A read of both tiers failed.
pub(crate) fn tiers_unreadable(caller: &impl Display, error: &impl Display) {
    tracing::error!(%error, "HTTP error querying universal profile for {caller}");
}

/// A call is about to be learned.
pub(crate) fn processing_memories(caller: &impl Display, agent: &AgentId) {
    tracing::info!("Processing memories for caller: {caller}, agent: {agent}");
}

/// A call was learned.
pub(crate) fn profile_updated(caller: &impl Display) {
    tracing::info!("Updated universal profile for {caller}");
}

/// The model is about to be asked.
pub(crate) fn generating_greeting(caller: &impl Display, agent: &AgentId) {
    tracing::info!("Generating next greeting for {caller} with agent {agent}");
}

/// A greeting was stored.
pub(crate) fn greeting_stored(caller: &impl Display, agent: &AgentId) {
    tracing::info!("Stored agent-specific state for {caller} with agent {agent}");
}

/// An agent's profile was at hand for a greeting.
pub(crate) fn agent_cache_hit(agent: &AgentId) {
    tracing::info!("Cache hit for agent {agent}");
}

/// ElevenLabs is about to be asked for an agent.
pub(crate) fn fetching_agent(agent: &AgentId) {
    tracing::info!("Fetching agent profile {agent}");
}

/// ElevenLabs knows no such agent.
pub(crate) fn agent_not_found(agent: &AgentId) {
    tracing::warn!("Agent not found: {agent}");
}
