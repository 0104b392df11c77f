//! The sessions of a shard, where rings find them.
//!
//! A session comes with the first question about its caller and goes when it
//! was not used for a while, or when its place is needed. One that an actor
//! is changing stays: what the actor publishes must be what rings read.
//!
//! Whatever happens here costs the same however many sessions there are.

use std::collections::VecDeque;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard, Weak};
use std::time::{Duration, Instant};

use rustc_hash::FxHashMap;

use super::{Dependencies, Published};
use crate::actors::single_flight::SingleFlight;
use crate::domain::caller_id::CallerId;
use crate::store::StoreError;

/// Sessions looked at in one go: bounds how long the table is held.
const LOOKS_PER_SWEEP: usize = 512;
/// Sessions looked at to find one whose place can be had.
const LOOKS_PER_PLACE: usize = 64;

/// See the [module](self).
pub(in crate::actors) struct SessionTable {
    sessions: RwLock<Sessions>,
    loads: SingleFlight<CallerId, Result<Arc<Published>, StoreError>>,
    dependencies: Arc<Dependencies>,
    /// More than so many only while none can go.
    most: usize,
    /// After this long without use a session goes.
    idle: Duration,
}

#[derive(Default)]
struct Sessions {
    by_caller: FxHashMap<CallerId, Arc<Published>>,
    /// Every session once, in the order in which they are looked at.
    looks: VecDeque<Look>,
}

/// When a session was last looked at, or came.
struct Look {
    caller: CallerId,
    session: Weak<Published>,
    at: Instant,
}

impl Look {
    fn now(caller: CallerId, session: &Arc<Published>) -> Self {
        Self {
            caller,
            session: Arc::downgrade(session),
            at: Instant::now(),
        }
    }
}

impl SessionTable {
    pub fn new(dependencies: Arc<Dependencies>, most: usize, idle: Duration) -> Self {
        Self {
            sessions: RwLock::default(),
            loads: SingleFlight::default(),
            dependencies,
            most,
            idle,
        }
    }

    /// The caller's session, if there is one.
    pub fn get(&self, caller: &CallerId) -> Option<Arc<Published>> {
        let sessions = self.read();
        let published = sessions.by_caller.get(caller)?;
        published.touch();
        Some(Arc::clone(published))
    }

    /// The caller's session; loaded if there is none, once for all who ask.
    pub async fn open(self: &Arc<Self>, caller: &CallerId) -> Result<Arc<Published>, StoreError> {
        if let Some(published) = self.get(caller) {
            return Ok(published);
        }
        let load = || {
            let (table, caller) = (Arc::clone(self), caller.clone());
            async move {
                // Loaded between the look and this.
                if let Some(published) = table.get(&caller) {
                    return Ok(published);
                }
                let view = table.dependencies.load(&caller).await?;
                let budget = Arc::clone(&table.dependencies.indexes);
                Ok(table.insert(caller, Arc::new(Published::new(view, budget))))
            }
        };
        let loaded = self.loads.run(caller, load).await;
        loaded.unwrap_or_else(|_| Err(StoreError::Unavailable("a load panicked".into())))
    }

    /// The caller as the store has it now: for a store that other instances
    /// change, too. Of the session here it is the index.
    pub async fn open_fresh(&self, caller: &CallerId) -> Result<Arc<Published>, StoreError> {
        let view = self.dependencies.load(caller).await?;
        let session = self.get(caller).unwrap_or_else(|| {
            let budget = Arc::clone(&self.dependencies.indexes);
            let published = Published::new(view.clone(), budget);
            self.insert(caller.clone(), Arc::new(published))
        });
        Ok(Arc::new(session.renewed(view)))
    }

    /// Opens a session that stays until it is [released](Self::release) or
    /// [removed](Self::remove).
    pub async fn own(self: &Arc<Self>, caller: &CallerId) -> Result<Arc<Published>, StoreError> {
        loop {
            let published = self.open(caller).await?;
            // None goes while the table is being read.
            let sessions = self.read();
            if sessions
                .by_caller
                .get(caller)
                .is_some_and(|present| Arc::ptr_eq(present, &published))
            {
                published.set_owned(true);
                return Ok(published);
            }
        }
    }

    /// The session may go.
    pub fn release(&self, caller: &CallerId) {
        if let Some(published) = self.read().by_caller.get(caller) {
            published.set_owned(false);
        }
    }

    /// Removes a session that may differ from the store. The next question
    /// loads it anew.
    pub fn remove(&self, caller: &CallerId) {
        let removed = self.write().by_caller.remove(caller);
        if removed.is_some() {
            self.dependencies.metrics.sessions_active.decrement(1.0);
        }
    }

    /// Removes all.
    pub fn clear(&self) {
        let cleared = std::mem::take(&mut *self.write());
        let count = cleared.by_caller.len() as f64;
        self.dependencies.metrics.sessions_active.decrement(count);
    }

    /// Lets idle sessions go, a bounded number at a time, and those that are
    /// too many because others could not go.
    pub fn sweep(&self) {
        let now = Instant::now();
        let mut sessions = self.write();
        let mut gone = sessions.let_go(
            LOOKS_PER_SWEEP,
            usize::MAX,
            |look| look.at + self.idle <= now,
            |_, published| published.last_used() + self.idle <= now,
        );
        let surplus = sessions.by_caller.len().saturating_sub(self.most);
        gone.extend(sessions.let_go(LOOKS_PER_SWEEP, surplus, |_| true, |_, _| true));
        drop(sessions);
        self.count_gone(&gone);
    }

    /// Whether there are more sessions than there should be.
    pub fn is_crowded(&self) -> bool {
        self.read().by_caller.len() > self.most
    }

    /// The caller's session: this one, unless there is one by now.
    fn insert(&self, caller: CallerId, published: Arc<Published>) -> Arc<Published> {
        let mut sessions = self.write();
        if let Some(present) = sessions.by_caller.get(&caller) {
            return Arc::clone(present);
        }
        let surplus = (sessions.by_caller.len() + 1).saturating_sub(self.most);
        let gone = sessions.let_go(
            LOOKS_PER_PLACE,
            surplus,
            |_| true,
            // Who was used since the last look is spared once.
            |look, published| published.last_used() <= look.at,
        );
        sessions
            .looks
            .push_back(Look::now(caller.clone(), &published));
        sessions.by_caller.insert(caller, Arc::clone(&published));
        drop(sessions);
        self.dependencies.metrics.sessions_active.increment(1.0);
        self.count_gone(&gone);
        published
    }

    fn count_gone(&self, gone: &[Arc<Published>]) {
        let gauge = &self.dependencies.metrics.sessions_active;
        gauge.decrement(gone.len() as f64);
    }

    fn read(&self) -> RwLockReadGuard<'_, Sessions> {
        self.sessions.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Sessions> {
        self.sessions
            .write()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

impl Sessions {
    /// Takes out sessions that may go: at most `most`, after at most so many
    /// looks, as long as the next look is due.
    fn let_go(
        &mut self,
        looks: usize,
        most: usize,
        is_due: impl Fn(&Look) -> bool,
        may_go: impl Fn(&Look, &Published) -> bool,
    ) -> Vec<Arc<Published>> {
        let mut gone = Vec::new();
        for _ in 0..looks.min(self.looks.len()) {
            if gone.len() >= most || !self.looks.front().is_some_and(&is_due) {
                break;
            }
            let Some(look) = self.looks.pop_front() else {
                break;
            };
            let Some(published) = self.by_caller.get(&look.caller) else {
                continue;
            };
            // Another one that came after this was removed.
            if !std::ptr::eq(Arc::as_ptr(published), look.session.as_ptr()) {
                continue;
            }
            if !published.is_owned() && may_go(&look, published) {
                gone.extend(self.by_caller.remove(&look.caller));
            } else {
                let next = Look::now(look.caller, published);
                self.looks.push_back(next);
            }
        }
        gone
    }
}
