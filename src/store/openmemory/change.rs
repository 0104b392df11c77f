//! The changes: learning a call, a greeting, a name. Each can be repeated from
//! any point at which it broke off.

use super::*;

pub(super) async fn learn(store: &OpenMemoryStore, learning: &Learning) -> Result<Learned> {
    let (caller, agent) = (&learning.caller, &learning.agent);
    let _lock = store.lock(caller).await;
    let mark = call_mark(&learning.conversation_id);
    store.settle_uncertain(caller).await?;
    let known = store.profile_record(caller).await?;
    if let Some(found) = &known
        && found.value.learned.contains(&mark)
    {
        let state = store
            .state_record(caller, agent)
            .await?
            .map(|f| f.value.state());
        let (Some(profile), Some(state)) = (found.value.profile(), state) else {
            return Err(StoreError::Corrupt(
                "a learned call belongs to somebody else".into(),
            ));
        };
        return Ok(Learned {
            applied: false,
            profile,
            state,
            others: Vec::new(),
        });
    }

    store.note_uncertain(caller).await?;
    let begun_before = store.begin(learning, known, &mark).await?;
    store
        .add_memories(caller, &learning.memories, begun_before)
        .await?;

    let mut state = match store.state_record(caller, agent).await? {
        Some(found) if found.value.learned.contains(&mark) => found.value.state(),
        found => {
            let known = found.as_ref().map(|f| f.value.state());
            let state = ConversationState::after_call(known, learning);
            let (id, learned) = found.map(|f| (f.id, f.value.learned)).unzip();
            let mut learned = learned.unwrap_or_default();
            note(&mut learned, &mark);
            let record = StateRecord {
                learned,
                ..StateRecord::new(caller, agent, &state)
            };
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
    let before = record.profile().filter(|_| !record.provisional);
    let known = before.as_ref().and_then(|p| p.name.clone());
    let profile = UniversalProfile::after_call(before, learning);
    // Before the name is noted, so that this is done again after a crash.
    let replaced = known.filter(|known| profile.name.as_ref() != Some(known));
    let mut others = Vec::new();
    if let Some(old) = &replaced {
        others = store.forget_name(caller, &record.agents(), old).await?;
        state.forget_name(old);
        others.retain(|(other, _)| other != agent);
    }
    record.set(&profile);
    note(&mut record.learned, &mark);
    record.pending.retain(|m| *m != mark);
    record.add_agent(agent);
    store.update(&id, &Metadata::Profile(record)).await?;
    store.forget_uncertain(caller).await?;
    Ok(Learned {
        applied: true,
        profile,
        state,
        others,
    })
}

pub(super) async fn store_greeting(
    store: &OpenMemoryStore,
    new: &NewGreeting,
) -> Result<Option<Greeted>> {
    let _lock = store.lock(&new.caller).await;
    let profile = store
        .profile_record(&new.caller)
        .await?
        .filter(|f| !f.value.provisional);
    let state = store.state_record(&new.caller, &new.agent).await?;
    let (Some(mut profile), Some(state)) = (profile, state) else {
        return Ok(None);
    };
    let greeted = Greeted::by(known(&profile.value)?, state.value.state(), new);
    if greeted.named {
        profile.value.set(&greeted.profile);
        store
            .update(&profile.id, &Metadata::Profile(profile.value))
            .await?;
    }
    if greeted.stored {
        store
            .replace_state(&new.caller, &new.agent, state, &greeted.state)
            .await?;
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
        .filter(|f| !f.value.provisional);
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
    let renamed = Renamed::to(name, now, known(&record)?, states);
    record.set(&renamed.profile);
    store.update(&id, &Metadata::Profile(record)).await?;
    for ((agent, state), found) in renamed.states.iter().zip(found) {
        if renamed.changed.contains(agent) {
            store.replace_state(caller, agent, found, state).await?;
        }
    }
    Ok(Some(renamed))
}

fn known(record: &ProfileRecord) -> Result<UniversalProfile> {
    record
        .profile()
        .ok_or_else(|| StoreError::Corrupt("a profile has no caller".into()))
}

impl OpenMemoryStore {
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
            Some(found) if found.value.pending.iter().any(|m| m == mark) => Ok(true),
            Some(mut found) => {
                found.value.pending.push(mark.to_owned());
                self.update(&found.id, &Metadata::Profile(found.value))
                    .await?;
                Ok(false)
            }
            None => {
                let mut provisional = ProfileRecord::new(caller, learning.started_at);
                provisional.pending.push(mark.to_owned());
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
        let key = record.key.clone();
        self.add(&Metadata::Profile(record), "Universal caller profile", &key)
            .await
    }

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
                    self.replace_state(caller, agent, found, &state).await?;
                    changed.push((agent.clone(), state));
                }
            }
        }
        Ok(changed)
    }

    /// Keeps a new state in the place of one that was found.
    async fn replace_state(
        &self,
        caller: &CallerId,
        agent: &AgentId,
        found: Found<StateRecord>,
        state: &ConversationState,
    ) -> Result<()> {
        let record = StateRecord {
            learned: found.value.learned,
            ..StateRecord::new(caller, agent, state)
        };
        self.save_state(Some(found.id), record).await
    }

    pub(super) async fn save_state(&self, id: Option<String>, record: StateRecord) -> Result<()> {
        if let Some(id) = id {
            return self.update(&id, &Metadata::State(record)).await;
        }
        let key = record.key.clone();
        self.add(
            &Metadata::State(record),
            "Conversation state of a caller with an agent",
            &key,
        )
        .await
    }
}
