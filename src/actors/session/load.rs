//! Reading a caller from the store, counted and timed.

use std::sync::Arc;
use std::time::Instant;

use super::index::IndexCell;
use super::{CallerView, Dependencies, Published};
use crate::domain::caller_id::CallerId;
use crate::domain::search::{Index, MAX_INDEXED};
use crate::log_events;
use crate::metric_definitions::{Tier, TierResult};
use crate::store::StoreError;

/// Tries to load memories while calls of the caller are being learned.
const LOADS: usize = 5;

impl Dependencies {
    /// Both tiers of a caller: one read.
    pub(super) async fn load(&self, caller: &CallerId) -> Result<CallerView, StoreError> {
        let started = Instant::now();
        let tiers = self.store.tiers(caller).await;
        let duration = started.elapsed();
        let found = |is_hit: bool| {
            if is_hit {
                TierResult::Hit
            } else {
                TierResult::Miss
            }
        };
        let (one, two) = match &tiers {
            Ok(tiers) => (
                found(tiers.profile.is_some()),
                found(!tiers.states.is_empty()),
            ),
            Err(error) => {
                // The guide's phrase, whatever the store.
                let shown = self.caller_ids.show(caller);
                log_events::tiers_unreadable(&shown, error);
                (TierResult::Error, TierResult::Error)
            }
        };
        for (tier, result) in [(Tier::One, one), (Tier::Two, two)] {
            self.metrics.tier_duration.get(tier).record(duration);
            self.metrics.tier_queries.get(tier).get(result).increment(1);
        }
        tiers.map(CallerView::from)
    }

    /// Makes a caller's memories searchable.
    pub(in crate::actors) async fn load_index(
        &self,
        caller: &CallerId,
        published: &Arc<Published>,
    ) -> Result<(), StoreError> {
        let cell = published.index();
        for _ in 0..LOADS {
            if cell.is_loaded() {
                return Ok(());
            }
            let (calls, version) = (cell.calls(), cell.expected());
            // A caller whom nobody knows has no memories.
            let memories = if published.view().profile.is_some() {
                self.store.memories(caller, MAX_INDEXED).await
            } else {
                Ok(Vec::new())
            };
            let memories = memories.inspect_err(|error| {
                let shown = self.caller_ids.show(caller);
                tracing::error!(%error, "HTTP error querying memories for {shown}");
            })?;
            let has_memories = !memories.is_empty();
            let place = Arc::clone(cell);
            // Not taken if a call was learned meanwhile: then once more.
            let built = move || place.load(Index::new(memories), calls, version);
            self.compute
                .run(built)
                .await
                .map_err(|e| StoreError::Unavailable(e.to_string()))?;
            if has_memories {
                self.attach_vectors(caller, cell).await;
            }
        }
        Err(StoreError::Unavailable(
            "the memories change faster than they can be read".into(),
        ))
    }

    /// Read once the index is there: a vector is either found, or whoever makes it
    /// finds the index.
    async fn attach_vectors(&self, caller: &CallerId, cell: &Arc<IndexCell>) {
        let Some(vectors) = &self.vectors else {
            return;
        };
        let vectors = vectors.of_caller(caller).await;
        if !vectors.is_empty() {
            let cell = Arc::clone(cell);
            // A panic leaves out nothing that searches cannot do without.
            let _ = self.compute.run(move || cell.attach(vectors)).await;
        }
    }
}
