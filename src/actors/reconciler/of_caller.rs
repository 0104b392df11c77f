//! A caller's conversations at ElevenLabs, to be erased there.

use jiff::Timestamp;

use super::round::{BrokenOff, fetch, page};
use super::{Connection, Place, Shared};
use crate::clients::{ConversationQuery, ElevenLabsError};
use crate::domain::call_event::{self, CallEvent};
use crate::domain::caller_id::CallerId;
use crate::domain::ids::ConversationId;
use crate::domain::reconciliation::Verdict;

/// Most pages of one caller's conversations: a hundred each.
const MAX_PAGES: usize = 50;

impl Shared {
    pub(super) async fn calls_of(
        &self,
        connection: &Connection,
        place: &Place,
        callers: &[CallerId],
    ) -> Result<Vec<ConversationId>, BrokenOff> {
        let agents = self.connected_agents(connection, place).await?.agents;
        let mut found = Vec::new();
        for caller in callers {
            let mut query = ConversationQuery {
                user_id: Some(caller.as_str().to_owned()),
                ..ConversationQuery::default()
            };
            let mut pages = 0;
            loop {
                pages += 1;
                if pages > MAX_PAGES {
                    return Err(BrokenOff::Endless);
                }
                let listed = page(connection.account.clone(), query.clone()).await?;
                for call in listed.conversations {
                    let is_ours = agents.iter().any(|agent| agent.as_str() == call.agent_id);
                    let Ok(id) = ConversationId::parse(&call.conversation_id) else {
                        continue;
                    };
                    if is_ours && self.is_of(connection, &id, callers).await? {
                        found.push(id);
                    }
                }
                match listed.next {
                    Some(next) => query.cursor = Some(next),
                    None => break,
                }
            }
        }
        Ok(found)
    }

    /// Whether a conversation is one of these callers', by what tells us callers.
    async fn is_of(
        &self,
        connection: &Connection,
        conversation: &ConversationId,
        callers: &[CallerId],
    ) -> Result<bool, BrokenOff> {
        let told = fetch(connection.account.clone(), conversation.clone())
            .await
            .1;
        let told = match told {
            Ok(told) => told,
            Err(ElevenLabsError::NotFound) => return Ok(false),
            Err(error) => return Err(error.into()),
        };
        let Verdict::Event(event) = self.judge(told).await? else {
            return Ok(false);
        };
        let rules = std::sync::Arc::clone(&self.caller_rules);
        let read = self
            .reading
            .run(move || call_event::parse(&event, Timestamp::now(), &rules))
            .await;
        Ok(match read {
            Ok(Ok(CallEvent::Transcription(call))) => {
                call.caller.is_some_and(|caller| callers.contains(&caller))
            }
            _ => false,
        })
    }
}
