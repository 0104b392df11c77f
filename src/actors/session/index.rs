//! The search indexes of all sessions, bounded by the memory they take.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock, Weak};

use crate::domain::ids::AgentId;
use crate::domain::memory::Memory;
use crate::domain::search::{Index, MAX_INDEXED};

/// Memory for all indexes together, in bytes; the longest unused ones go first.
const BUDGET: usize = 256 * 1024 * 1024;
/// An index that has grown by this many memories over what is searched is
/// loaded anew, so that a session that never ends stays bounded.
const MAX_GROWTH: usize = 2_000;

/// What all indexes share.
pub(in crate::actors) struct IndexBudget {
    limit: usize,
    used: AtomicUsize,
    /// Loaded indexes in the order in which they were loaded or last spared.
    loaded: Mutex<VecDeque<Weak<IndexCell>>>,
}

impl Default for IndexBudget {
    fn default() -> Self {
        Self::new(BUDGET)
    }
}

impl IndexBudget {
    fn new(limit: usize) -> Self {
        Self {
            limit,
            used: AtomicUsize::new(0),
            loaded: Mutex::default(),
        }
    }

    fn add(&self, cell: &Arc<IndexCell>) {
        let mut loaded = self.loaded.lock().unwrap_or_else(PoisonError::into_inner);
        // Cells of sessions that have ended.
        while loaded.front().is_some_and(|cell| cell.strong_count() == 0) {
            loaded.pop_front();
        }
        loaded.push_back(Arc::downgrade(cell));
    }

    /// Unloads what was longest unused until the rest fits. Looks at each
    /// index twice at most: what was used since is spared once.
    fn enforce(&self) {
        let mut looks = 2 * self
            .loaded
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .len();
        while self.used.load(Ordering::Relaxed) > self.limit && looks > 0 {
            looks -= 1;
            let mut loaded = self.loaded.lock().unwrap_or_else(PoisonError::into_inner);
            let Some(weak) = loaded.pop_front() else {
                return;
            };
            let Some(cell) = weak.upgrade() else {
                continue;
            };
            if cell.searched.swap(false, Ordering::Relaxed) {
                loaded.push_back(weak);
            } else {
                drop(loaded);
                cell.unload();
            }
        }
    }
}

/// One caller's index, if it is loaded. All that takes time in it belongs on a
/// computing thread.
pub(in crate::actors) struct IndexCell {
    index: RwLock<Option<Index>>,
    /// Apart, so that a ring takes no lock.
    loaded: AtomicBool,
    /// Searched since the budget last looked.
    searched: AtomicBool,
    bytes: AtomicUsize,
    budget: Arc<IndexBudget>,
}

impl IndexCell {
    pub fn new(budget: Arc<IndexBudget>) -> Self {
        Self {
            index: RwLock::new(None),
            loaded: AtomicBool::new(false),
            searched: AtomicBool::new(false),
            bytes: AtomicUsize::new(0),
            budget,
        }
    }

    pub fn is_loaded(&self) -> bool {
        self.loaded.load(Ordering::Acquire)
    }

    pub fn load(self: &Arc<Self>, index: Index) {
        // What was just loaded is about to be searched.
        self.searched.store(true, Ordering::Relaxed);
        let old = {
            let mut place = self.index.write().unwrap_or_else(PoisonError::into_inner);
            self.account(index.bytes());
            self.loaded.store(true, Ordering::Release);
            place.replace(index)
        };
        free(old);
        self.budget.add(self);
        self.budget.enforce();
    }

    /// Adds memories; false if the index is not loaded (any more).
    pub fn extend(&self, memories: Vec<Memory>) -> bool {
        let extended = {
            let mut place = self.index.write().unwrap_or_else(PoisonError::into_inner);
            let Some(index) = place.as_mut() else {
                return false;
            };
            index.extend(memories);
            self.account(index.bytes());
            index.len() <= MAX_INDEXED + MAX_GROWTH
        };
        if extended {
            self.budget.enforce();
        } else {
            self.unload();
        }
        true
    }

    /// `None` if the index is not loaded.
    pub fn search(&self, query: &str, agent: &AgentId) -> Option<Vec<Memory>> {
        self.searched.store(true, Ordering::Relaxed);
        let index = self.index.read().unwrap_or_else(PoisonError::into_inner);
        let found = index.as_ref()?.search(query, agent);
        Some(found.into_iter().cloned().collect())
    }

    pub fn unload(&self) {
        let old = {
            let mut place = self.index.write().unwrap_or_else(PoisonError::into_inner);
            self.account(0);
            self.loaded.store(false, Ordering::Release);
            place.take()
        };
        free(old);
    }

    /// Under the index's lock: the budget counts what is there.
    fn account(&self, bytes: usize) {
        let before = self.bytes.swap(bytes, Ordering::Relaxed);
        self.budget.used.fetch_add(bytes, Ordering::Relaxed);
        self.budget.used.fetch_sub(before, Ordering::Relaxed);
    }
}

impl Drop for IndexCell {
    fn drop(&mut self) {
        self.account(0);
        let index = self.index.get_mut().unwrap_or_else(PoisonError::into_inner);
        free(index.take());
    }
}

/// Thousands of memories take a moment to free; no runtime worker is to be
/// held for it.
fn free(index: Option<Index>) {
    if let Some(index) = index
        && let Ok(runtime) = tokio::runtime::Handle::try_current()
    {
        runtime.spawn_blocking(move || drop(index));
    }
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;
    use crate::domain::ids::ConversationId;
    use crate::domain::memory::MemoryKind;

    fn memories(count: usize) -> Vec<Memory> {
        (0..count)
            .map(|i| Memory {
                agent: None,
                conversation_id: ConversationId::parse("c").unwrap(),
                ordinal: 0,
                kind: MemoryKind::Turn,
                sector: MemoryKind::Turn.sector(),
                content: format!("rose number {i}"),
                before: String::new(),
                after: String::new(),
                salience: 0.7,
                timestamp: Timestamp::UNIX_EPOCH,
            })
            .collect()
    }

    fn cell(budget: &Arc<IndexBudget>) -> Arc<IndexCell> {
        Arc::new(IndexCell::new(Arc::clone(budget)))
    }

    #[test]
    fn the_longest_unsearched_index_goes_first_and_all_is_given_back() {
        let one = Index::new(memories(100)).bytes();
        let budget = Arc::new(IndexBudget::new(one * 5 / 2));
        let (a, b, c) = (cell(&budget), cell(&budget), cell(&budget));
        a.load(Index::new(memories(100)));
        b.load(Index::new(memories(100)));
        // Both count as used once; the third needs a place.
        b.searched.store(false, Ordering::Relaxed);
        c.load(Index::new(memories(100)));
        assert!(a.is_loaded() && !b.is_loaded() && c.is_loaded());
        assert_eq!(b.search("rose", &AgentId::parse("a").unwrap()), None);
        assert!(!b.extend(memories(1)));
        drop((a, c));
        assert_eq!(budget.used.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn an_index_that_only_grows_is_given_up_and_loaded_anew() {
        let budget = Arc::new(IndexBudget::default());
        let cell = cell(&budget);
        cell.load(Index::new(memories(MAX_INDEXED)));
        assert!(cell.extend(memories(MAX_GROWTH)) && cell.is_loaded());
        assert!(cell.extend(memories(1)) && !cell.is_loaded());
    }
}
