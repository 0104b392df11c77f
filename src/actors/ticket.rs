//! The right and the duty to work on one stage of an event.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use tracing::Span;

use super::backoff::Backoff;
use crate::store::{InboxEvent, RetryCause, Settlement};
use crate::telemetry::CallerIdFormat;

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
    /// Goes with the work on the event, through session, model and store.
    span: Span,
    return_to: ReturnTo,
}

impl Ticket {
    pub fn new(event: Box<InboxEvent>, return_to: ReturnTo, caller_ids: &CallerIdFormat) -> Self {
        let shown = event.caller.as_ref().map(|caller| caller_ids.show(caller));
        let span = tracing::info_span!(
            "post-call",
            stage = event.stage.as_str(),
            conversation = %event.key.conversation_id,
            agent = event.key.agent_id.as_ref().map(tracing::field::display),
            caller = shown.as_ref().map(tracing::field::display),
        );
        Self {
            event: Some(event),
            span,
            return_to,
        }
    }

    /// The span of the work on the event.
    pub fn span(&self) -> Span {
        self.span.clone()
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
