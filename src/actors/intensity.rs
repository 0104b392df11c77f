//! Restart intensity: how often something may fail before it is given up.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// At most `most` restarts within `window`.
#[derive(Debug, Clone)]
pub(super) struct RestartIntensity {
    most: usize,
    window: Duration,
    restarts: VecDeque<Instant>,
}

impl RestartIntensity {
    pub fn new(most: usize, window: Duration) -> Self {
        Self {
            most,
            window,
            restarts: VecDeque::new(),
        }
    }

    /// Notes a failure. True if a restart is still in order.
    pub fn permits(&mut self, now: Instant) -> bool {
        while self
            .restarts
            .front()
            .is_some_and(|t| now.duration_since(*t) > self.window)
        {
            self.restarts.pop_front();
        }
        self.restarts.push_back(now);
        self.restarts.len() <= self.most
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_are_forgotten_after_the_window() {
        let start = Instant::now();
        let mut intensity = RestartIntensity::new(2, Duration::from_secs(60));
        assert!(intensity.permits(start) && intensity.permits(start));
        assert!(!intensity.permits(start));
        assert!(intensity.permits(start + Duration::from_secs(61)));
    }
}
