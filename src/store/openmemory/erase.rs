//! Removing what is kept of a caller.

use super::*;
use crate::domain::ids::ConversationId;

pub(super) async fn calls(store: &OpenMemoryStore, caller: &CallerId) -> Result<KnownCalls> {
    let Some(found) = store.profile_record(caller).await? else {
        return Ok(KnownCalls::default());
    };
    let memories = store.memories_of(caller, usize::MAX).await?;
    let mut conversations: Vec<ConversationId> =
        memories.into_iter().map(|m| m.conversation_id).collect();
    conversations.sort();
    conversations.dedup();
    Ok(KnownCalls {
        conversations,
        marks: found.value.learned,
    })
}

pub(super) async fn erase(_: &OpenMemoryStore, _: &CallerId) -> Result<ErasedMemory> {
    Err(StoreError::Unavailable(
        "erasing from OpenMemory is not there yet".into(),
    ))
}

pub(super) async fn expire(_: &OpenMemoryStore, _: Timestamp) -> Result<u64> {
    Ok(0)
}
