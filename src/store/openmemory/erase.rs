//! Removing what is kept of a caller.

use super::records::{LEGACY_CONVERSATION, legacy_caller};
use super::*;
use crate::domain::ids::ConversationId;

/// Memories removed after one look at all records, because of their age.
const EXPIRED_AT_A_TIME: usize = 10_000;

pub(super) async fn calls(store: &OpenMemoryStore, caller: &CallerId) -> Result<KnownCalls> {
    let marks = store.profile_record(caller).await?;
    let marks = marks.map(|found| found.value.learned());
    let memories = store.memories_of(caller, usize::MAX).await?;
    let mut conversations: Vec<ConversationId> = memories
        .into_iter()
        .map(|memory| memory.conversation_id)
        .filter(|id| !id.as_str().starts_with(LEGACY_CONVERSATION))
        .collect();
    conversations.sort();
    conversations.dedup();
    Ok(KnownCalls {
        conversations,
        marks: marks.unwrap_or_default(),
    })
}

/// The profile goes last: it says what else there is, should this break off.
pub(super) async fn erase(store: &OpenMemoryStore, caller: &CallerId) -> Result<ErasedMemory> {
    let _lock = store.lock(caller).await;
    // Records whose ids were lost on the way are the caller's, too.
    store.settle_uncertain(caller).await?;
    if store.generation().await? == Generation::Second {
        // And those that others have stored since the start.
        store.catch_up().await?;
    }
    let profile = store.profile_record(caller).await?;
    let agents = profile.as_ref().map(|found| found.value.agents());
    let mut erased = ErasedMemory {
        profile: profile.is_some_and(|found| !found.value.is_provisional()),
        ..ErasedMemory::default()
    };
    for record in store.find_memories(caller, usize::MAX).await? {
        erased.memories += u64::from(store.delete(&record.id).await?);
    }
    for agent in agents.unwrap_or_default() {
        let found = store.delete_tier(&state_key(caller, &agent)).await?;
        erased.agents += u64::from(found);
    }
    store.delete_tier(&profile_key(caller)).await?;
    store.index.forget_caller(caller.as_str()).await?;
    store.forget_uncertain(caller).await?;
    Ok(erased)
}

/// The server cannot be asked by age, so that all of its records are looked at.
pub(super) async fn expire(store: &OpenMemoryStore, before: Timestamp) -> Result<u64> {
    let mut old = Vec::new();
    store
        .each_page(|page| {
            let is_old = |record: &&Record| match Metadata::of(record) {
                Some(Metadata::Memory(memory)) => memory.is_older_than(before),
                Some(_) => false,
                // Of the legacy system, and a caller's: others may use the server, too.
                None => {
                    is_legacy(record)
                        && is_callers(record)
                        && record.created_at < before.as_millisecond()
                }
            };
            let room = EXPIRED_AT_A_TIME.saturating_sub(old.len());
            old.extend(page.iter().filter(is_old).take(room).map(|r| r.id.clone()));
        })
        .await?;
    let mut gone = 0;
    for id in old {
        gone += u64::from(store.delete(&id).await?);
    }
    Ok(gone)
}

fn is_callers(record: &Record) -> bool {
    let user = record.user_id.as_deref();
    legacy_caller(record).is_some()
        || user.is_some_and(|id| CallerId::parse_unmistakable(id).is_some())
}

impl OpenMemoryStore {
    /// False if it was gone already.
    async fn delete(&self, id: &str) -> Result<bool> {
        let _permit = permit(&self.writes).await?;
        let deleted = self.client.delete(id).await;
        self.noticed(deleted).await
    }

    /// Deletes every record of a tier: there are several if answers were lost.
    async fn delete_tier(&self, key: &str) -> Result<bool> {
        let mut deleted = false;
        loop {
            let records = self.find_tier(key).await?;
            if records.is_empty() {
                return Ok(deleted);
            }
            for record in records {
                deleted |= self.delete(&record.id).await?;
            }
        }
    }
}
