//! What a session lets others read without asking it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use arc_swap::ArcSwap;
use rustc_hash::FxHashMap;

use crate::domain::ids::AgentId;
use crate::domain::profile::{ConversationState, UniversalProfile};

use super::index::{IndexBudget, IndexCell};

/// Both tiers of one caller.
#[derive(Debug, Clone, Default)]
pub struct CallerView {
    /// Tier 1.
    pub profile: Option<UniversalProfile>,
    /// Tier 2, by agent.
    pub states: FxHashMap<AgentId, ConversationState>,
}

/// Written by the caller's session alone; read by rings and searches.
pub struct Published {
    view: ArcSwap<CallerView>,
    index: Arc<IndexCell>,
    created: Instant,
    /// Milliseconds from `created` to the last use: what idle means.
    last_used: AtomicU64,
}

impl Published {
    pub(super) fn new(view: CallerView, budget: Arc<IndexBudget>) -> Self {
        Self {
            view: ArcSwap::from_pointee(view),
            index: Arc::new(IndexCell::new(budget)),
            created: Instant::now(),
            last_used: AtomicU64::new(0),
        }
    }

    /// Both tiers as they are now.
    #[must_use]
    pub fn view(&self) -> Arc<CallerView> {
        self.view.load_full()
    }

    /// Whether the memories are loaded.
    #[must_use]
    pub fn is_indexed(&self) -> bool {
        self.index.is_loaded()
    }

    /// Notes that the caller is active.
    pub fn touch(&self) {
        let millis = u64::try_from(self.created.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.last_used.store(millis, Ordering::Relaxed);
    }

    /// When the caller was last active.
    #[must_use]
    pub fn last_used(&self) -> Instant {
        self.created + std::time::Duration::from_millis(self.last_used.load(Ordering::Relaxed))
    }

    /// The session is the only writer, so nothing is lost between load and store.
    pub(super) fn update(&self, change: impl FnOnce(&mut CallerView)) {
        let mut view = CallerView::clone(&self.view.load());
        change(&mut view);
        self.view.store(Arc::new(view));
    }

    /// The caller's memories, searchable if they are loaded.
    pub(in crate::actors) fn index(&self) -> Arc<IndexCell> {
        Arc::clone(&self.index)
    }
}
