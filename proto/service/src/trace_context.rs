//! Trace context across processes, as W3C `traceparent` headers.

use http::HeaderMap;
use opentelemetry::{
    Context,
    propagation::{Extractor, Injector, TextMapPropagator},
    trace::TraceContextExt,
};
use opentelemetry_sdk::propagation::TraceContextPropagator;
use tonic::metadata::{MetadataKey, MetadataMap};
use tracing::Span;
use tracing_opentelemetry::OpenTelemetrySpanExt;

/// Makes `span` a child of the trace that a caller's headers name, if they name one.
pub fn adopt(span: &Span, headers: &HeaderMap) {
    let context = TraceContextPropagator::new().extract(&Headers(headers));
    // Without a trace exporter spans have no context to set; that is no error.
    let _ = span.set_parent(context);
}

/// The same for the metadata of a gRPC call.
pub fn adopt_metadata(span: &Span, metadata: &MetadataMap) {
    adopt(span, metadata.as_ref());
}

/// Puts the current span's context into a call's metadata.
pub fn inject(metadata: &mut MetadataMap) {
    inject_context(&Span::current().context(), metadata);
}

/// Whether a span is exported, as one of a trace that is sampled.
pub fn is_sampled(span: &Span) -> bool {
    span.context().span().span_context().is_sampled()
}

fn inject_context(context: &Context, metadata: &mut MetadataMap) {
    TraceContextPropagator::new().inject_context(context, &mut Metadata(metadata));
}

struct Headers<'a>(&'a HeaderMap);

impl Extractor for Headers<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key)?.to_str().ok()
    }

    fn keys(&self) -> Vec<&str> {
        self.0.keys().map(http::HeaderName::as_str).collect()
    }
}

struct Metadata<'a>(&'a mut MetadataMap);

impl Injector for Metadata<'_> {
    fn set(&mut self, key: &str, value: String) {
        if let (Ok(key), Ok(value)) = (MetadataKey::from_bytes(key.as_bytes()), value.parse()) {
            self.0.insert(key, value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_callers_trace_goes_on_in_the_next_call() {
        let parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        let mut headers = HeaderMap::new();
        headers.insert("traceparent", parent.parse().unwrap());
        let context = TraceContextPropagator::new().extract(&Headers(&headers));
        let mut metadata = MetadataMap::new();
        inject_context(&context, &mut metadata);
        assert_eq!(metadata.get("traceparent").unwrap(), parent);
    }
}
