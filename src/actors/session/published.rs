//! What a session lets others read without asking it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use rustc_hash::FxHashMap;

use crate::domain::ids::AgentId;
use crate::domain::profile::{ConversationState, UniversalProfile};
use crate::domain::tiers::Tiers;

use super::index::{IndexBudget, IndexCell};

/// Both tiers of one caller.
#[derive(Debug, Clone, Default)]
pub struct CallerView {
    /// Tier 1.
    pub profile: Option<UniversalProfile>,
    /// Tier 2, by agent.
    pub states: FxHashMap<AgentId, Arc<ConversationState>>,
    /// As in [`Tiers`].
    pub memories: u64,
    pub decisions: u64,
}

impl From<Tiers> for CallerView {
    fn from(tiers: Tiers) -> Self {
        let states = tiers.states.into_iter();
        Self {
            profile: tiers.profile,
            states: states
                .map(|(agent, state)| (agent, Arc::new(state)))
                .collect(),
            memories: tiers.memories,
            decisions: tiers.decisions,
        }
    }
}

/// Written by the caller's session alone; read by rings and searches.
pub struct Published {
    view: ArcSwap<CallerView>,
    index: Arc<IndexCell>,
    created: Instant,
    /// Milliseconds from `created` to the last use: what idle means.
    last_used: AtomicU64,
    /// An actor may change it: it stays where rings find it.
    owned: AtomicBool,
}

impl Published {
    pub(super) fn new(view: CallerView, budget: Arc<IndexBudget>) -> Self {
        Self::with_index(view, Arc::new(IndexCell::new(budget)))
    }

    /// What is known by now, with the same index.
    pub(super) fn renewed(&self, view: CallerView) -> Self {
        Self::with_index(view, Arc::clone(&self.index))
    }

    fn with_index(view: CallerView, index: Arc<IndexCell>) -> Self {
        Self {
            view: ArcSwap::from_pointee(view),
            index,
            created: Instant::now(),
            last_used: AtomicU64::new(0),
            owned: AtomicBool::new(false),
        }
    }

    /// Which version of the decisions goes with this.
    pub(in crate::actors) fn decisions(&self) -> u64 {
        self.view.load().decisions
    }

    /// Both tiers as they are now.
    #[must_use]
    pub fn view(&self) -> Arc<CallerView> {
        self.view.load_full()
    }

    /// Notes that the caller is active.
    pub(super) fn touch(&self) {
        let millis = u64::try_from(self.created.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.last_used.store(millis, Ordering::Relaxed);
    }

    /// When the caller was last active.
    pub(super) fn last_used(&self) -> Instant {
        self.created + Duration::from_millis(self.last_used.load(Ordering::Relaxed))
    }

    pub(super) fn set_owned(&self, owned: bool) {
        self.owned.store(owned, Ordering::Release);
    }

    pub(super) fn is_owned(&self) -> bool {
        self.owned.load(Ordering::Acquire)
    }

    /// The session is the only writer, so nothing is lost between load and store.
    pub(super) fn update(&self, change: impl FnOnce(&mut CallerView)) {
        let mut view = CallerView::clone(&self.view.load());
        change(&mut view);
        self.view.store(Arc::new(view));
    }

    /// Nobody knows the caller any more.
    pub(super) fn forget(&self) {
        self.view.store(Arc::default());
        self.index.note_call(None);
    }

    /// The caller's memories, searchable if they are loaded.
    pub(in crate::actors) fn index(&self) -> &Arc<IndexCell> {
        &self.index
    }
}
