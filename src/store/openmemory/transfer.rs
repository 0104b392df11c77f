//! Everything of a caller, to be copied to another store or taken from one.

use super::*;

impl OpenMemoryStore {
    pub(super) async fn all_callers(&self) -> Result<Vec<CallerId>> {
        let mut callers: Vec<CallerId> = Vec::new();
        self.each_page(|page| {
            callers.extend(
                page.iter()
                    .filter_map(|record| match Metadata::of(record)? {
                        Metadata::Profile(profile) if !profile.provisional => {
                            CallerId::parse(&profile.caller).ok()
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

    pub(super) async fn read_out(&self, caller: &CallerId) -> Result<Option<CallerExport>> {
        let Some(found) = self
            .profile_record(caller)
            .await?
            .filter(|f| !f.value.provisional)
        else {
            return Ok(None);
        };
        let profile = found
            .value
            .profile()
            .ok_or_else(|| StoreError::Corrupt("a profile has no caller".into()))?;
        let mut states = self.conversation_states(caller).await?;
        states.sort_by(|(a, _), (b, _)| a.cmp(b));
        let memories = self.all_memories(caller, usize::MAX).await?;
        Ok(Some(CallerExport {
            profile,
            states,
            memories,
            learned: found.value.learned,
        }))
    }

    pub(super) async fn take_in(&self, export: &CallerExport) -> Result<()> {
        let caller = &export.profile.phone_number;
        let _lock = self.lock(caller).await;
        self.settle_uncertain(caller).await?;
        self.note_uncertain(caller).await?;
        self.add_memories(caller, &export.memories, true).await?;
        for (agent, state) in &export.states {
            let found = self.state_record(caller, agent).await?;
            let (id, learned) = found.map(|f| (f.id, f.value.learned)).unzip();
            let learned = learned.unwrap_or_default();
            let record = StateRecord {
                learned,
                ..StateRecord::new(caller, agent, state)
            };
            self.save_state(id, record).await?;
        }
        let known = self.profile_record(caller).await?;
        let (id, mut record) = match known {
            Some(found) => (Some(found.id), found.value),
            None => (None, ProfileRecord::new(caller, export.profile.first_seen)),
        };
        record.set(&export.profile);
        for mark in &export.learned {
            note(&mut record.learned, mark);
        }
        for (agent, _) in &export.states {
            record.add_agent(agent);
        }
        self.save_profile(id, record).await?;
        self.forget_uncertain(caller).await
    }
}
