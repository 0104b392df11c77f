//! Keeping up with the other instances that share the database: what their
//! operators decided, which agents' profiles they have fetched, and how many
//! there are.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use rustc_hash::FxHashMap;

use super::agent_cache::AgentCache;
use super::directory::Directory;
use crate::domain::ids::AgentId;
use crate::metric_definitions::{Metrics, Pool};
use crate::store::{Fleet, Ledger, Result};

/// How often. Nothing that a ring shows waits for it.
const ROUND: Duration = Duration::from_secs(1);

/// How many instances there are, this one included. Cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct FleetSize(Arc<AtomicU32>);

impl Default for FleetSize {
    fn default() -> Self {
        Self(Arc::new(AtomicU32::new(1)))
    }
}

impl FleetSize {
    pub fn get(&self) -> NonZeroU32 {
        NonZeroU32::new(self.0.load(Ordering::Relaxed)).unwrap_or(NonZeroU32::MIN)
    }
}

/// What is kept up with.
pub(super) struct FleetWatch {
    pub ledger: Arc<dyn Ledger>,
    pub directory: Directory,
    pub agents: AgentCache,
    pub size: FleetSize,
    pub metrics: Arc<Metrics>,
}

impl FleetWatch {
    /// Keeps up for good.
    pub async fn keep_up(self) {
        let mut agents = FxHashMap::default();
        loop {
            match self.round(&mut agents).await {
                Ok(()) => {}
                Err(error) => tracing::error!(%error, "This instance cannot keep up with others"),
            }
            tokio::time::sleep(ROUND).await;
        }
    }

    async fn round(&self, agents: &mut FxHashMap<AgentId, u64>) -> Result<()> {
        let Fleet {
            instances,
            taken_over,
            refused,
            busy_connections,
            standbys,
            replication_lag,
        } = self.ledger.fleet().await?;
        self.size.0.store(instances, Ordering::Relaxed);
        self.metrics.instances.set(f64::from(instances));
        self.metrics.taken_over.absolute(taken_over);
        self.metrics.refused_claims.absolute(refused);
        for (pool, busy) in [Pool::Rings, Pool::Work].into_iter().zip(busy_connections) {
            self.metrics.busy_connections.get(pool).set(f64::from(busy));
        }
        let lag = replication_lag.as_secs_f64();
        self.metrics.standbys.set(f64::from(standbys));
        self.metrics.replication_lag.set(lag);
        self.directory.catch_up().await?;
        let newest = agents.values().copied().max().unwrap_or_default();
        let changed = self.ledger.agents_since(newest).await?;
        // Some come more than once; one that is not new says nothing.
        let changed = changed.into_iter().filter_map(|(version, stored)| {
            let known = agents.insert(stored.agent.clone(), version);
            (known != Some(version)).then_some(stored)
        });
        self.agents.catch_up(changed.collect());
        Ok(())
    }
}
