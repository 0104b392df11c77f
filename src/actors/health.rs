//! Whether the service works: what readiness and the watchdog ask.
//!
//! Every actor and every lane has a [`Beacon`] that shows since when it is
//! busy without getting on. One that is busy for longer than it ever should be
//! is stuck, whatever else still answers.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio::time::timeout;

use super::inbox::Inbox;
use crate::store::{Archive, Ledger, MemoryStore, StoreError};

/// How long a readiness check may take.
const CHECK_TIMEOUT: Duration = Duration::from_secs(3);

/// Shows since when something is busy. Cheap to clone.
#[derive(Clone)]
pub(super) struct Beacon {
    /// Milliseconds from `epoch`, plus one; zero when idle.
    since: Arc<AtomicU64>,
    epoch: Instant,
}

impl Default for Beacon {
    fn default() -> Self {
        Self {
            since: Arc::default(),
            epoch: Instant::now(),
        }
    }
}

impl Beacon {
    /// A piece of work begins, or gets on.
    pub fn busy(&self) {
        let millis = u64::try_from(self.epoch.elapsed().as_millis()).unwrap_or(u64::MAX - 1);
        self.since.store(millis + 1, Ordering::Relaxed);
    }

    /// A piece of work goes on without getting on.
    pub fn still_busy(&self) {
        if self.since.load(Ordering::Relaxed) == 0 {
            self.busy();
        }
    }

    /// There is nothing to do.
    pub fn idle(&self) {
        self.since.store(0, Ordering::Relaxed);
    }

    fn busy_for(&self) -> Duration {
        match self.since.load(Ordering::Relaxed) {
            0 => Duration::ZERO,
            since => self
                .epoch
                .elapsed()
                .saturating_sub(Duration::from_millis(since - 1)),
        }
    }
}

/// Something whose progress is watched.
#[derive(Clone)]
pub(super) struct Watched {
    pub name: &'static str,
    pub beacon: Beacon,
    /// Longer than anything it does takes.
    pub limit: Duration,
    /// Whether a restart of the process is the remedy. A volume that hangs is
    /// not cured by one.
    pub vital: bool,
}

/// The handle. Cheap to clone.
#[derive(Clone)]
pub struct Health {
    ledger: Arc<dyn Ledger>,
    store: Arc<dyn MemoryStore>,
    archive: Archive,
    inbox: Inbox,
    watched: Arc<[Watched]>,
}

#[derive(Debug, Clone)]
pub struct Readiness {
    /// What the memory store says it is. `None` if it did not say in time.
    pub memory: Option<String>,
    /// Each check with what is wrong, if anything is.
    pub checks: Vec<(&'static str, Result<(), String>)>,
}

impl Readiness {
    /// Whether every check passed.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.checks.iter().all(|(_, result)| result.is_ok())
    }
}

impl Health {
    pub(super) fn new(
        ledger: Arc<dyn Ledger>,
        store: Arc<dyn MemoryStore>,
        archive: Archive,
        inbox: Inbox,
        watched: Vec<Watched>,
    ) -> Self {
        Self {
            ledger,
            store,
            archive,
            inbox,
            watched: watched.into(),
        }
    }

    /// Tries whether events can be taken and worked on. Takes a few seconds at
    /// most.
    pub async fn readiness(&self) -> Readiness {
        let described = async { timeout(CHECK_TIMEOUT, self.store.describe()).await.ok() };
        let (memory, ledger, store, archive) = tokio::join!(
            described,
            check(self.ledger.check_writable()),
            check(self.store.check_writable()),
            check(self.archive.check_writable()),
        );
        let inbox = if self.inbox.is_moving() {
            Ok(())
        } else {
            Err("it does not move".to_owned())
        };
        let checks = vec![
            ("ledger", ledger),
            ("memory_store", store),
            ("archive", archive),
            ("inbox", inbox),
            (
                "progress",
                progress(self.watched.iter()).map_err(|e| e.to_string()),
            ),
        ];
        Readiness { memory, checks }
    }

    /// Whether everything gets on that a restart would set going again: what a
    /// watchdog wants to know.
    ///
    /// # Errors
    /// Who is stuck.
    pub fn alive(&self) -> Result<(), Stuck> {
        if !self.inbox.is_moving() {
            return Err(Stuck(vec!["inbox"]));
        }
        progress(self.watched.iter().filter(|watched| watched.vital))
    }
}

fn progress<'a>(watched: impl Iterator<Item = &'a Watched>) -> Result<(), Stuck> {
    let stuck: Vec<&'static str> = watched
        .filter(|watched| watched.beacon.busy_for() > watched.limit)
        .map(|watched| watched.name)
        .collect();
    if stuck.is_empty() {
        Ok(())
    } else {
        Err(Stuck(stuck))
    }
}

/// Who is busy without getting on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stuck(Vec<&'static str>);

impl fmt::Display for Stuck {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "stuck: {}", self.0.join(", "))
    }
}

async fn check(work: impl Future<Output = Result<(), StoreError>>) -> Result<(), String> {
    match timeout(CHECK_TIMEOUT, work).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err("no answer in time".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn watched(name: &'static str, limit: Duration) -> Watched {
        Watched {
            name,
            beacon: Beacon::default(),
            limit,
            vital: true,
        }
    }

    fn wait_a_moment(beacon: &Beacon) {
        let before = beacon.busy_for();
        while beacon.busy_for() <= before {
            std::thread::yield_now();
        }
    }

    #[test]
    fn who_is_busy_for_too_long_is_named_until_it_gets_on() {
        let (slow, patient) = (
            watched("slow", Duration::ZERO),
            watched("patient", Duration::from_secs(3600)),
        );
        let both = [slow.clone(), patient.clone()];
        assert_eq!(progress(both.iter()), Ok(()), "both are idle");
        slow.beacon.busy();
        patient.beacon.busy();
        wait_a_moment(&slow.beacon);
        assert_eq!(progress(both.iter()), Err(Stuck(vec!["slow"])));
        slow.beacon.still_busy();
        assert!(progress(both.iter()).is_err(), "that is no progress");
        slow.beacon.idle();
        assert_eq!(progress(both.iter()), Ok(()));
    }
}
