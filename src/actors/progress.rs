//! Progress that others can see.
//!
//! Every actor and every lane has a [`Beacon`] that shows since when it is
//! busy without getting on. One that is busy for longer than it ever should be
//! is stuck, whatever else still answers.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

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

/// Who of these gets on too slowly.
pub(super) fn check<'a>(watched: impl Iterator<Item = &'a Watched>) -> Result<(), Stuck> {
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
pub struct Stuck(pub(super) Vec<&'static str>);

impl fmt::Display for Stuck {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "stuck: {}", self.0.join(", "))
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
        assert_eq!(check(both.iter()), Ok(()), "both are idle");
        slow.beacon.busy();
        patient.beacon.busy();
        wait_a_moment(&slow.beacon);
        assert_eq!(check(both.iter()), Err(Stuck(vec!["slow"])));
        slow.beacon.still_busy();
        assert!(check(both.iter()).is_err(), "that is no progress");
        slow.beacon.idle();
        assert_eq!(check(both.iter()), Ok(()));
    }
}
