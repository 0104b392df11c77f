//! Everything of a caller, to be copied to another store or taken from one.

use super::*;

pub(super) async fn callers(store: &OpenMemoryStore) -> Result<Vec<CallerId>> {
    let mut callers: Vec<CallerId> = Vec::new();
    store
        .each_page(|page| {
            callers.extend(
                page.iter()
                    .filter_map(|record| match Metadata::of(record)? {
                        Metadata::Profile(profile) if !profile.is_provisional() => {
                            CallerId::parse(profile.caller.get()?).ok()
                        }
                        _ => None,
                    }),
            );
        })
        .await?;
    callers.sort_unstable();
    callers.dedup();
    Ok(callers)
}

pub(super) async fn export(
    store: &OpenMemoryStore,
    caller: &CallerId,
) -> Result<Option<CallerExport>> {
    let Some(found) = store
        .profile_record(caller)
        .await?
        .filter(|f| !f.value.is_provisional())
    else {
        return Ok(None);
    };
    let profile = found.value.profile(caller);
    let mut states = store.states_of(caller, &found.value).await?;
    states.sort_by(|(a, _), (b, _)| a.cmp(b));
    let memories = store.memories_of(caller, usize::MAX).await?;
    Ok(Some(CallerExport {
        profile,
        states,
        memories,
        learned: found.value.learned(),
    }))
}

pub(super) async fn import(store: &OpenMemoryStore, export: &CallerExport) -> Result<()> {
    let caller = &export.profile.phone_number;
    let _lock = store.lock(caller).await;
    store.settle_uncertain(caller).await?;
    store.note_uncertain(caller).await?;
    store.add_memories(caller, &export.memories, true).await?;
    for (agent, state) in &export.states {
        let (id, mut record) = match store.state_record(caller, agent).await? {
            Some(found) => (Some(found.id), found.value),
            None => (None, StateRecord::new(caller, agent)),
        };
        record.set(state);
        store.save_state(id, record).await?;
    }
    let known = store.profile_record(caller).await?;
    let (id, mut record) = match known {
        Some(found) => (Some(found.id), found.value),
        None => (None, ProfileRecord::new(caller, export.profile.first_seen)),
    };
    record.set(&export.profile);
    for mark in &export.learned {
        record.note_learned(mark);
    }
    for (agent, _) in &export.states {
        record.add_agent(agent);
    }
    store.save_profile(id, record).await?;
    store.forget_uncertain(caller).await
}
