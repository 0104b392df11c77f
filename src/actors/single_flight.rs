//! One run of the same work at a time: all who ask meanwhile share its result.

use std::hash::Hash;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures_util::FutureExt;
use futures_util::future::{BoxFuture, Shared};
use rustc_hash::FxHashMap;

/// The work panicked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Panicked;

type Flight<T> = Shared<BoxFuture<'static, Result<T, Panicked>>>;
type Flights<K, T> = Arc<Mutex<FxHashMap<K, Flight<T>>>>;

/// Work under way, by key.
pub(super) struct SingleFlight<K, T>(Flights<K, T>);

impl<K, T> Default for SingleFlight<K, T> {
    fn default() -> Self {
        Self(Arc::default())
    }
}

impl<K, T> SingleFlight<K, T>
where
    K: Hash + Eq + Clone + Send + 'static,
    T: Clone + Send + Sync + 'static,
{
    /// Runs `work` to its end, even if whoever asked stops waiting, unless it
    /// runs already: then waits for that run.
    pub async fn run<F>(&self, key: &K, work: impl FnOnce() -> F) -> Result<T, Panicked>
    where
        F: Future<Output = T> + Send + 'static,
    {
        let flight = {
            let mut flights = lock(&self.0);
            match flights.get(key) {
                Some(flight) => flight.clone(),
                None => {
                    let flight = self.start(key.clone(), work());
                    flights.insert(key.clone(), flight.clone());
                    flight
                }
            }
        };
        flight.await
    }

    fn start(&self, key: K, work: impl Future<Output = T> + Send + 'static) -> Flight<T> {
        let flights = Arc::clone(&self.0);
        let flight = async move {
            let result = AssertUnwindSafe(work).catch_unwind().await;
            // Who comes later finds what the work has left, or runs it anew.
            lock(&flights).remove(&key);
            result.map_err(|_| Panicked)
        };
        let flight = flight.boxed().shared();
        tokio::spawn(flight.clone());
        flight
    }
}

fn lock<K, T>(flights: &Flights<K, T>) -> MutexGuard<'_, FxHashMap<K, Flight<T>>> {
    flights.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use tokio::sync::Semaphore;

    use super::*;

    #[tokio::test]
    async fn all_share_one_run_and_its_failure_and_the_next_runs_anew() {
        let flights: SingleFlight<u8, Result<usize, &str>> = SingleFlight::default();
        let (runs, gate) = (Arc::new(AtomicUsize::new(0)), Arc::new(Semaphore::new(0)));
        let work = || {
            let (runs, gate) = (Arc::clone(&runs), Arc::clone(&gate));
            async move {
                let run = runs.fetch_add(1, Ordering::SeqCst);
                gate.acquire().await.unwrap().forget();
                if run == 0 {
                    Err("made to fail")
                } else {
                    Ok(run)
                }
            }
        };
        let both = async { tokio::join!(flights.run(&1, work), flights.run(&1, work)) };
        let (results, ()) = tokio::join!(both, async { gate.add_permits(1) });
        assert_eq!(results, (Ok(Err("made to fail")), Ok(Err("made to fail"))));
        gate.add_permits(1);
        assert_eq!(flights.run(&1, work).await, Ok(Ok(1)));
    }

    #[tokio::test]
    async fn work_goes_on_when_nobody_waits_and_a_panic_frees_the_key() {
        let flights: SingleFlight<u8, usize> = SingleFlight::default();
        let (done, ended) = tokio::sync::oneshot::channel();
        let work = || async move {
            tokio::task::yield_now().await;
            let _ = done.send(());
            7
        };
        // Asked once, then dropped.
        assert_eq!(flights.run(&1, work).now_or_never(), None);
        ended.await.unwrap();
        let panics = || async { panic!("made to panic") };
        assert_eq!(flights.run(&2, panics).await, Err(Panicked));
        assert_eq!(flights.run(&2, || async { 8 }).await, Ok(8));
    }
}
