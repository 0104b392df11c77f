//! Traces: one for each call, whoever works on it.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use prost::Message;
use serde_json::json;
use tokio_util::sync::CancellationToken;
use warp::Filter;

use crate::payloads::call;
use crate::service::{AGENT, CALLER, Service, until};

/// A span as it was exported: by whom, and what.
#[derive(Debug, Clone)]
struct Exported {
    service: String,
    name: String,
    trace: String,
    span: String,
    parent: String,
}

/// What OpenTelemetry's collector does with OTLP over HTTP.
#[derive(Clone, Default)]
struct Collector {
    spans: Arc<Mutex<Vec<Exported>>>,
}

impl Collector {
    async fn start(&self) -> SocketAddr {
        let spans = Arc::clone(&self.spans);
        let route = warp::path!("v1" / "traces")
            .and(warp::post())
            .and(warp::header::exact(
                "authorization",
                "Bearer token of the collector",
            ))
            .and(warp::body::bytes())
            .then(move |body: Bytes| {
                let spans = Arc::clone(&spans);
                async move {
                    spans.lock().unwrap().extend(read(&body));
                    Ok::<_, Infallible>(warp::reply())
                }
            });
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let stop = CancellationToken::new();
        tokio::spawn(elaoms::http::serve(
            listener,
            route.boxed(),
            stop,
            Duration::ZERO,
        ));
        address
    }

    fn named(&self, name: &str) -> Vec<Exported> {
        let spans = self.spans.lock().unwrap();
        spans.iter().filter(|s| s.name == name).cloned().collect()
    }
}

fn read(body: &[u8]) -> Vec<Exported> {
    let request = ExportTraceServiceRequest::decode(body).unwrap();
    let of_service = request.resource_spans.into_iter().flat_map(|of_service| {
        let attributes = of_service.resource.unwrap().attributes;
        let value = |key: &str| {
            let found = attributes.iter().find(|a| a.key == key);
            found.map_or(String::new(), |a| format!("{:?}", a.value))
        };
        assert!(value("service.name").contains("elaoms"));
        let service = value("deployment");
        let scopes = of_service.scope_spans.into_iter();
        let spans = scopes.flat_map(|scope| scope.spans);
        let exported = spans.map(move |span| Exported {
            service: service.clone(),
            name: span.name,
            trace: hex::encode(span.trace_id),
            span: hex::encode(span.span_id),
            parent: hex::encode(span.parent_span_id),
        });
        exported.collect::<Vec<_>>()
    });
    of_service.collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_is_one_trace_from_the_webhook_to_the_greeting_over_a_restart() {
    let collector = Collector::default();
    let endpoint = format!("http://{}", collector.start().await);
    let mut service = Service::start_with(&[
        ("OTEL_EXPORTER_OTLP_ENDPOINT", &endpoint),
        (
            "OTEL_EXPORTER_OTLP_HEADERS",
            "authorization=Bearer%20token%20of%20the%20collector",
        ),
        ("OTEL_RESOURCE_ATTRIBUTES", "deployment=first"),
        ("OTEL_BSP_SCHEDULE_DELAY", "100"),
        // Spans do not depend on what is logged.
        ("RUST_LOG", "warn,elaoms::cli::serve=info"),
        ("OPENAI_BASE_URL", "http://127.0.0.1:1/v1"),
    ])
    .await;
    let trace = "4bf92f3577b34da6a3ce929d0e0e4736";
    let sent = format!("00-{trace}-00f067aa0ba902b7-01");
    let said = call("conv_1", AGENT, CALLER).caller("My name is Nora. I like roses.");
    let event = service.post_call(said.body()).header("traceparent", &sent);
    assert_eq!(event.send().await.unwrap().status(), 200);
    until("the model to be asked in vain", async || {
        !collector.named("openai").is_empty()
    })
    .await;
    service.set("OTEL_RESOURCE_ATTRIBUTES", "deployment=second");
    let upstream = format!("http://{}/v1", service.upstream.addr);
    service.set("OPENAI_BASE_URL", &upstream);
    service.crash_and_restart().await;
    service.wait_for_greeting(CALLER, AGENT, "roses").await;
    let stored = || collector.named("store greeting");
    until("the span of the greeting", async || !stored().is_empty()).await;

    let received = &collector.named("post-call received")[0];
    assert_eq!(
        (&*received.trace, &*received.parent),
        (trace, "00f067aa0ba902b7")
    );
    let learned = &collector.named("learn")[0];
    let greeted = &stored()[0];
    assert!(learned.service.contains("first") && greeted.service.contains("second"));
    let stages = collector.named("post-call");
    assert!(stages.iter().all(|stage| stage.parent == received.span));
    assert!(stages.iter().any(|stage| stage.span == learned.parent));
    for span in [learned, greeted] {
        assert_eq!(span.trace, trace, "{span:?}");
    }

    // A ring of its own trace, and none of who has no key.
    until("the span of a ring", async || {
        service.ring(CALLER, AGENT).await;
        !collector.named("client-data").is_empty()
    })
    .await;
    assert_ne!(collector.named("client-data")[0].trace, trace);
    let rings = collector.named("client-data").len();
    let stranger = service
        .http
        .post(format!("{}/webhook/client-data", service.base))
        .header("traceparent", &sent)
        .json(&json!({"caller_id": CALLER, "agent_id": AGENT}));
    assert_eq!(stranger.send().await.unwrap().status(), 401);
    service.terminate().await;
    // What was left is sent at the end.
    assert!(collector.named("client-data").len() >= rings);
    assert!(
        collector
            .named("client-data")
            .iter()
            .all(|ring| ring.trace != trace)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collector_that_is_away_holds_nothing_up() {
    let mut service =
        Service::start_with(&[("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1")]).await;
    let said = call("conv_1", AGENT, CALLER).caller("I like roses.");
    service.end_call_and_settle(&said).await;
    assert!(
        service
            .greeting(CALLER, AGENT)
            .await
            .unwrap()
            .contains("roses")
    );
    let took = service.terminate().await;
    assert!(took.as_secs() < 10, "{took:?}");
}
