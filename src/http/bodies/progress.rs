//! Whether a body gets on.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::Notify;

/// A pause of the sender after which another may have the place.
const STALL: Duration = Duration::from_millis(400);
/// A sender that is slower than this, in bytes a second, crawls.
const CRAWL: u64 = 64 * 1024;
/// So long nobody is said to crawl, in milliseconds of waiting for the sender.
const CRAWL_START: u64 = 1_000;

/// How a body comes in.
pub(super) struct Progress {
    /// Since when it has been waiting for its sender, or [`WORKING`].
    pub since: AtomicU64,
    /// How long it has waited for its sender in all, in milliseconds.
    pub waited: AtomicU64,
    pub received: AtomicU64,
    pub has_lost: AtomicBool,
    pub lost: Notify,
}

/// We are at work, not the sender.
pub(super) const WORKING: u64 = u64::MAX;

impl Progress {
    pub fn new() -> Self {
        Self {
            since: AtomicU64::new(WORKING),
            waited: AtomicU64::new(0),
            received: AtomicU64::new(0),
            has_lost: AtomicBool::new(false),
            lost: Notify::new(),
        }
    }

    /// How long it has been waiting for its sender this time.
    pub fn pause(&self, now: u64) -> u64 {
        match self.since.load(Ordering::Relaxed) {
            WORKING => 0,
            since => now.saturating_sub(since),
        }
    }

    pub fn is_idle(&self, now: u64) -> bool {
        let pause = self.pause(now);
        let waited = self.waited.load(Ordering::Relaxed) + pause;
        let received = self.received.load(Ordering::Relaxed);
        let stalls = u128::from(pause) > STALL.as_millis();
        let crawls = waited > CRAWL_START && received * 1_000 < CRAWL * waited;
        stalls || crawls
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_crawls_counts_as_one_who_stalls() {
        let crawler = Progress::new();
        crawler.waited.store(10_000, Ordering::Relaxed);
        assert!(crawler.is_idle(0));
        crawler.received.store(10 * CRAWL, Ordering::Relaxed);
        assert!(!crawler.is_idle(0));
    }
}
