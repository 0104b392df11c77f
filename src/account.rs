//! An ElevenLabs account, asked with patience: few requests at once, and what is
//! refused for a while is asked again.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;

use crate::backoff::Backoff;
use crate::clients::{ElevenLabs, ElevenLabsError};

/// Most requests at once: ElevenLabs publishes no limits.
pub const MOST_REQUESTS: usize = 4;
/// Tries of one request.
const TRIES: u32 = 5;
/// How often in a row a request may be told to wait.
const MOST_PUT_OFF: u32 = 12;
/// Between two tries.
const PAUSE: Backoff = Backoff {
    base: Duration::from_millis(500),
    cap: Duration::from_secs(20),
};
/// Longest pause that ElevenLabs may ask for.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// Cheap to clone; all clones share the bound.
#[derive(Clone)]
pub struct Account {
    client: Arc<ElevenLabs>,
    permits: Arc<Semaphore>,
}

impl Account {
    #[must_use]
    pub fn new(client: Arc<ElevenLabs>) -> Self {
        Self {
            client,
            permits: Arc::new(Semaphore::new(MOST_REQUESTS)),
        }
    }

    /// Asks something that may be asked again.
    ///
    /// # Errors
    /// [`ElevenLabsError`] of the last try.
    pub async fn ask<T, A>(&self, what: impl Fn(Arc<ElevenLabs>) -> A) -> Result<T, ElevenLabsError>
    where
        A: Future<Output = Result<T, ElevenLabsError>>,
    {
        self.ask_if(what, |_| true).await
    }

    /// Asks for something that must not be done twice: again only if it was
    /// certainly not done.
    ///
    /// # Errors
    /// [`ElevenLabsError`] of the last try.
    pub async fn ask_once<T, A>(
        &self,
        what: impl Fn(Arc<ElevenLabs>) -> A,
    ) -> Result<T, ElevenLabsError>
    where
        A: Future<Output = Result<T, ElevenLabsError>>,
    {
        let is_refused =
            |error: &ElevenLabsError| matches!(error, ElevenLabsError::Status { status: 429, .. });
        self.ask_if(what, is_refused).await
    }

    async fn ask_if<T, A>(
        &self,
        what: impl Fn(Arc<ElevenLabs>) -> A,
        again: impl Fn(&ElevenLabsError) -> bool,
    ) -> Result<T, ElevenLabsError>
    where
        A: Future<Output = Result<T, ElevenLabsError>>,
    {
        let (mut tried, mut put_off) = (0, 0);
        loop {
            tried += 1;
            // Held while it pauses, too: who is told to wait sends nothing else
            // in the meantime.
            let _permit = self.permits.acquire().await;
            let error = match what(Arc::clone(&self.client)).await {
                // Who is told to wait waits: that is no failure.
                Err(error @ ElevenLabsError::Status { status: 429, .. })
                    if put_off < MOST_PUT_OFF =>
                {
                    (tried, put_off) = (tried - 1, put_off + 1);
                    error
                }
                Err(error) if tried < TRIES && again(&error) => error,
                answer => return answer,
            };
            let pause = PAUSE.delay(tried + put_off, rand::random());
            let pause = match error {
                ElevenLabsError::Network(_) => pause,
                ElevenLabsError::Status {
                    status: 429 | 500..,
                    retry_after,
                } => pause.max(retry_after.unwrap_or_default().min(LONGEST_PAUSE)),
                _ => return Err(error),
            };
            tokio::time::sleep(pause).await;
        }
    }
}
