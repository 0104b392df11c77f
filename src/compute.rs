//! Work that keeps a processor busy: on threads of its own, a few at a time.
//!
//! A runtime worker serves many callers; whatever holds it for more than about
//! a millisecond delays them all. So the parsing of large bodies, the building
//! of indexes and searches run here.

use std::sync::Arc;
use std::thread::available_parallelism;

use tokio::sync::Semaphore;
use tokio::task::spawn_blocking;

/// The work panicked; its result is lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a computation panicked")]
pub struct Panicked;

/// Threads for computations, with a bound. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Compute {
    permits: Arc<Semaphore>,
}

impl Compute {
    /// At most so many computations at a time; further ones wait in order.
    #[must_use]
    pub fn new(most: usize) -> Self {
        Self {
            permits: Arc::new(Semaphore::new(most.max(1))),
        }
    }

    /// For what somebody on the line waits for: one for each processor.
    #[must_use]
    pub fn foreground() -> Self {
        Self::new(processors())
    }

    /// For what nobody waits for: half of the processors, so that the others
    /// answer rings.
    #[must_use]
    pub fn background() -> Self {
        Self::new(processors() / 2)
    }

    /// Runs `work` when its turn comes. Who gives up waiting before that gives
    /// up the work as well; once begun, it is finished.
    ///
    /// # Errors
    /// [`Panicked`]
    pub async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Panicked> {
        let permit = Arc::clone(&self.permits).acquire_owned().await;
        spawn_blocking(move || {
            let result = work();
            drop(permit);
            result
        })
        .await
        .map_err(|_| Panicked)
    }
}

fn processors() -> usize {
    available_parallelism().map_or(1, std::num::NonZero::get)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[tokio::test]
    async fn no_more_run_than_permitted_and_never_on_the_runtime() {
        let compute = Compute::new(2);
        let (now, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let runtime = std::thread::current().id();
        let all = (0..16).map(|i| {
            let (compute, now, most) = (compute.clone(), Arc::clone(&now), Arc::clone(&most));
            async move {
                let work = move || {
                    assert_ne!(std::thread::current().id(), runtime);
                    most.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                    std::thread::yield_now();
                    now.fetch_sub(1, Ordering::SeqCst);
                    assert_ne!(i, 7, "made to panic");
                    i
                };
                compute.run(work).await
            }
        });
        let results = futures_util::future::join_all(all).await;
        assert_eq!(results.iter().filter(|r| r.is_err()).count(), 1);
        assert!(most.load(Ordering::SeqCst) <= 2);
        // A panic gives its place back.
        assert_eq!(compute.run(|| 1).await, Ok(1));
        assert_eq!(compute.permits.available_permits(), 2);
    }
}
