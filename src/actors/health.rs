//! Whether the service works: what readiness and the watchdog ask.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::timeout;

use super::inbox::Inbox;
use super::progress::{self, Stuck, Watched};
use crate::store::{Archive, Ledger, MemoryStore, StoreError};

/// How long a readiness check may take.
const CHECK_TIMEOUT: Duration = Duration::from_secs(3);

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
                progress::check(self.watched.iter()).map_err(|e| e.to_string()),
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
        progress::check(self.watched.iter().filter(|watched| watched.vital))
    }
}

async fn check(work: impl Future<Output = Result<(), StoreError>>) -> Result<(), String> {
    match timeout(CHECK_TIMEOUT, work).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err("no answer in time".to_owned()),
    }
}
