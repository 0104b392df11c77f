//! The changes: learning a call, a greeting, a name. Each can be repeated from
//! any point at which it broke off.

use super::*;

impl OpenMemoryStore {
    pub(super) async fn learn_once(&self, learning: &Learning) -> Result<Learned> {
        let (caller, agent) = (&learning.caller, &learning.agent);
        let _lock = self.lock(caller).await;
        let mark = call_mark(&learning.conversation_id);
        self.settle_uncertain(caller).await?;
        let known = self.profile_record(caller).await?;
        if let Some(found) = &known
            && found.value.learned.contains(&mark)
        {
            let state = self
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
            });
        }

        self.note_uncertain(caller).await?;
        let begun_before = self.begin(learning, known, &mark).await?;
        self.add_memories(caller, &learning.memories, begun_before)
            .await?;

        let state = match self.state_record(caller, agent).await? {
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
                self.save_state(id, record).await?;
                state
            }
        };

        let Some(Found {
            id,
            value: mut record,
        }) = self.profile_record(caller).await?
        else {
            return Err(StoreError::Unavailable(
                "OpenMemory has lost a profile that it stored".into(),
            ));
        };
        let before = record.profile().filter(|_| !record.provisional);
        let profile = UniversalProfile::after_call(before, learning);
        record.set(&profile);
        note(&mut record.learned, &mark);
        record.pending.retain(|m| *m != mark);
        record.add_agent(agent);
        self.update(&id, &Metadata::Profile(record)).await?;
        self.forget_uncertain(caller).await?;
        Ok(Learned {
            applied: true,
            profile,
            state,
        })
    }

    pub(super) async fn greet(&self, new: &NewGreeting) -> Result<Option<Greeted>> {
        let _lock = self.lock(&new.caller).await;
        let profile = self
            .profile_record(&new.caller)
            .await?
            .filter(|f| !f.value.provisional);
        let state = self.state_record(&new.caller, &new.agent).await?;
        let (Some(mut profile_record), Some(state_record)) = (profile, state) else {
            return Ok(None);
        };
        if profile_record.value.name.is_none() && new.name.is_some() {
            profile_record.value.name.clone_from(&new.name);
            self.update(
                &profile_record.id,
                &Metadata::Profile(profile_record.value.clone()),
            )
            .await?;
        }
        let profile = profile_record
            .value
            .profile()
            .ok_or_else(|| StoreError::Corrupt("a profile has no caller".into()))?;
        let state = state_record.value.state();
        let Some(greeted) = state.with_greeting(&new.greeting, new.order) else {
            return Ok(Some(Greeted {
                stored: false,
                profile,
                state,
            }));
        };
        let record = StateRecord {
            learned: state_record.value.learned,
            ..StateRecord::new(&new.caller, &new.agent, &greeted)
        };
        self.save_state(Some(state_record.id), record).await?;
        Ok(Some(Greeted {
            stored: true,
            profile,
            state: greeted,
        }))
    }

    pub(super) async fn change_name(
        &self,
        caller: &CallerId,
        name: &CallerName,
    ) -> Result<Option<Renamed>> {
        let _lock = self.lock(caller).await;
        let found = self
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
        let old = record.name.replace(name.clone());
        let agents: Vec<AgentId> = record
            .agents
            .iter()
            .filter_map(|a| AgentId::parse(a).ok())
            .collect();
        let profile = record
            .profile()
            .ok_or_else(|| StoreError::Corrupt("a profile has no caller".into()))?;
        self.update(&id, &Metadata::Profile(record)).await?;
        let mut states = Vec::new();
        for agent in agents {
            let Some(found) = self.state_record(caller, &agent).await? else {
                continue;
            };
            let mut state = found.value.state();
            if old
                .as_ref()
                .is_some_and(|old| old != name && state.forget_name(old))
            {
                let learned = found.value.learned;
                let record = StateRecord {
                    learned,
                    ..StateRecord::new(caller, &agent, &state)
                };
                self.save_state(Some(found.id), record).await?;
            }
            states.push((agent, state));
        }
        Ok(Some(Renamed { profile, states }))
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
            for memory in self.all_memories(caller, usize::MAX).await? {
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
