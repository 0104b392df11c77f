//! The right and the duty to work on one stage of an event.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;

use crate::domain::backoff::Backoff;
use crate::store::{Archive, InboxEvent, RetryCause, Settlement};

/// Before an event is tried again.
pub(super) const RETRY: Backoff = Backoff {
    base: Duration::from_secs(1),
    cap: Duration::from_secs(5 * 60),
};

/// What became of a ticket.
pub(super) enum Returned {
    /// The stage has ended.
    Settled {
        event: Box<InboxEvent>,
        how: Settlement,
    },
    /// Nobody has tried: the event is handed out again soon.
    Untried(Box<InboxEvent>),
    /// Dropped: whoever held it failed or was stopped.
    Abandoned(Box<InboxEvent>),
}

/// Where tickets go back to.
pub(super) type ReturnTo = Arc<dyn Fn(Returned) + Send + Sync>;

/// See the [module](self). Dropping it gives the event back as abandoned.
pub(super) struct Ticket {
    /// `None` once returned.
    event: Option<Box<InboxEvent>>,
    return_to: ReturnTo,
}

impl Ticket {
    pub fn new(event: Box<InboxEvent>, return_to: ReturnTo) -> Self {
        Self {
            event: Some(event),
            return_to,
        }
    }

    /// The event.
    pub fn event(&self) -> &InboxEvent {
        self.event
            .as_ref()
            .unwrap_or_else(|| unreachable!("only what consumes the ticket takes the event"))
    }

    /// Ends the stage.
    pub fn settle(mut self, how: Settlement) {
        if let Some(event) = self.event.take() {
            (self.return_to)(Returned::Settled { event, how });
        }
    }

    /// Ends the stage after a failure that passes: it is tried again, at the
    /// earliest after `at_least`.
    pub fn retry(self, cause: RetryCause, error: String, at_least: Option<Duration>) {
        let attempts = self.event().attempts + 1;
        let pause = RETRY.delay(attempts, rand::random());
        // A server may ask for anything; nobody waits longer than the cap.
        let asked = at_least.unwrap_or_default().min(RETRY.cap);
        let run_at = Timestamp::now() + pause.max(asked);
        self.settle(Settlement::Retry {
            run_at,
            error,
            cause,
        });
    }

    /// Gives the event back untried.
    pub fn hand_back(mut self) {
        if let Some(event) = self.event.take() {
            (self.return_to)(Returned::Untried(event));
        }
    }

    /// Writes the event to the archive unless it is there, then settles it. A
    /// failed write is left to the event's archive stage.
    pub fn archive_and_settle(
        self,
        archive: Archive,
        how: impl FnOnce(bool) -> Settlement + Send + 'static,
    ) {
        tokio::spawn(async move {
            let event = self.event();
            let archived = event.archived || {
                let stored = archive.store(&event.key, event.payload.clone()).await;
                if let Err(error) = &stored {
                    tracing::error!(%error, "A transcript cannot be archived now");
                }
                stored.is_ok()
            };
            self.settle(how(archived));
        });
    }

    /// Whether the event was received longer ago than `limit`.
    pub fn is_older_than(&self, limit: Duration) -> bool {
        let age = Timestamp::now().duration_since(self.event().received_at);
        Duration::try_from(age).is_ok_and(|age| age > limit)
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if let Some(event) = self.event.take() {
            (self.return_to)(Returned::Abandoned(event));
        }
    }
}
