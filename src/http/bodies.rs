//! Bodies of post-call under way: how many, how much they hold, and which one
//! gives way when there is no room.
//!
//! Whose they are is known only when they are whole and their signature is
//! right. Until then a place is for those who make progress: a body that stalls
//! or crawls loses its own to one that waits for it.

mod progress;
mod table;

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, timeout_at};

use super::peers::Peer;

use progress::{Progress, WORKING};
use table::Table;
pub(super) use table::{Full, Holding};

/// How long a large body waits for a place.
const PLACE_TIMEOUT: Duration = Duration::from_secs(3);
/// How often one who waits looks for somebody who has stalled.
const LOOK: Duration = Duration::from_millis(100);

/// All bodies under way.
pub(super) struct Bodies {
    most: usize,
    max_body: usize,
    table: Mutex<Table>,
    freed: Notify,
    started: Instant,
}

/// Why a chunk did not come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Missed {
    /// Not in time.
    Late,
    /// Another body has the place now.
    Lost,
}

/// One body under way; what it holds is given back when it is dropped.
pub(super) struct Body {
    bodies: Arc<Bodies>,
    id: u64,
    progress: Arc<Progress>,
}

impl Bodies {
    /// For bodies up to `max_body` bytes, `most` at a time.
    pub fn new(most: usize, max_body: usize) -> Arc<Self> {
        Arc::new(Self {
            most,
            max_body,
            table: Mutex::default(),
            freed: Notify::new(),
            started: Instant::now(),
        })
    }

    /// A body begins.
    pub fn enter(self: &Arc<Self>, peer: Peer, proven: bool) -> Result<Body, Full> {
        let progress = Arc::new(Progress::new());
        let id = self
            .table()
            .enter(peer, proven, Arc::clone(&progress), self.most, self.now())?;
        Ok(Body {
            bodies: Arc::clone(self),
            id,
            progress,
        })
    }

    fn now(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(WORKING - 1)
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Body {
    /// The next chunk, as `chunk` gets it, if it comes until `end`.
    pub async fn next<T>(&self, chunk: impl Future<Output = T>, end: Instant) -> Result<T, Missed> {
        let progress = &self.progress;
        let since = self.bodies.now();
        progress.since.store(since, Ordering::Relaxed);
        let next = tokio::select! {
            biased;
            () = progress.lost.notified() => Err(Missed::Lost),
            chunk = timeout_at(end, chunk) => chunk.map_err(|_| Missed::Late),
        };
        progress.since.store(WORKING, Ordering::Relaxed);
        let waited = self.bodies.now().saturating_sub(since);
        progress.waited.fetch_add(waited, Ordering::Relaxed);
        if progress.has_lost.load(Ordering::Relaxed) {
            return Err(Missed::Lost);
        }
        next
    }

    /// The next chunk of a body that is refused, if it comes until `end`; whether
    /// it still has a place does not matter to it.
    pub async fn next_refused<T>(&self, chunk: impl Future<Output = T>, end: Instant) -> Option<T> {
        let since = self.bodies.now();
        self.progress.since.store(since, Ordering::Relaxed);
        timeout_at(end, chunk).await.ok()
    }

    /// So many bytes have come in.
    pub fn received(&self, bytes: usize) {
        self.progress
            .received
            .fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// Waits for a place among the large bodies, and takes one from a body that
    /// does not get on if need be.
    pub async fn become_large(&self) -> Result<(), Full> {
        let end = Instant::now() + PLACE_TIMEOUT;
        let mut waiting = None;
        loop {
            {
                let table = &mut self.bodies.table();
                if table.take_place(self.id, self.bodies.now()) {
                    return Ok(());
                }
                if waiting.is_none() && table.is_proven(self.id) {
                    waiting = Some(Waiting::new(&self.bodies, table));
                }
            }
            let now = Instant::now();
            if now >= end {
                return Err(Full);
            }
            let _ = timeout_at(end.min(now + LOOK), self.bodies.freed.notified()).await;
        }
    }

    /// Its bytes are in: others may have its place.
    pub fn is_whole(&self) {
        if self.bodies.table().leave_place(self.id) {
            self.bodies.freed.notify_one();
        }
    }

    /// Nothing is held for it any more, though its sender may not know yet.
    pub fn is_refused(&self) {
        if self.bodies.table().give_back(self.id) {
            self.bodies.freed.notify_one();
        }
    }

    /// Its signature was right, or its peer has shown a key meanwhile.
    pub fn prove(&self) {
        self.bodies.table().prove(self.id);
    }

    /// Holds as much as `wanted` for it from now on, if there is room.
    pub fn hold(&self, wanted: Holding) -> Result<(), Full> {
        let max_body = self.bodies.max_body;
        self.bodies.table().hold(self.id, wanted, max_body)
    }
}

impl Drop for Body {
    fn drop(&mut self) {
        if self.bodies.table().remove(self.id) {
            self.bodies.freed.notify_one();
        }
    }
}

/// Counts a proven peer's body among those that wait.
struct Waiting<'a>(&'a Bodies);

impl<'a> Waiting<'a> {
    fn new(bodies: &'a Bodies, table: &mut Table) -> Self {
        table.proven_waiting += 1;
        Self(bodies)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.table().proven_waiting -= 1;
    }
}
