//! Reads what the legacy system left on the server.

use jiff::Timestamp;
use rustc_hash::FxHashMap;

use super::*;
use crate::domain::legacy::{LegacyMemory, LegacyProfile};

impl OpenMemoryStore {
    /// The legacy profiles of these callers, or of all, in their order. Callers
    /// without legacy memories are left out.
    ///
    /// The first generation is asked for each caller of a list; everything
    /// else needs one walk over all records.
    ///
    /// # Errors
    /// If the server fails.
    pub async fn legacy_profiles(
        &self,
        callers: Option<&[CallerId]>,
    ) -> Result<Vec<LegacyProfile>> {
        let mut memories: FxHashMap<CallerId, Vec<LegacyMemory>> = FxHashMap::default();
        let generation = self.generation().await?;
        match (generation, callers) {
            (Generation::First, Some(callers)) => {
                for caller in callers {
                    let found = self.find_memories(caller, usize::MAX).await?;
                    let found: Vec<LegacyMemory> = found.iter().filter_map(legacy).collect();
                    memories.insert(caller.clone(), found);
                }
            }
            (_, callers) => {
                let wanted: Option<FxHashSet<&CallerId>> = callers.map(|c| c.iter().collect());
                let mut seen: FxHashSet<String> = FxHashSet::default();
                self.each_page(|page| {
                    for record in page {
                        let user = record.user_id.as_deref().unwrap_or_default();
                        // A user of the legacy system is its caller, in any
                        // form; `user:…` are storage keys. In the second
                        // generation all records have the tenant.
                        let caller = Some(user)
                            .filter(|_| generation == Generation::First)
                            .filter(|u| !u.is_empty() && !u.starts_with("user:"))
                            .and_then(|u| CallerId::parse(u).ok())
                            .or_else(|| legacy_caller(record));
                        if let (Some(caller), Some(memory)) = (caller, legacy(record))
                            && wanted.as_ref().is_none_or(|w| w.contains(&caller))
                            && seen.insert(record.id.clone())
                        {
                            memories.entry(caller).or_default().push(memory);
                        }
                    }
                })
                .await?;
            }
        }
        let mut profiles: Vec<LegacyProfile> = memories
            .iter()
            .filter_map(|(caller, memories)| LegacyProfile::of(caller, memories))
            .collect();
        profiles.sort_by(|a, b| a.profile.phone_number.cmp(&b.profile.phone_number));
        Ok(profiles)
    }
}

impl OpenMemoryStore {
    /// The profile as it is shown: the record's, in a single tier completed
    /// from legacy memories that are not migrated.
    pub(super) async fn shown(
        &self,
        caller: &CallerId,
        record: Option<&ProfileRecord>,
    ) -> Result<Option<UniversalProfile>> {
        let known = record.filter(|r| !r.is_provisional());
        let migrated = record.is_some_and(ProfileRecord::has_legacy);
        let legacy = if self.legacy_profiles && !migrated {
            self.legacy_profile(caller).await?
        } else {
            None
        };
        Ok(match (known, legacy) {
            (Some(record), Some(legacy)) => Some(completed(record, &legacy)),
            (Some(record), None) => Some(record.profile(caller)),
            (None, legacy) => legacy.map(|l| l.profile),
        })
    }

    async fn legacy_profile(&self, caller: &CallerId) -> Result<Option<LegacyProfile>> {
        let found = self.find_legacy(caller).await?;
        if found.is_empty() {
            return Ok(None);
        }
        let caller = caller.clone();
        // A long history takes some milliseconds to read for a name.
        let read = tokio::task::spawn_blocking(move || {
            let memories: Vec<LegacyMemory> = found.iter().filter_map(legacy).collect();
            LegacyProfile::of(&caller, &memories)
        });
        read.await
            .map_err(|_| StoreError::Corrupt("legacy memories cannot be read".into()))
    }
}

/// What became of a legacy profile.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Adopted {
    /// It is the caller's Tier 1 now.
    New,
    /// The caller had a Tier 1 already; it was completed from it.
    Merged,
    /// It had been adopted before.
    AlreadyThere,
}

impl OpenMemoryStore {
    /// Makes a legacy profile the caller's Tier 1, or completes the one that
    /// is there: with its name if none is known, its earlier beginning, and its
    /// calls. Once for each caller, however often it is asked; a call that both
    /// systems saw counts once, also if it is still to be learned.
    ///
    /// # Errors
    /// If the server fails.
    pub async fn adopt(&self, legacy: &LegacyProfile, dry_run: bool) -> Result<Adopted> {
        let caller = &legacy.profile.phone_number;
        let _lock = self.lock(caller).await;
        let known = self.profile_record(caller).await?;
        let adopted = match &known {
            Some(found) if found.value.has_legacy() => return Ok(Adopted::AlreadyThere),
            Some(found) if !found.value.is_provisional() => Adopted::Merged,
            _ => Adopted::New,
        };
        if dry_run {
            return Ok(adopted);
        }
        self.settle_uncertain(caller).await?;
        self.note_uncertain(caller).await?;
        let (id, mut record) = match known {
            Some(found) => (Some(found.id), found.value),
            None => (None, ProfileRecord::new(caller, legacy.profile.first_seen)),
        };
        record.set(&completed(&record, legacy));
        record.set_legacy();
        for conversation in &legacy.conversations {
            record.note_legacy_call(&call_mark(conversation));
        }
        self.save_profile(id, record).await?;
        self.forget_uncertain(caller).await?;
        Ok(adopted)
    }
}

/// What a record and the legacy system know together.
fn completed(record: &ProfileRecord, legacy: &LegacyProfile) -> UniversalProfile {
    let known = record.profile(&legacy.profile.phone_number);
    let learned: FxHashSet<String> = record.learned().into_iter().collect();
    legacy.complete(known, |call| learned.contains(&call_mark(call)))
}

/// A record that is none of ours.
fn legacy(record: &Record) -> Option<LegacyMemory> {
    if !is_legacy(record) {
        return None;
    }
    Some(LegacyMemory {
        content: record.content.clone(),
        metadata: record.metadata.clone(),
        created_at: Timestamp::from_millisecond(record.created_at).ok()?,
    })
}
