//! Metrics, and the Prometheus text of them.

mod names;

use std::{sync::OnceLock, thread, time::Duration};

use metrics_exporter_prometheus::{BuildError, Matcher, PrometheusBuilder, PrometheusHandle};
use tracing::warn;

pub use names::*;

/// Bounds of every histogram of seconds: from 100 µs, each 1.5 to 2.5 times the last, to two minutes.
const SECONDS: [f64; 18] =
    [1e-4, 2.5e-4, 5e-4, 1e-3, 2.5e-3, 5e-3, 1e-2, 2.5e-2, 5e-2, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 15.0, 45.0, 120.0];
/// Bounds of tokens in a step.
const TOKENS: [f64; 12] = [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 2048.0, 8192.0];
/// How often recorded values are folded into their buckets. Until then each takes memory, asked for or not.
const UPKEEP: Duration = Duration::from_secs(5);

static RECORDER: OnceLock<PrometheusHandle> = OnceLock::new();

/// Starts recording; again in the same process, it changes nothing.
pub fn install() -> Result<(), BuildError> {
    if RECORDER.get().is_some() {
        return Ok(());
    }
    let recorder = PrometheusBuilder::new()
        .set_buckets_for_metric(Matcher::Suffix("_seconds".into()), &SECONDS)?
        .set_buckets_for_metric(Matcher::Full(STEP_TOKENS.into()), &TOKENS)?
        .build_recorder();
    let handle = recorder.handle();
    // Whoever was first, roles of one process share one recorder.
    if metrics::set_global_recorder(recorder).is_ok() {
        names::describe();
        let _ = RECORDER.set(handle.clone());
        keep_up(handle);
    }
    Ok(())
}

/// A thread rather than a task: the recorder outlives every runtime of the process.
fn keep_up(recorder: PrometheusHandle) {
    let upkeep = move || loop {
        thread::sleep(UPKEEP);
        recorder.run_upkeep();
    };
    if let Err(error) = thread::Builder::new().name("metrics-upkeep".into()).spawn(upkeep) {
        warn!(%error, "no thread for the metrics: their memory grows until they are read");
    }
}

/// All metrics as Prometheus text; empty before [`install`].
pub fn render() -> String {
    RECORDER.get().map(PrometheusHandle::render).unwrap_or_default()
}
