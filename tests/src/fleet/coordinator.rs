//! A coordinator, asked without a registry.

use anyhow::{Context, Result};

use super::Status;

/// Where a coordinator is asked how it is.
#[derive(Clone, Debug)]
pub struct Coordinator {
    /// `HOST:PORT` of its gRPC service.
    pub(super) address: String,
    /// `HOST:PORT` of its metrics.
    pub(super) status: String,
}

impl Coordinator {
    pub(super) fn new(port: u16, status: u16) -> Self {
        Self { address: format!("127.0.0.1:{port}"), status: format!("127.0.0.1:{status}") }
    }

    /// The code and the text of `/readyz`.
    pub async fn readiness(&self) -> Result<(u16, String)> {
        let answer = reqwest::get(format!("http://{}/readyz", self.status)).await?;
        Ok((answer.status().as_u16(), answer.text().await?))
    }

    /// The value of a metric, by its name and labels as they stand in `/metrics`.
    pub async fn metric(&self, name: &str) -> Result<f64> {
        let text = reqwest::get(format!("http://{}/metrics", self.status)).await?.text().await?;
        let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        Ok(value.with_context(|| format!("no {name} in\n{text}"))?.parse()?)
    }

    /// What `tessera status --at` says.
    pub async fn status(&self) -> Result<Status> {
        Status::of(&["--at", &self.address]).await
    }
}
