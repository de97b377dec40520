//! What the router counts. Handles are looked up once, not for every token.

use std::time::Duration;

use metrics::{Counter, Gauge, Histogram, counter, gauge, histogram};
use tessera_service::metrics as names;
use tokio::time::Instant;

use crate::{ErrorKind, event::Usage};

/// Handles of what is counted for every request.
#[derive(Clone)]
pub(crate) struct Metrics {
    in_flight: Gauge,
    time_to_first_token: Histogram,
    inter_token: Histogram,
    prompt_tokens: Counter,
    generated_tokens: Counter,
    request: Histogram,
    images: Counter,
    image_prepare: Histogram,
    replays: Counter,
    replicas_ready: Gauge,
}

impl Metrics {
    pub(crate) fn new() -> Self {
        Self {
            in_flight: gauge!(names::REQUESTS_IN_FLIGHT),
            time_to_first_token: histogram!(names::TIME_TO_FIRST_TOKEN_SECONDS),
            inter_token: histogram!(names::INTER_TOKEN_SECONDS),
            prompt_tokens: counter!(names::PROMPT_TOKENS_TOTAL),
            generated_tokens: counter!(names::GENERATED_TOKENS_TOTAL),
            request: histogram!(names::REQUEST_SECONDS),
            images: counter!(names::IMAGES_TOTAL),
            image_prepare: histogram!(names::IMAGE_PREPARE_SECONDS),
            replays: counter!(names::REPLAYS_TOTAL),
            replicas_ready: gauge!(names::REPLICAS_READY),
        }
    }

    /// A request came in by `front`.
    pub(crate) fn begin(&self, front: Front, arrived: Instant) -> Tally {
        self.in_flight.increment(1);
        Tally { metrics: self.clone(), front, arrived, outcome: ErrorKind::Cancelled.name() }
    }

    /// An image was prepared.
    pub(crate) fn image(&self, spent: Duration) {
        self.images.increment(1);
        self.image_prepare.record(spent);
    }

    /// So many replicas are ready.
    pub(crate) fn replicas(&self, ready: usize) {
        self.replicas_ready.set(ready as f64);
    }
}

/// By which front a request came.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Front {
    /// `tessera.v1.Inference`
    Grpc,
    /// OpenAI's API.
    Http,
}

/// One request's part of the counting. One that is dropped before its end was cancelled.
pub(crate) struct Tally {
    metrics: Metrics,
    front: Front,
    arrived: Instant,
    outcome: &'static str,
}

impl Tally {
    pub(crate) fn first_token(&self) {
        self.metrics.time_to_first_token.record(self.arrived.elapsed());
    }

    /// A token after another of the same sequence.
    pub(crate) fn next_token(&self, gap: Duration) {
        self.metrics.inter_token.record(gap);
    }

    pub(crate) fn replayed(&self) {
        self.metrics.replays.increment(1);
    }

    pub(crate) fn done(&mut self, usage: &Usage) {
        self.outcome = "ok";
        self.metrics.prompt_tokens.increment(usage.prompt_tokens.into());
        self.metrics.generated_tokens.increment(usage.generated_tokens.into());
    }

    pub(crate) fn failed(&mut self, kind: ErrorKind) {
        self.outcome = kind.name();
    }
}

impl Drop for Tally {
    fn drop(&mut self) {
        let front = match self.front {
            Front::Grpc => "grpc",
            Front::Http => "http",
        };
        self.metrics.in_flight.decrement(1);
        self.metrics.request.record(self.arrived.elapsed());
        counter!(names::REQUESTS_TOTAL, "front" => front, "outcome" => self.outcome).increment(1);
        if !matches!(self.outcome, "ok" | "cancelled") {
            counter!(names::REFUSALS_TOTAL, "reason" => self.outcome).increment(1);
        }
    }
}

impl ErrorKind {
    /// As metrics call it.
    fn name(self) -> &'static str {
        match self {
            Self::Invalid => "invalid",
            Self::PromptTooLong => "prompt_too_long",
            Self::ModelNotFound => "model_not_found",
            Self::TooLarge => "too_large",
            Self::Unauthenticated => "unauthenticated",
            Self::Exhausted => "exhausted",
            Self::Unavailable => "unavailable",
            Self::DeadlineExceeded => "deadline_exceeded",
            Self::Cancelled => "cancelled",
            Self::Internal => "internal",
        }
    }
}
