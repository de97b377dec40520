//! Logs to standard error, and spans by OTLP where an endpoint is configured.

use std::{
    io::{IsTerminal, StderrLock, Write, stderr},
    time::Duration,
};

use opentelemetry::trace::TracerProvider as _;
use opentelemetry_otlp::{SpanExporter, WithExportConfig};
use opentelemetry_sdk::{Resource, trace::SdkTracerProvider};
use tracing::{Level, Metadata};
use tracing_subscriber::{
    EnvFilter, Layer,
    filter::{LevelFilter, filter_fn},
    layer::SubscriberExt,
    util::SubscriberInitExt,
};

use crate::{LogFormat, TelemetryConfig};

/// What a terminal takes for an order to go to the line's beginning and to clear it.
const CLEAR_LINE: &[u8] = b"\r\x1b[K";

/// Telemetry that cannot start.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// The filter cannot be read.
    #[error("`{filter}` is no log filter: {problem}")]
    Filter {
        /// What was given.
        filter: String,
        /// What is wrong with it.
        problem: String,
    },
    /// No exporter for the endpoint.
    #[error("spans cannot go to {endpoint}: {problem}")]
    Exporter {
        /// The endpoint.
        endpoint: String,
        /// What is wrong.
        problem: String,
    },
    /// Metrics cannot be recorded.
    #[error("metrics cannot be recorded: {0}")]
    Metrics(String),
}

/// Telemetry of a process; spans not yet sent are sent when it is dropped.
#[must_use = "telemetry ends when this is dropped"]
pub struct Telemetry {
    spans: Option<SdkTracerProvider>,
}

impl Telemetry {
    /// Starts logs, metrics and spans. Must be called inside a tokio runtime when spans are exported. Where another
    /// subscriber is in place already, it stays.
    pub fn start(config: &TelemetryConfig) -> Result<Self, TelemetryError> {
        crate::metrics::install().map_err(|error| TelemetryError::Metrics(error.to_string()))?;
        let filter = EnvFilter::try_new(&config.filter);
        let filter =
            filter.map_err(|error| TelemetryError::Filter { filter: config.filter.clone(), problem: error.to_string() })?;
        let lines = tracing_subscriber::fmt::layer().with_writer(line).with_ansi(stderr().is_terminal());
        let lines = match config.format {
            LogFormat::Human => lines.boxed(),
            LogFormat::Json => lines.json().boxed(),
        };
        let spans = config.otlp_endpoint.as_deref().map(|endpoint| provider(&config.service, endpoint)).transpose()?;
        let exported = spans.as_ref().map(|spans| {
            let layer = tracing_opentelemetry::layer().with_tracer(spans.tracer("tessera"));
            layer.with_filter(filter_fn(is_exported).with_max_level_hint(LevelFilter::INFO))
        });
        let _ = tracing_subscriber::registry().with(lines.with_filter(filter)).with(exported).try_init();
        Ok(Self { spans })
    }
}

/// Where a line goes. On a terminal it takes the place of a bar that is drawn there, which comes again below.
fn line() -> StderrLock<'static> {
    let mut out = stderr().lock();
    if out.is_terminal() {
        // With standard error gone there is nobody left to tell.
        let _ = out.write_all(CLEAR_LINE);
    }
    out
}

/// Tessera's own spans, whatever the logs show. The libraries below make spans for every frame they send, the exporter's
/// own frames too.
fn is_exported(metadata: &Metadata<'_>) -> bool {
    metadata.target().starts_with("tessera") && *metadata.level() <= Level::INFO
}

fn provider(service: &str, endpoint: &str) -> Result<SdkTracerProvider, TelemetryError> {
    let exporter = SpanExporter::builder().with_tonic().with_endpoint(endpoint).with_timeout(Duration::from_secs(5)).build();
    let exporter =
        exporter.map_err(|error| TelemetryError::Exporter { endpoint: endpoint.to_owned(), problem: error.to_string() })?;
    let resource = Resource::builder().with_service_name(service.to_owned()).build();
    Ok(SdkTracerProvider::builder().with_batch_exporter(exporter).with_resource(resource).build())
}

impl Drop for Telemetry {
    fn drop(&mut self) {
        if let Some(spans) = &self.spans {
            // A collector that is away must not keep the process from ending.
            let _ = spans.shutdown_with_timeout(Duration::from_secs(2));
        }
    }
}
