//! The trace that a request is part of, carried from the client to the replica.

use http::HeaderMap;
use tessera_service::trace_context;
use tonic::metadata::{Ascii, MetadataMap, MetadataValue};
use tracing::Span;

const TRACEPARENT: &str = "traceparent";

/// A request's span, a child of the client's where the client named one. It ends when the last clone is dropped.
#[derive(Clone, Debug)]
pub(crate) struct Trace {
    span: Span,
    /// What the client sent: passed on as it is when spans are not exported.
    parent: Option<MetadataValue<Ascii>>,
}

impl Trace {
    /// Of a request that came with these headers.
    pub(crate) fn begin(headers: &HeaderMap) -> Self {
        let span = tracing::info_span!("request", id = tracing::field::Empty);
        trace_context::adopt(&span, headers);
        Self { span, parent: headers.get(TRACEPARENT).and_then(|parent| parent.as_bytes().try_into().ok()) }
    }

    /// Names the request.
    pub(crate) fn name(&self, id: &str) {
        self.span.record("id", id);
    }

    /// Puts the trace into a call to a replica.
    pub(crate) fn inject(&self, metadata: &mut MetadataMap) {
        self.span.in_scope(|| trace_context::inject(metadata));
        if let (None, Some(parent)) = (metadata.get(TRACEPARENT), &self.parent) {
            metadata.insert(TRACEPARENT, parent.clone());
        }
    }
}
