//! Reads what the legacy system left on the server.

use jiff::Timestamp;
use rustc_hash::FxHashMap;

use super::*;
use crate::domain::legacy::{self, LegacyMemory};

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
    ) -> Result<Vec<UniversalProfile>> {
        let mut memories: FxHashMap<CallerId, Vec<LegacyMemory>> = FxHashMap::default();
        match (self.generation().await?, callers) {
            (Generation::First, Some(callers)) => {
                for caller in callers {
                    let found = self.find_memories(caller.as_str(), usize::MAX).await?;
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
                        // form; `user:…` are storage keys.
                        let caller = Some(user)
                            .filter(|u| !u.is_empty() && !u.starts_with("user:"))
                            .and_then(|u| CallerId::parse(u).ok())
                            .or_else(|| legacy::caller_of(&record.metadata));
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
        let mut profiles: Vec<UniversalProfile> = memories
            .iter()
            .filter_map(|(caller, memories)| legacy::profile_of(caller, memories))
            .collect();
        profiles.sort_by(|a, b| a.phone_number.cmp(&b.phone_number));
        Ok(profiles)
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
    /// calls. Once for each caller, however often it is asked.
    ///
    /// # Errors
    /// If the server fails.
    pub async fn adopt(&self, legacy: &UniversalProfile, dry_run: bool) -> Result<Adopted> {
        let caller = &legacy.phone_number;
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
            None => (None, ProfileRecord::new(caller, legacy.first_seen)),
        };
        let known = record.profile(caller);
        let profile = UniversalProfile {
            phone_number: caller.clone(),
            name: known.name.or_else(|| legacy.name.clone()),
            first_seen: known.first_seen.min(legacy.first_seen),
            total_interactions: known.total_interactions + legacy.total_interactions,
        };
        record.set(&profile);
        record.set_legacy();
        self.save_profile(id, record).await?;
        self.forget_uncertain(caller).await?;
        Ok(adopted)
    }
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
