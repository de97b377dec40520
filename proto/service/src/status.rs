//! What those who watch a process ask by HTTP: does it live, does it serve, and its metrics.

use std::{sync::Arc, time::Duration};

use axum::{
    Router,
    response::{IntoResponse, Response},
    routing::get,
};
use http::{StatusCode, header::CONTENT_TYPE};
use tokio_util::sync::CancellationToken;

use crate::{Bound, metrics, serve_http};

/// An answer under way may end within this.
const GRACE: Duration = Duration::from_secs(1);
/// The media type of Prometheus' text.
const PROMETHEUS: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Serves `/metrics`, `/healthz` (200 while the process lives) and `/readyz` until `stop`. `problem` says what keeps the
/// process from serving: `/readyz` is 503 with that as its text, and 200 on `None`.
pub async fn serve_status(bound: Bound, problem: impl Fn() -> Option<String> + Send + Sync + 'static, stop: CancellationToken) {
    let problem = Arc::new(problem);
    let app = Router::new()
        .route("/metrics", get(scrape))
        .route("/healthz", get(async || "alive\n"))
        .route("/readyz", get(async move || readiness(problem())));
    serve_http(bound, app, stop, GRACE).await;
}

/// All metrics, as an answer to a scraper.
pub async fn scrape() -> Response {
    ([(CONTENT_TYPE, PROMETHEUS)], metrics::render()).into_response()
}

fn readiness(problem: Option<String>) -> Response {
    match problem {
        None => "ready\n".into_response(),
        Some(problem) => (StatusCode::SERVICE_UNAVAILABLE, format!("{problem}\n")).into_response(),
    }
}
