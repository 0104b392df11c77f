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
                    let found = self.find(caller.as_str(), usize::MAX).await?;
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
                        let caller = CallerId::parse_unmistakable(user)
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

/// A record that is none of ours.
fn legacy(record: &Record) -> Option<LegacyMemory> {
    if Metadata::of(record).is_some() {
        return None;
    }
    Some(LegacyMemory {
        content: record.content.clone(),
        metadata: record.metadata.clone(),
        created_at: Timestamp::from_millisecond(record.created_at).ok()?,
    })
}
