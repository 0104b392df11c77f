//! The changes: learning a call, a greeting, a name. Each can be repeated from
//! any point at which it broke off.

use super::*;

pub(super) async fn learn(store: &OpenMemoryStore, learning: &Learning) -> Result<Learned> {
    let (caller, agent) = (&learning.caller, &learning.agent);
    let _lock = store.lock(caller).await;
    let mark = call_mark(&learning.conversation_id);
    if store.index.is_erased(&mark).await? {
        return Err(StoreError::Erased);
    }
    store.settle_uncertain(caller).await?;
    let known = store.profile_record(caller).await?;
    if let Some(found) = &known
        && found.value.has_learned(&mark)
    {
        let profile = store.shown(caller, Some(&found.value)).await?;
        let state = store.state_record(caller, agent).await?;
        let (Some(profile), Some(state)) = (profile, state) else {
            return Err(StoreError::Corrupt(
                "a learned call belongs to somebody else".into(),
            ));
        };
        return Ok(Learned {
            applied: false,
            profile,
            state: state.value.state(),
            others: Vec::new(),
        });
    }

    store.note_uncertain(caller).await?;
    let begun_before = store.begin(learning, known, &mark).await?;
    store
        .add_memories(caller, &learning.memories, begun_before)
        .await?;

    let (id, mut record) = match store.state_record(caller, agent).await? {
        Some(found) => (Some(found.id), found.value),
        None => (None, StateRecord::new(caller, agent)),
    };
    let known = id.is_some().then(|| record.state());
    let mut state = match known {
        Some(counted) if record.has_learned(&mark) => counted,
        known => {
            let state = ConversationState::after_call(known, learning);
            record.set(&state);
            record.note_learned(&mark);
            store.save_state(id, record).await?;
            state
        }
    };

    let Some(Found {
        id,
        value: mut record,
    }) = store.profile_record(caller).await?
    else {
        return Err(StoreError::Unavailable(
            "OpenMemory has lost a profile that it stored".into(),
        ));
    };
    let known = record.known(caller);
    let old = known.as_ref().and_then(|p| p.name.clone());
    let mut profile = UniversalProfile::after_call(known, learning);
    // Before the name is noted, so that this is done again after a crash.
    let replaced = old.filter(|old| profile.name.as_ref() != Some(old));
    let mut others = Vec::new();
    if let Some(old) = &replaced {
        others = store.forget_name(caller, &record.agents(), old).await?;
        state.forget_name(old);
        others.retain(|(other, _)| other != agent);
    }
    if record.has_legacy_call(&mark) {
        profile.total_interactions = profile.total_interactions.saturating_sub(1);
    }
    record.set(&profile);
    record.note_learned(&mark);
    record.add_agent(agent);
    let shown = store.shown(caller, Some(&record)).await?;
    store.update(&id, &Metadata::Profile(record)).await?;
    store.forget_uncertain(caller).await?;
    Ok(Learned {
        applied: true,
        profile: shown.unwrap_or(profile),
        state,
        others,
    })
}

pub(super) async fn store_greeting(
    store: &OpenMemoryStore,
    new: &NewGreeting,
) -> Result<Option<Greeted>> {
    let _lock = store.lock(&new.caller).await;
    if store
        .index
        .is_erased(&call_mark(&new.conversation_id))
        .await?
    {
        return Ok(None);
    }
    let profile = store
        .profile_record(&new.caller)
        .await?
        .filter(|f| !f.value.is_provisional());
    let state = store.state_record(&new.caller, &new.agent).await?;
    let (Some(mut profile), Some(state)) = (profile, state) else {
        return Ok(None);
    };
    let known = profile.value.profile(&new.caller);
    let mut greeted = Greeted::by(known, state.value.state(), new);
    profile.value.set(&greeted.profile);
    if let Some(shown) = store.shown(&new.caller, Some(&profile.value)).await? {
        greeted.profile = shown;
    }
    if greeted.named {
        store
            .update(&profile.id, &Metadata::Profile(profile.value))
            .await?;
    }
    if greeted.stored {
        store.replace_state(state, &greeted.state).await?;
    }
    Ok(Some(greeted))
}

pub(super) async fn rename(
    store: &OpenMemoryStore,
    caller: &CallerId,
    name: &CallerName,
    now: Timestamp,
) -> Result<Option<Renamed>> {
    let _lock = store.lock(caller).await;
    let found = store
        .profile_record(caller)
        .await?
        .filter(|f| !f.value.is_provisional());
    let Some(Found {
        id,
        value: mut record,
    }) = found
    else {
        return Ok(None);
    };
    let (mut found, mut states) = (Vec::new(), Vec::new());
    for agent in record.agents() {
        if let Some(state) = store.state_record(caller, &agent).await? {
            states.push((agent, state.value.state()));
            found.push(state);
        }
    }
    let mut renamed = Renamed::to(name, now, record.profile(caller), states);
    record.set(&renamed.profile);
    if let Some(shown) = store.shown(caller, Some(&record)).await? {
        renamed.profile = shown;
    }
    store.update(&id, &Metadata::Profile(record)).await?;
    for ((agent, state), found) in renamed.states.iter().zip(found) {
        if renamed.changed.contains(agent) {
            store.replace_state(found, state).await?;
        }
    }
    Ok(Some(renamed))
}

impl OpenMemoryStore {
    /// Drops what the states with these agents say with a name that was wrong;
    /// those that changed.
    async fn forget_name(
        &self,
        caller: &CallerId,
        agents: &[AgentId],
        name: &CallerName,
    ) -> Result<Vec<(AgentId, ConversationState)>> {
        let mut changed = Vec::new();
        for agent in agents {
            if let Some(found) = self.state_record(caller, agent).await? {
                let mut state = found.value.state();
                if state.forget_name(name) {
                    self.replace_state(found, &state).await?;
                    changed.push((agent.clone(), state));
                }
            }
        }
        Ok(changed)
    }

    /// Marks the beginning of a call. True if it had been begun before, so
    /// that some of its memories may be there.
    async fn begin(
        &self,
        learning: &Learning,
        known: Option<Found<ProfileRecord>>,
        mark: &str,
    ) -> Result<bool> {
        let caller = &learning.caller;
        match known {
            Some(found) if found.value.has_begun(mark) => Ok(true),
            Some(mut found) => {
                found.value.note_begun(mark);
                // Should this break off, an erasure knows where to look.
                found.value.add_agent(&learning.agent);
                self.update(&found.id, &Metadata::Profile(found.value))
                    .await?;
                Ok(false)
            }
            None => {
                let mut provisional = ProfileRecord::new(caller, learning.started_at);
                provisional.note_begun(mark);
                self.save_profile(None, provisional).await?;
                Ok(false)
            }
        }
    }

    pub(super) async fn add_memories(
        &self,
        caller: &CallerId,
        memories: &[Memory],
        check: bool,
    ) -> Result<()> {
        let mut there: FxHashSet<(String, u32)> = FxHashSet::default();
        if check {
            for memory in self.memories_of(caller, usize::MAX).await? {
                there.insert((memory.conversation_id.to_string(), memory.ordinal));
            }
        }
        for memory in memories {
            let place = (memory.conversation_id.to_string(), memory.ordinal);
            if !there.contains(&place) {
                let unique = format!("{} {} {}", caller.as_str(), place.0, place.1);
                let record = MemoryRecord::new(caller, memory);
                self.add(&Metadata::Memory(record), &memory.content, &unique)
                    .await?;
            }
        }
        Ok(())
    }

    pub(super) async fn save_profile(
        &self,
        id: Option<String>,
        record: ProfileRecord,
    ) -> Result<()> {
        if let Some(id) = id {
            return self.update(&id, &Metadata::Profile(record)).await;
        }
        let record = Metadata::Profile(record);
        let key = record.key();
        self.add(&record, "Universal caller profile", &key).await
    }

    /// Keeps a new state in the place of one that was found.
    async fn replace_state(
        &self,
        mut found: Found<StateRecord>,
        state: &ConversationState,
    ) -> Result<()> {
        found.value.set(state);
        self.save_state(Some(found.id), found.value).await
    }

    pub(super) async fn save_state(&self, id: Option<String>, record: StateRecord) -> Result<()> {
        if let Some(id) = id {
            return self.update(&id, &Metadata::State(record)).await;
        }
        let record = Metadata::State(record);
        let key = record.key();
        self.add(
            &record,
            "Conversation state of a caller with an agent",
            &key,
        )
        .await
    }
}
