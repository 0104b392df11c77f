//! A circuit breaker: stop asking a service that keeps failing.
//!
//! Closed, every request passes. After [`Breaker::THRESHOLD`] failures in a
//! row it opens: requests fail at once until a pause is over, then one is let
//! through as a probe. Its success closes the breaker, its failure doubles the
//! pause.

use std::time::{Duration, Instant};

/// See the [module](self).
#[derive(Debug, Clone)]
pub struct Breaker {
    failures: u32,
    openings: u32,
    state: State,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum State {
    Closed,
    Open {
        until: Instant,
    },
    /// A probe is on its way; if it is never heard of again, another may follow.
    Probing {
        until: Instant,
    },
}

impl Default for Breaker {
    fn default() -> Self {
        Self {
            failures: 0,
            openings: 0,
            state: State::Closed,
        }
    }
}

impl Breaker {
    /// Failures in a row that open the breaker.
    pub const THRESHOLD: u32 = 5;
    /// First pause.
    const PAUSE: Duration = Duration::from_secs(2);
    /// How long a probe is waited for: longer than any request may take.
    const PROBE_LIMIT: Duration = Duration::from_secs(150);
    /// Longest pause.
    const LONGEST_PAUSE: Duration = Duration::from_secs(60);

    /// How long requests are refused from now on, if they are. Changes nothing.
    #[must_use]
    pub fn refuses(&self, now: Instant) -> Option<Duration> {
        match self.state {
            State::Closed => None,
            State::Open { until } | State::Probing { until } if until <= now => None,
            State::Open { until } => Some(until - now),
            State::Probing { .. } => Some(Self::PAUSE),
        }
    }

    /// Whether a request may pass now; if not, how long until one may.
    ///
    /// # Errors
    /// The time to wait.
    pub fn admit(&mut self, now: Instant) -> Result<(), Duration> {
        if let Some(wait) = self.refuses(now) {
            return Err(wait);
        }
        if self.is_open() {
            self.state = State::Probing {
                until: now + Self::PROBE_LIMIT,
            };
        }
        Ok(())
    }

    /// A request that passed has succeeded.
    pub fn succeeded(&mut self) {
        *self = Self::default();
    }

    /// A request that passed has failed for a reason that lies in the service.
    /// Returns true if this opened the breaker.
    pub fn failed(&mut self, now: Instant) -> bool {
        self.failures += 1;
        let opens = match self.state {
            State::Closed => self.failures >= Self::THRESHOLD,
            State::Probing { .. } => true,
            // Requests that were under way when it opened.
            State::Open { .. } => false,
        };
        if opens {
            let pause = Self::PAUSE.saturating_mul(1 << self.openings.min(10));
            self.openings += 1;
            self.state = State::Open {
                until: now + pause.min(Self::LONGEST_PAUSE),
            };
        }
        opens
    }

    /// Whether requests are refused at present.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.state != State::Closed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_opens_probes_and_closes() {
        let start = Instant::now();
        let mut breaker = Breaker::default();
        for _ in 1..Breaker::THRESHOLD {
            assert!(breaker.admit(start).is_ok());
            assert!(!breaker.failed(start));
        }
        assert!(breaker.failed(start));
        assert_eq!(breaker.admit(start), Err(Breaker::PAUSE));

        let later = start + Breaker::PAUSE;
        assert!(breaker.admit(later).is_ok(), "the probe");
        assert!(breaker.admit(later).is_err(), "only one");
        assert!(breaker.failed(later));
        assert_eq!(
            breaker.admit(later),
            Err(Breaker::PAUSE * 2),
            "the pause doubles"
        );

        let much_later = later + Breaker::PAUSE * 2;
        assert!(breaker.admit(much_later).is_ok());
        breaker.succeeded();
        assert!(!breaker.is_open() && breaker.admit(much_later).is_ok());
    }
}
