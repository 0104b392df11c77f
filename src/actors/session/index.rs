//! The search indexes of all sessions, bounded by the memory they take.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock, Weak};

use crate::domain::memory::{Memory, MemoryVector};
use crate::domain::search::{Hit, Index, MAX_INDEXED, Query};

/// Memory for all indexes together, in bytes; the longest unused ones go first.
const BUDGET: usize = 256 * 1024 * 1024;
/// An index that has grown by this many memories over what is searched is
/// loaded anew, so that a session that never ends stays bounded.
const MAX_GROWTH: usize = 2_000;

/// What all indexes share.
pub(in crate::actors) struct IndexBudget {
    limit: usize,
    used: AtomicUsize,
    /// How often all were forgotten.
    forgotten: AtomicU64,
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
            forgotten: AtomicU64::new(0),
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

    /// Unloads all, those that are being loaded as well.
    pub fn forget_all(&self) {
        self.forgotten.fetch_add(1, Ordering::AcqRel);
        let loaded =
            std::mem::take(&mut *self.loaded.lock().unwrap_or_else(PoisonError::into_inner));
        for cell in loaded {
            if let Some(cell) = cell.upgrade() {
                cell.note_call(None);
            }
        }
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
    index: RwLock<Option<Box<Index>>>,
    /// Apart, so that a ring takes no lock.
    loaded: AtomicBool,
    /// Whether it is known of some memory what it means; apart, so that a search
    /// takes no lock on a runtime thread.
    has_vectors: AtomicBool,
    /// Searched since the budget last looked.
    searched: AtomicBool,
    bytes: AtomicUsize,
    /// Calls learned since the session began: tells whether memories that were
    /// read are all there are.
    calls: AtomicU64,
    /// Of the memories that are loaded, and of those that there are by now, where
    /// other instances change them.
    version: AtomicU64,
    newest: AtomicU64,
    budget: Arc<IndexBudget>,
}

impl IndexCell {
    pub fn new(budget: Arc<IndexBudget>) -> Self {
        Self {
            index: RwLock::new(None),
            loaded: AtomicBool::new(false),
            has_vectors: AtomicBool::new(false),
            searched: AtomicBool::new(false),
            bytes: AtomicUsize::new(0),
            calls: AtomicU64::new(0),
            version: AtomicU64::new(0),
            newest: AtomicU64::new(0),
            budget,
        }
    }

    /// Asked before memories are read that are to be [loaded](Self::load). It
    /// changes with each call, and whenever all indexes are forgotten.
    pub fn calls(&self) -> u64 {
        self.calls.load(Ordering::Acquire) + self.budget.forgotten.load(Ordering::Acquire)
    }

    /// The memories have this version by now: an index of another one is none.
    pub fn expect(&self, version: u64) {
        self.newest.store(version, Ordering::Release);
    }

    /// Which version is expected. Asked before memories are read, as are the
    /// [calls](Self::calls).
    pub fn expected(&self) -> u64 {
        self.newest.load(Ordering::Acquire)
    }

    pub fn is_loaded(&self) -> bool {
        self.loaded.load(Ordering::Acquire) && self.is_newest()
    }

    fn is_newest(&self) -> bool {
        self.version.load(Ordering::Acquire) == self.expected()
    }

    /// Takes an index, unless more calls were learned than when its memories
    /// were read.
    pub fn load(self: &Arc<Self>, index: Index, calls: u64, version: u64) {
        // What was just loaded is about to be searched.
        self.searched.store(true, Ordering::Relaxed);
        let old = {
            let mut place = self.index.write().unwrap_or_else(PoisonError::into_inner);
            if self.calls() != calls {
                return;
            }
            self.account(index.bytes());
            self.has_vectors
                .store(index.has_vectors(), Ordering::Release);
            self.version.store(version, Ordering::Release);
            self.loaded.store(true, Ordering::Release);
            place.replace(Box::new(index))
        };
        free(old);
        self.budget.add(self);
        self.budget.enforce();
    }

    /// A call was learned, with these memories, or with memories that were
    /// stored before (`None`), and of which the index may not know.
    pub fn note_call(&self, memories: Option<Vec<Memory>>) {
        let keep = {
            let mut place = self.index.write().unwrap_or_else(PoisonError::into_inner);
            self.calls.fetch_add(1, Ordering::AcqRel);
            let Some(index) = place.as_mut() else {
                return;
            };
            let known = memories.map(|memories| index.extend(memories));
            self.account(index.bytes());
            known.is_some() && index.len() <= MAX_INDEXED + MAX_GROWTH
        };
        if keep {
            self.budget.enforce();
        } else {
            self.unload();
        }
    }

    /// What some of the memories mean is known now. Nothing is kept if the index
    /// is not loaded: it is read with the memories.
    pub fn attach(&self, vectors: Vec<MemoryVector>) {
        {
            let mut place = self.index.write().unwrap_or_else(PoisonError::into_inner);
            let Some(index) = place.as_mut() else {
                return;
            };
            index.attach(vectors);
            self.has_vectors
                .store(index.has_vectors(), Ordering::Release);
            self.account(index.bytes());
        }
        self.budget.enforce();
    }

    /// Whether a question's vector may be of use: there are others to compare it with,
    /// or it is not known whether there are.
    pub fn may_have_vectors(&self) -> bool {
        !self.is_loaded() || self.has_vectors.load(Ordering::Acquire)
    }

    /// `None` if the index is not loaded.
    pub fn search(&self, query: &Query<'_>) -> Option<Vec<Hit>> {
        self.searched.store(true, Ordering::Relaxed);
        let index = self.index.read().unwrap_or_else(PoisonError::into_inner);
        let index = index.as_ref().filter(|_| self.is_newest());
        Some(index?.search(query))
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
fn free(index: Option<Box<Index>>) {
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
    use crate::domain::ids::{AgentId, ConversationId};
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
                language: None,
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
        a.load(Index::new(memories(100)), 0, 0);
        b.load(Index::new(memories(100)), 0, 0);
        // Both count as used once; the third needs a place.
        b.searched.store(false, Ordering::Relaxed);
        c.load(Index::new(memories(100)), 0, 0);
        assert!(a.is_loaded() && !b.is_loaded() && c.is_loaded());
        let query = Query {
            text: "rose",
            agent: &AgentId::parse("a").unwrap(),
            now: Timestamp::UNIX_EPOCH,
            vector: None,
        };
        assert_eq!(b.search(&query), None);
        b.note_call(Some(memories(1)));
        assert!(!b.is_loaded());
        drop((a, c));
        assert_eq!(budget.used.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn an_index_that_only_grows_is_given_up_and_loaded_anew() {
        let budget = Arc::new(IndexBudget::default());
        let cell = cell(&budget);
        cell.load(Index::new(memories(MAX_INDEXED)), 0, 0);
        cell.note_call(Some(memories(MAX_GROWTH)));
        assert!(cell.is_loaded());
        cell.note_call(Some(memories(1)));
        assert!(!cell.is_loaded());
    }

    #[test]
    fn an_index_that_may_lack_a_call_is_not_taken() {
        let cell = cell(&Arc::default());
        let before = cell.calls();
        cell.note_call(Some(memories(1)));
        cell.load(Index::new(memories(3)), before, 0);
        assert!(!cell.is_loaded());
        cell.load(Index::new(memories(4)), cell.calls(), 0);
        assert!(cell.is_loaded());
        // Stored before a crash, it may be unknown to the index.
        cell.note_call(None);
        assert!(!cell.is_loaded());
    }
}
