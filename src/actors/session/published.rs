//! What a session lets others read without asking it.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Instant;

use arc_swap::ArcSwap;
use rustc_hash::FxHashMap;

use crate::domain::ids::AgentId;
use crate::domain::memory::Memory;
use crate::domain::profile::{ConversationState, UniversalProfile};
use crate::domain::search::Index;

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
    index: RwLock<Index>,
    /// Whether the index is loaded; apart, so that a ring takes no lock.
    indexed: AtomicBool,
    created: Instant,
    /// Milliseconds from `created` to the last use: what idle means.
    last_used: AtomicU64,
}

impl Published {
    pub(super) fn new(view: CallerView) -> Self {
        Self {
            view: ArcSwap::from_pointee(view),
            index: RwLock::default(),
            indexed: AtomicBool::new(false),
            created: Instant::now(),
            last_used: AtomicU64::new(0),
        }
    }

    /// Both tiers as they are now.
    #[must_use]
    pub fn view(&self) -> Arc<CallerView> {
        self.view.load_full()
    }

    /// Searches the caller's memories that `agent` may know; `None` if they
    /// are not loaded.
    #[must_use]
    pub fn search(&self, query: &str, agent: &AgentId) -> Option<Vec<Memory>> {
        if !self.is_indexed() {
            return None;
        }
        let index = self.index.read().unwrap_or_else(PoisonError::into_inner);
        Some(index.search(query, agent).into_iter().cloned().collect())
    }

    /// Whether the memories are loaded.
    #[must_use]
    pub fn is_indexed(&self) -> bool {
        self.indexed.load(Ordering::Acquire)
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

    pub(super) fn set_index(&self, index: Index) {
        *self.index.write().unwrap_or_else(PoisonError::into_inner) = index;
        self.indexed.store(true, Ordering::Release);
    }

    pub(super) fn extend_index(&self, memories: Vec<Memory>) {
        self.index
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .extend(memories);
    }
}
