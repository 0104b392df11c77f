//! The dispatcher: admits one request after the other, first come first
//! served, each when the breaker lets it pass and the limits have room for its
//! tokens, then for one more request, then for one more under way. It waits
//! for the first of its queue alone, so that its cost does not grow with the
//! queue, and a large request is not starved by small ones.

use std::sync::Arc;
use std::time::{Duration, Instant};

use ractor::{ActorProcessingErr, ActorRef};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};
use tokio::time::sleep;

use super::budget::{Budget, OpenAiLimits};
use super::{LONGEST_PAUSE, OpenAiClient, Shared};
use crate::actors::fleet::FleetSize;
use crate::actors::worker::Worker;

/// Most requests under way.
const CONCURRENT_REQUESTS: usize = 32;

/// Somebody wants to make a request. They are answered with a permit, or with
/// how long the breaker refuses.
pub(in crate::actors) struct Message {
    pub(super) tokens: u32,
    pub(super) reply: oneshot::Sender<Result<OwnedSemaphorePermit, Duration>>,
}

/// What the actor needs to (re)start.
#[derive(Clone)]
pub(in crate::actors) struct Setup {
    pub client: OpenAiClient,
    pub limits: OpenAiLimits,
    /// Who else goes by the same limits.
    pub fleet: FleetSize,
}

pub(in crate::actors) struct OpenAiActor {
    shared: Arc<Shared>,
    budget: Budget,
    fleet: FleetSize,
    permits: Arc<Semaphore>,
}

impl Worker for OpenAiActor {
    type Message = Message;
    type Setup = Setup;

    fn start(setup: Setup, _: &ActorRef<Message>) -> Self {
        Self::new(setup)
    }

    /// Waits here, and nowhere else: the mailbox is the queue.
    async fn handle(
        &mut self,
        _: &ActorRef<Message>,
        Message { tokens, mut reply }: Message,
    ) -> Result<(), ActorProcessingErr> {
        if reply.is_closed() {
            return Ok(());
        }
        let admitted = tokio::select! {
            // Whoever asked has stopped waiting.
            () = reply.closed() => return Ok(()),
            admitted = self.admit(tokens) => admitted,
        };
        let _ = reply.send(admitted);
        Ok(())
    }
}

impl OpenAiActor {
    fn new(setup: Setup) -> Self {
        Self {
            shared: setup.client.shared,
            budget: Budget::new(setup.limits),
            fleet: setup.fleet,
            permits: Arc::new(Semaphore::new(CONCURRENT_REQUESTS)),
        }
    }

    /// Breaker, tokens, request, permit, in this order, then the breaker once
    /// more: what is refused uses up none of the limits.
    async fn admit(&mut self, tokens: u32) -> Result<OwnedSemaphorePermit, Duration> {
        self.pause().await;
        if let Some(wait) = self.shared.service().breaker.refuses(Instant::now()) {
            return Err(wait);
        }
        self.budget.share_among(self.fleet.get());
        self.budget.take(tokens).await;
        let Ok(permit) = Arc::clone(&self.permits).acquire_owned().await else {
            return Err(LONGEST_PAUSE);
        };
        // Answers that came meanwhile may have changed what is known.
        self.pause().await;
        self.shared.service().breaker.admit(Instant::now())?;
        self.budget.spend(tokens);
        Ok(permit)
    }

    /// Waits until the server may be asked again.
    async fn pause(&self) {
        loop {
            let until = self.shared.service().pause_until;
            match until.map(|until| until.saturating_duration_since(Instant::now())) {
                Some(wait) if !wait.is_zero() => sleep(wait).await,
                _ => return,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU32;

    use futures_util::FutureExt;

    use super::*;
    use crate::actors::breaker::Breaker;
    use crate::clients::{OpenAi, OpenAiOptions};
    use crate::metric_definitions::Metrics;

    #[test]
    fn a_refusal_while_it_waits_uses_up_none_of_the_limits() {
        let options = OpenAiOptions {
            price: None,
            base_url: String::new(),
            api_key: String::new().into(),
            model: String::new(),
            max_tokens: 150,
            temperature: 0.7,
            timeout: Duration::from_secs(30),
        };
        let (metrics, _) = Metrics::new();
        let client = OpenAiClient::new(OpenAi::new(options).unwrap(), Arc::new(metrics));
        let shared = Arc::clone(&client.shared);
        // One request, of up to 4,000 tokens, at once, and no more for a minute.
        let mut actor = OpenAiActor::new(Setup {
            client,
            limits: OpenAiLimits {
                requests_per_minute: NonZeroU32::MIN,
                tokens_per_minute: NonZeroU32::MIN,
            },
            fleet: FleetSize::default(),
        });
        let all = u32::try_from(CONCURRENT_REQUESTS).unwrap();
        let under_way = Arc::clone(&actor.permits).try_acquire_many_owned(all);

        let mut refused = Box::pin(actor.admit(4_000));
        assert!((&mut refused).now_or_never().is_none(), "no permit is free");
        for _ in 0..Breaker::THRESHOLD {
            shared.service().breaker.failed(Instant::now());
        }
        drop(under_way);
        assert!(refused.now_or_never().unwrap().is_err());

        shared.service().breaker.succeeded();
        let admitted = actor.admit(4_000).now_or_never();
        assert!(admitted.unwrap().is_ok(), "the limits are untouched");
        assert!(actor.admit(1).now_or_never().is_none(), "and kept");
    }
}
