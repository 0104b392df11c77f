//! Finding out which generation the server is of.

use std::time::{Duration, Instant};

use super::*;

/// For so long at most a server that could not be asked is not asked again.
const MAX_PAUSE: Duration = Duration::from_secs(5);

/// What is known of the server.
#[derive(Default)]
pub(super) struct Probe {
    /// `None` until the server has told.
    generation: RwLock<Option<Generation>>,
    /// The last time that it did not tell. Held by whoever asks it.
    failure: Mutex<Option<Failure>>,
}

struct Failure {
    ended: Instant,
    pause: Duration,
    error: StoreError,
}

impl Failure {
    /// Whether it answers who has come then: also who waited for it, and who
    /// comes soon after. One that took long would take long again.
    fn answers(&self, came: Instant) -> bool {
        came < self.ended + self.pause
    }
}

impl OpenMemoryStore {
    /// Which generation the server is of. It is asked once for all who wait,
    /// and after a failure no sooner than the failure took, up to
    /// [`MAX_PAUSE`]; until then there is no waiting.
    ///
    /// # Errors
    /// If it cannot be asked.
    pub async fn generation(&self) -> Result<Generation> {
        let came = Instant::now();
        if let Some(known) = *self.probe.generation.read().await {
            return Ok(known);
        }
        let mut failure = self.probe.failure.lock().await;
        if let Some(known) = *self.probe.generation.read().await {
            return Ok(known);
        }
        if let Some(failure) = failure.as_ref().filter(|f| f.answers(came)) {
            return Err(failure.error.clone());
        }
        let began = Instant::now();
        match self.find_out().await {
            Ok(generation) => {
                *self.probe.generation.write().await = Some(generation);
                *failure = None;
                Ok(generation)
            }
            Err(error) => {
                *failure = Some(Failure {
                    ended: Instant::now(),
                    pause: began.elapsed().min(MAX_PAUSE),
                    error: error.clone(),
                });
                Err(error)
            }
        }
    }

    async fn find_out(&self) -> Result<Generation> {
        let generation = self.client.generation().await?;
        tracing::info!("OpenMemory is connected ({generation})");
        if generation == Generation::Second {
            self.catch_up().await?;
        }
        Ok(generation)
    }

    /// A server that was upgraded under us is asked for its generation anew.
    pub(super) async fn noticed<T>(
        &self,
        result: std::result::Result<T, OpenMemoryError>,
    ) -> Result<T> {
        if let Err(OpenMemoryError::TenantMismatch) = &result {
            *self.probe.generation.write().await = None;
        }
        Ok(result?)
    }
}
