//! How long to wait before the next try.

use std::time::Duration;

/// Exponential backoff with a cap and jitter.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Backoff {
    /// Wait before the first retry.
    pub base: Duration,
    /// Longest wait.
    pub cap: Duration,
}

impl Backoff {
    /// The wait after `failures` failed tries (1 or more). `jitter` from 0 to
    /// 1 takes off up to half of it, so that what failed together does not
    /// come back together.
    #[must_use]
    pub fn delay(self, failures: u32, jitter: f64) -> Duration {
        let doublings = failures.saturating_sub(1).min(30);
        let full = self.base.saturating_mul(1 << doublings).min(self.cap);
        full.mul_f64(1.0 - jitter.clamp(0.0, 1.0) / 2.0)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn waits_grow_to_the_cap_and_never_beyond(failures in 0u32..1000, jitter in 0.0f64..1.0) {
            let backoff = Backoff { base: Duration::from_secs(1), cap: Duration::from_secs(300) };
            let delay = backoff.delay(failures, jitter);
            prop_assert!(delay <= backoff.cap && delay >= Duration::from_millis(500));
            prop_assert!(backoff.delay(failures + 1, 0.0) >= backoff.delay(failures, 0.0));
        }
    }
}
