//! Conversations that have ended: listed, and read one by one.

use jiff::Timestamp;
use serde::Deserialize;
use serde_json::Value;

use super::account::{each, next_cursor, plain};
use super::{ElevenLabs, ElevenLabsError, MAX_ANSWER_BYTES, READ_AGENTS, Request};
use crate::domain::ids::{AgentId, ConversationId};

/// Largest conversation taken, in bytes: what a webhook may send by default.
const MAX_CONVERSATION_BYTES: usize = 64 * 1024 * 1024;

/// Which conversations are wanted.
#[derive(Debug, Clone, Default)]
pub struct ConversationQuery {
    /// Of this agent; `None` of all.
    pub agent: Option<AgentId>,
    /// Of this caller, as told in the answers to rings (`user_id`).
    pub user_id: Option<String>,
    /// Started at or after this time.
    pub after: Option<Timestamp>,
    /// Started before this time.
    pub before: Option<Timestamp>,
    /// The page: `None` for the first.
    pub cursor: Option<String>,
}

/// A page of conversations.
#[derive(Debug, Clone, Default)]
pub struct ConversationPage {
    pub conversations: Vec<ListedConversation>,
    /// Of the next page, if there is one.
    pub next: Option<String>,
}

/// A conversation in a list.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct ListedConversation {
    pub conversation_id: String,
    pub agent_id: String,
    /// When it started, in seconds since 1970.
    pub start_time_unix_secs: i64,
    /// `initiated`, `in-progress`, `processing`, `done` or `failed`.
    #[serde(default)]
    pub status: String,
}

impl ElevenLabs {
    /// A page of conversations, a hundred at most.
    ///
    /// # Errors
    /// [`ElevenLabsError`]
    pub async fn conversations(
        &self,
        query: &ConversationQuery,
    ) -> Result<ConversationPage, ElevenLabsError> {
        let seconds = |time: Option<Timestamp>| time.map(|time| time.as_second().to_string());
        let request = Request::get("convai/conversations", READ_AGENTS)
            .query("page_size", "100".to_owned())
            .query("sort_direction", "asc".to_owned())
            .query_if("agent_id", query.agent.as_ref().map(AgentId::as_str))
            .query_if("user_id", query.user_id.as_deref())
            .query_if("call_start_after_unix", seconds(query.after).as_deref())
            .query_if("call_start_before_unix", seconds(query.before).as_deref())
            .query_if("cursor", query.cursor.as_deref());
        let body = self.body(request, MAX_ANSWER_BYTES).await?;
        let page: Value = serde_json::from_slice(&body).map_err(|_| ElevenLabsError::Unusable)?;
        Ok(ConversationPage {
            conversations: each(&page["conversations"])?,
            next: next_cursor(&page).filter(|next| query.cursor.as_ref() != Some(next)),
        })
    }

    /// A conversation, as it stands in `data` of a post-call event: JSON.
    ///
    /// # Errors
    /// [`ElevenLabsError`]
    pub async fn conversation(
        &self,
        conversation: &ConversationId,
    ) -> Result<Vec<u8>, ElevenLabsError> {
        let path = format!("convai/conversations/{}", plain(conversation.as_str())?);
        let request = Request::get(path, READ_AGENTS);
        self.body(request, MAX_CONVERSATION_BYTES).await
    }
}
