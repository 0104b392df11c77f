//! Every metric: name, labels, buckets.
//!
//! All label sets are fixed and registered at start, so that every series is
//! there, at zero, from the first scrape. No caller, agent or call ever is a
//! label. Handles are resolved once; counting is one atomic operation.

mod descriptions;
mod figures;
mod labels;

use std::marker::PhantomData;

use metrics::{Counter, Gauge, Histogram, counter, gauge, histogram, with_local_recorder};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};

pub use figures::Figures;
pub use labels::{
    ActorKind, CacheResult, CallOutcome, Dropped, Endpoint, Label, OpenAiOutcome, Pool,
    QuestionVector, Reconciled, RingOutcome, SearchOutcome, Status, Tier, TierResult, TokenKind,
    WebhookState,
};

/// One metric handle for each value of a label.
pub struct Family<L, H> {
    handles: Box<[H]>,
    label: PhantomData<L>,
}

impl<L: Label, H> Family<L, H> {
    fn new(make: impl FnMut(L) -> H) -> Self {
        Self {
            handles: L::ALL.iter().copied().map(make).collect(),
            label: PhantomData,
        }
    }

    /// The handle for this value.
    #[must_use]
    pub fn get(&self, value: L) -> &H {
        &self.handles[value.position()]
    }
}

/// The handles of every metric.
pub struct Metrics {
    /// What is reported by day besides.
    pub figures: Figures,
    /// `elaoms_client_data_duration_seconds{outcome}`
    pub client_data: Family<RingOutcome, Histogram>,
    /// `elaoms_search_data_duration_seconds{outcome}`
    pub search_data: Family<SearchOutcome, Histogram>,
    /// `elaoms_post_call_processing_duration_seconds{outcome}`
    pub post_call: Family<CallOutcome, Histogram>,
    /// `elaoms_webhook_requests_total{endpoint,status}`
    pub webhook_requests: Family<Endpoint, Family<Status, Counter>>,
    /// `elaoms_connections`
    pub connections: Gauge,
    /// `elaoms_connections_dropped_total{reason}`
    pub connections_dropped: Family<Dropped, Counter>,
    /// `elaoms_openai_requests_total{outcome}`
    pub openai_requests: Family<OpenAiOutcome, Counter>,
    /// `elaoms_openai_attempts_total{status}`
    pub openai_attempts: Family<OpenAiOutcome, Counter>,
    /// `elaoms_openai_request_duration_seconds`
    pub openai_duration: Histogram,
    /// `elaoms_openai_tokens_total{kind}`
    pub openai_tokens: Family<TokenKind, Counter>,
    /// `elaoms_openai_cost_nanodollars_total`
    pub openai_cost: Counter,
    /// `elaoms_openai_limiter_wait_seconds`
    pub openai_limiter_wait: Histogram,
    /// `elaoms_openai_breaker_open`
    pub openai_breaker_open: Gauge,
    /// `elaoms_embeddings_requests_total{outcome}`
    pub embeddings_requests: Family<OpenAiOutcome, Counter>,
    /// `elaoms_embeddings_tokens_total`
    pub embeddings_tokens: Counter,
    /// `elaoms_embeddings_waiting_callers`
    pub vectors_waiting: Gauge,
    /// `elaoms_search_question_vectors_total{result}`
    pub question_vectors: Family<QuestionVector, Counter>,
    /// `elaoms_agent_cache_requests_total{result}`
    pub agent_cache_requests: Family<CacheResult, Counter>,
    /// `elaoms_agent_cache_entries`
    pub agent_cache_entries: Gauge,
    /// `elaoms_tier_queries_total{tier,result}`
    pub tier_queries: Family<Tier, Family<TierResult, Counter>>,
    /// `elaoms_tier_query_duration_seconds{tier}`
    pub tier_duration: Family<Tier, Histogram>,
    /// `elaoms_inbox_pending`
    pub inbox_pending: Gauge,
    /// `elaoms_inbox_oldest_pending_seconds`
    pub inbox_oldest_pending: Gauge,
    /// `elaoms_dead_letters`
    pub dead_letters: Gauge,
    /// `elaoms_sessions_active`
    pub sessions_active: Gauge,
    /// `elaoms_sessions_max`
    pub sessions_max: Gauge,
    /// `elaoms_instances`
    pub instances: Gauge,
    /// `elaoms_lease_takeovers_total`
    pub taken_over: Counter,
    /// `elaoms_fence_refusals_total`
    pub refused_claims: Counter,
    /// `elaoms_database_busy_connections{pool}`
    pub busy_connections: Family<Pool, Gauge>,
    /// `elaoms_database_standbys`
    pub standbys: Gauge,
    /// `elaoms_database_replication_lag_seconds`
    pub replication_lag: Gauge,
    /// `elaoms_storage_free_bytes`
    pub storage_free: Gauge,
    /// `elaoms_storage_size_bytes`
    pub storage_size: Gauge,
    /// `elaoms_actor_restarts_total{actor}`
    pub actor_restarts: Family<ActorKind, Counter>,
    /// `elaoms_reconciled_calls_total{result}`
    pub reconciled: Family<Reconciled, Counter>,
    /// `elaoms_webhook_state{state}`
    pub webhook_state: Family<WebhookState, Gauge>,
    /// `elaoms_last_post_call_timestamp_seconds`
    pub last_post_call: Gauge,
}

/// Bounds of the ring's latency, in seconds; 0.2 is the guide's target, 0.5 its alert.
const RING_BUCKETS: &[f64] = &[
    0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5,
    1.0, 2.5,
];
/// Bounds of post-call processing; 30 s is the guide's target, 60 s its alert.
const CALL_BUCKETS: &[f64] = &[
    0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 30.0, 45.0, 60.0, 120.0, 300.0, 1_800.0,
    7_200.0, 86_400.0,
];
/// Bounds of a request to OpenAI; the longest `OPENAI_TIMEOUT` is 120 s.
const OPENAI_BUCKETS: &[f64] = &[
    0.1, 0.25, 0.5, 1.0, 2.0, 3.0, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0,
];
/// Bounds of a wait for the rate limiter.
const WAIT_BUCKETS: &[f64] = &[0.001, 0.01, 0.1, 0.5, 1.0, 5.0, 15.0, 30.0, 60.0, 300.0];
/// Bounds of a read from the store.
const STORE_BUCKETS: &[f64] = &[
    0.000_1, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 10.0,
];

const BUCKETS: &[(&str, &[f64])] = &[
    ("elaoms_client_data_duration_seconds", RING_BUCKETS),
    ("elaoms_search_data_duration_seconds", RING_BUCKETS),
    ("elaoms_post_call_processing_duration_seconds", CALL_BUCKETS),
    ("elaoms_openai_request_duration_seconds", OPENAI_BUCKETS),
    ("elaoms_openai_limiter_wait_seconds", WAIT_BUCKETS),
    ("elaoms_tier_query_duration_seconds", STORE_BUCKETS),
];

impl Metrics {
    /// Registers every metric in a recorder of its own; the handle renders it.
    ///
    /// # Panics
    /// Never: the buckets are constants and not empty.
    #[must_use]
    #[expect(clippy::expect_used, reason = "constant buckets")]
    pub fn new() -> (Self, PrometheusHandle) {
        let builder = BUCKETS
            .iter()
            .fold(PrometheusBuilder::new(), |builder, (name, bounds)| {
                builder
                    .set_buckets_for_metric(Matcher::Full((*name).to_owned()), bounds)
                    .expect("the buckets are not empty")
            });
        let recorder = builder.build_recorder();
        let handle = recorder.handle();
        let metrics = with_local_recorder(&recorder, || {
            descriptions::describe();
            gauge!("elaoms_build_info", "version" => env!("CARGO_PKG_VERSION")).set(1.0);
            Self::register()
        });
        (metrics, handle)
    }

    fn register() -> Self {
        let restarts =
            |a: ActorKind| zero(counter!("elaoms_actor_restarts_total", "actor" => a.as_str()));
        Self {
            figures: Figures::default(),
            client_data: Family::new(
                |o: RingOutcome| histogram!("elaoms_client_data_duration_seconds", "outcome" => o.as_str()),
            ),
            search_data: Family::new(
                |o: SearchOutcome| histogram!("elaoms_search_data_duration_seconds", "outcome" => o.as_str()),
            ),
            post_call: Family::new(
                |o: CallOutcome| histogram!("elaoms_post_call_processing_duration_seconds", "outcome" => o.as_str()),
            ),
            webhook_requests: Family::new(|e: Endpoint| {
                Family::new(|s: Status| {
                    zero(
                        counter!("elaoms_webhook_requests_total", "endpoint" => e.as_str(), "status" => s.as_str()),
                    )
                })
            }),
            connections: unset(gauge!("elaoms_connections")),
            connections_dropped: Family::new(|d: Dropped| {
                zero(counter!("elaoms_connections_dropped_total", "reason" => d.as_str()))
            }),
            openai_requests: Family::new(|o: OpenAiOutcome| {
                zero(counter!("elaoms_openai_requests_total", "outcome" => o.as_str()))
            }),
            openai_attempts: Family::new(|o: OpenAiOutcome| {
                zero(counter!("elaoms_openai_attempts_total", "status" => o.as_str()))
            }),
            openai_duration: histogram!("elaoms_openai_request_duration_seconds"),
            openai_tokens: Family::new(|k: TokenKind| {
                zero(counter!("elaoms_openai_tokens_total", "kind" => k.as_str()))
            }),
            openai_cost: zero(counter!("elaoms_openai_cost_nanodollars_total")),
            openai_limiter_wait: histogram!("elaoms_openai_limiter_wait_seconds"),
            openai_breaker_open: unset(gauge!("elaoms_openai_breaker_open")),
            embeddings_requests: Family::new(|o: OpenAiOutcome| {
                zero(counter!("elaoms_embeddings_requests_total", "outcome" => o.as_str()))
            }),
            embeddings_tokens: zero(counter!("elaoms_embeddings_tokens_total")),
            vectors_waiting: unset(gauge!("elaoms_embeddings_waiting_callers")),
            question_vectors: Family::new(|q: QuestionVector| {
                zero(counter!("elaoms_search_question_vectors_total", "result" => q.as_str()))
            }),
            agent_cache_requests: Family::new(|r: CacheResult| {
                zero(counter!("elaoms_agent_cache_requests_total", "result" => r.as_str()))
            }),
            agent_cache_entries: unset(gauge!("elaoms_agent_cache_entries")),
            tier_queries: Family::new(|t: Tier| {
                Family::new(|r: TierResult| {
                    zero(
                        counter!("elaoms_tier_queries_total", "tier" => t.as_str(), "result" => r.as_str()),
                    )
                })
            }),
            tier_duration: Family::new(
                |t: Tier| histogram!("elaoms_tier_query_duration_seconds", "tier" => t.as_str()),
            ),
            inbox_pending: unset(gauge!("elaoms_inbox_pending")),
            inbox_oldest_pending: unset(gauge!("elaoms_inbox_oldest_pending_seconds")),
            dead_letters: unset(gauge!("elaoms_dead_letters")),
            sessions_active: unset(gauge!("elaoms_sessions_active")),
            sessions_max: unset(gauge!("elaoms_sessions_max")),
            instances: unset(gauge!("elaoms_instances")),
            taken_over: zero(counter!("elaoms_lease_takeovers_total")),
            refused_claims: zero(counter!("elaoms_fence_refusals_total")),
            busy_connections: Family::new(|p: Pool| {
                unset(gauge!("elaoms_database_busy_connections", "pool" => p.as_str()))
            }),
            standbys: unset(gauge!("elaoms_database_standbys")),
            replication_lag: unset(gauge!("elaoms_database_replication_lag_seconds")),
            storage_free: unset(gauge!("elaoms_storage_free_bytes")),
            storage_size: unset(gauge!("elaoms_storage_size_bytes")),
            actor_restarts: Family::new(restarts),
            reconciled: Family::new(|r: Reconciled| {
                zero(counter!("elaoms_reconciled_calls_total", "result" => r.as_str()))
            }),
            webhook_state: Family::new(|s: WebhookState| {
                unset(gauge!("elaoms_webhook_state", "state" => s.as_str()))
            }),
            last_post_call: unset(gauge!("elaoms_last_post_call_timestamp_seconds")),
        }
    }
}

fn zero(counter: Counter) -> Counter {
    counter.increment(0);
    counter
}

fn unset(gauge: Gauge) -> Gauge {
    gauge.set(0.0);
    gauge
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_series_is_there_before_the_first_event() {
        let (_metrics, handle) = Metrics::new();
        let page = handle.render();
        for line in [
            r#"elaoms_client_data_duration_seconds_bucket{outcome="deadline",le="0.2"} 0"#,
            r#"elaoms_client_data_duration_seconds_bucket{outcome="greeting",le="0.5"} 0"#,
            r#"elaoms_post_call_processing_duration_seconds_bucket{outcome="greeted",le="30"} 0"#,
            r#"elaoms_post_call_processing_duration_seconds_bucket{outcome="greeted",le="60"} 0"#,
            r#"elaoms_webhook_requests_total{endpoint="post-call",status="503"} 0"#,
            r#"elaoms_tier_queries_total{tier="2",result="error"} 0"#,
            r#"elaoms_actor_restarts_total{actor="session"} 0"#,
            "elaoms_dead_letters 0",
        ] {
            assert!(page.contains(line), "{line} is missing in\n{page}");
        }
        assert!(
            !page.contains("quantile"),
            "a histogram without buckets became a summary"
        );
    }
}
