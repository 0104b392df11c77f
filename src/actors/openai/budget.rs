//! What may be asked for in a minute: requests and tokens.

use std::num::NonZeroU32;

use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};

/// `OPENAI_RPM` and `OPENAI_TPM`.
#[derive(Debug, Clone, Copy)]
pub struct OpenAiLimits {
    /// Requests a minute.
    pub requests_per_minute: NonZeroU32,
    /// Tokens a minute, question and answer together.
    pub tokens_per_minute: NonZeroU32,
}

/// Both limits. What was taken from them stays in hand until it is spent, so
/// that a request that is not made after all, because the breaker has opened
/// or nobody waits for it any more, costs the next one nothing.
pub(in crate::actors) struct Budget {
    limits: OpenAiLimits,
    /// How many share the limits.
    sharers: NonZeroU32,
    requests: DefaultDirectRateLimiter,
    tokens: DefaultDirectRateLimiter,
    /// Most tokens that the limiter can ever grant at once.
    token_burst: NonZeroU32,
    request_in_hand: bool,
    /// At most the burst.
    tokens_in_hand: u32,
}

impl Budget {
    pub fn new(limits: OpenAiLimits) -> Self {
        Self::shared(limits, NonZeroU32::MIN)
    }

    /// An equal part of the limits, which belong to the account.
    fn shared(limits: OpenAiLimits, sharers: NonZeroU32) -> Self {
        let part =
            |limit: NonZeroU32| NonZeroU32::new(limit.get() / sharers).unwrap_or(NonZeroU32::MIN);
        let requests = part(limits.requests_per_minute);
        let tokens = part(limits.tokens_per_minute);
        // A full burst on top of the steady rate would let nearly twice the
        // limit through in the first minute.
        let tenth =
            |limit: NonZeroU32| NonZeroU32::new(limit.get() / 10).unwrap_or(NonZeroU32::MIN);
        let token_burst = tenth(tokens).max(NonZeroU32::new(4_000).unwrap_or(NonZeroU32::MIN));
        Self {
            limits,
            sharers,
            requests: RateLimiter::direct(Quota::per_minute(requests).allow_burst(tenth(requests))),
            tokens: RateLimiter::direct(Quota::per_minute(tokens).allow_burst(token_burst)),
            token_burst,
            request_in_hand: false,
            tokens_in_hand: 0,
        }
    }

    /// So many instances share the limits from now on. What is in hand stays.
    pub fn share_among(&mut self, sharers: NonZeroU32) {
        if self.sharers != sharers {
            let (request_in_hand, tokens_in_hand) = (self.request_in_hand, self.tokens_in_hand);
            *self = Self {
                request_in_hand,
                tokens_in_hand,
                ..Self::shared(self.limits, sharers)
            };
        }
    }

    /// Waits until there is room for a request of so many tokens: for its
    /// tokens, then for the request.
    pub async fn take(&mut self, tokens: u32) {
        let tokens = tokens.min(self.token_burst.get());
        if let Some(missing) = NonZeroU32::new(tokens.saturating_sub(self.tokens_in_hand)) {
            // Not more than the burst, it can be granted.
            let _ = self.tokens.until_n_ready(missing).await;
            self.tokens_in_hand = tokens;
        }
        if !self.request_in_hand {
            self.requests.until_ready().await;
            self.request_in_hand = true;
        }
    }

    /// The request for which this was taken is made.
    pub fn spend(&mut self, tokens: u32) {
        self.tokens_in_hand = self.tokens_in_hand.saturating_sub(tokens);
        self.request_in_hand = false;
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    #[test]
    fn limits_are_shared_in_equal_parts() {
        let ninety = NonZeroU32::new(90).unwrap();
        let mut budget = Budget::new(OpenAiLimits {
            requests_per_minute: ninety,
            tokens_per_minute: NonZeroU32::new(1_000_000).unwrap(),
        });
        let mut at_once = |sharers: u32| {
            budget.share_among(NonZeroU32::new(sharers).unwrap());
            let granted = std::iter::repeat_with(|| {
                let granted = budget.take(1).now_or_never().is_some();
                budget.spend(1);
                granted
            });
            granted.take(100).filter(|granted| *granted).count()
        };
        // A tenth of the part, at once.
        assert_eq!([at_once(1), at_once(3), at_once(90)], [9, 3, 1]);
    }

    #[test]
    fn what_is_not_spent_stays_in_hand() {
        // One request, and 4,000 tokens, at once; then a minute's wait for each.
        let mut budget = Budget::new(OpenAiLimits {
            requests_per_minute: NonZeroU32::MIN,
            tokens_per_minute: NonZeroU32::MIN,
        });
        let mut at_once = |tokens: u32| budget.take(tokens).now_or_never().is_some();
        assert!(at_once(1_000) && at_once(3_000) && at_once(9_999));
        assert!(at_once(1_000), "nothing is spent yet");
        budget.spend(1_000);
        assert_eq!(budget.take(1_000).now_or_never(), None, "one request only");
        // A wait that is broken off keeps what it had got.
        assert_eq!(budget.tokens_in_hand, 3_000);
    }
}
