//! Traces over OTLP: one for each call, from the webhook to the greeting, on
//! whichever instances it is worked on.
//!
//! Spans that only traces need have [`TARGET`], which the logs leave out, so
//! that without an exporter they are never made.

use std::collections::HashMap;
use std::time::Duration;

use opentelemetry::Context;
use opentelemetry::trace::{
    SpanContext, SpanId, TraceContextExt, TraceFlags, TraceId, TraceState, TracerProvider,
};
use opentelemetry_otlp::{SpanExporter, WithExportConfig, WithHttpConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{SdkTracer, SdkTracerProvider};
use secrecy::{ExposeSecret, SecretString};
use tracing::Span;
use tracing_opentelemetry::OpenTelemetrySpanExt;

use crate::domain::trace_context::TraceContext;

/// Of spans that are in no log.
pub(crate) const TARGET: &str = "elaoms::traces";

/// A step of a call, for traces alone.
macro_rules! step {
    ($name:literal $($fields:tt)*) => {
        tracing::info_span!(target: $crate::telemetry::traces::TARGET, $name $($fields)*)
    };
}
pub(crate) use step;

/// Longest wait for the collector when the process ends.
const LAST_EXPORT: Duration = Duration::from_secs(3);
/// Longest wait for the collector otherwise.
const EXPORT_TIMEOUT: Duration = Duration::from_secs(10);

/// Where traces go. What else OpenTelemetry has standard variables for
/// (sampling, resource attributes, batches), its library reads itself.
#[derive(Debug, Clone)]
pub struct TraceOptions {
    /// `OTEL_EXPORTER_OTLP_TRACES_ENDPOINT`, or `OTEL_EXPORTER_OTLP_ENDPOINT`
    /// with the path of traces.
    pub endpoint: String,
    /// `OTEL_EXPORTER_OTLP_HEADERS`: they may hold a token.
    pub headers: Vec<(String, SecretString)>,
    /// `OTEL_SERVICE_NAME`
    pub service: String,
}

/// Sends what is left when it is dropped.
#[derive(Debug)]
pub(super) struct Exporter(SdkTracerProvider);

impl Exporter {
    pub fn new(options: &TraceOptions) -> Result<Self, opentelemetry_otlp::ExporterBuildError> {
        let headers = options.headers.iter();
        let headers = headers.map(|(name, value)| (name.clone(), value.expose_secret().to_owned()));
        let exporter = SpanExporter::builder()
            .with_http()
            .with_endpoint(&options.endpoint)
            .with_headers(headers.collect::<HashMap<_, _>>())
            .with_timeout(EXPORT_TIMEOUT)
            .build()?;
        let resource = Resource::builder().with_service_name(options.service.clone());
        let provider = SdkTracerProvider::builder()
            .with_batch_exporter(exporter)
            .with_resource(resource.build());
        Ok(Self(provider.build()))
    }

    pub fn tracer(&self) -> SdkTracer {
        self.0.tracer("elaoms")
    }
}

impl Drop for Exporter {
    fn drop(&mut self) {
        // A collector that is away must not hold up the end of the process.
        let _ = self.0.shutdown_with_timeout(LAST_EXPORT);
    }
}

/// Where the current span's trace goes on; `None` without an exporter.
pub(crate) fn current() -> Option<TraceContext> {
    let context = Span::current().context();
    let span = context.span();
    let span = span.span_context();
    span.is_valid().then(|| TraceContext {
        trace_id: u128::from_be_bytes(span.trace_id().to_bytes()),
        span_id: u64::from_be_bytes(span.span_id().to_bytes()),
        is_sampled: span.is_sampled(),
    })
}

/// As [`go_on`], with the trace that a request's `traceparent` names. For a span that
/// nobody records the header is not read.
pub(crate) fn go_on_from(span: &Span, header: Option<&str>) {
    if !span.is_disabled() {
        go_on(span, header.and_then(TraceContext::parse).as_ref());
    }
}

/// Makes a span, which was not entered yet, go on with a trace.
pub(crate) fn go_on(span: &Span, with: Option<&TraceContext>) {
    let Some(with) = with.filter(|_| !span.is_disabled()) else {
        return;
    };
    let parent = SpanContext::new(
        TraceId::from_bytes(with.trace_id.to_be_bytes()),
        SpanId::from_bytes(with.span_id.to_be_bytes()),
        if with.is_sampled {
            TraceFlags::SAMPLED
        } else {
            TraceFlags::NOT_SAMPLED
        },
        true,
        TraceState::default(),
    );
    let parent = Context::new().with_remote_span_context(parent);
    // Without an exporter there is nothing to set it on.
    let _ = span.set_parent(parent);
}
