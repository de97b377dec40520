//! What `tessera status --json` says.

use std::fmt;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use tokio::process::Command;

use crate::binary;

/// A cluster at one moment.
#[derive(Clone, Debug)]
pub struct Status(Value);

impl Status {
    /// Of those who are named by these options.
    pub(super) async fn of(options: &[&str]) -> Result<Self> {
        let output = Command::new(binary()?).args(["status", "--json"]).args(options).output().await?;
        ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        Ok(Self(serde_json::from_slice(&output.stdout).context("the status is no JSON")?))
    }

    fn replicas(&self) -> impl Iterator<Item = &Value> {
        self.0["replicas"].as_array().into_iter().flatten()
    }

    fn workers(&self) -> impl Iterator<Item = &Value> {
        self.0["workers"].as_array().into_iter().flatten()
    }

    /// Replicas that serve.
    pub fn ready(&self) -> usize {
        self.serving().len()
    }

    /// The names of replicas that serve.
    pub fn serving(&self) -> Vec<&str> {
        let serves = |replica: &&Value| replica["ready"] == true && replica["answers"] == true;
        self.replicas().filter(serves).filter_map(|replica| replica["id"].as_str()).collect()
    }

    /// Whether a worker or replica of this name is registered.
    pub fn knows(&self, name: &str) -> bool {
        self.replicas().chain(self.workers()).any(|entry| entry["id"] == name)
    }

    /// The workers of a replica, by rank; none while it has no group.
    pub fn ranks(&self, replica: &str) -> Vec<&str> {
        let workers = self.of_replica(replica, "workers").and_then(Value::as_array);
        workers.into_iter().flatten().filter_map(Value::as_str).collect()
    }

    /// A replica's group by its number.
    pub fn epoch(&self, replica: &str) -> u64 {
        self.of_replica(replica, "epoch").and_then(Value::as_u64).unwrap_or(0)
    }

    /// How many groups a replica has had.
    pub fn groups(&self, replica: &str) -> u64 {
        self.of_replica(replica, "groups_formed").and_then(Value::as_u64).unwrap_or(0)
    }

    /// The ranks that a replica says to have lost.
    pub fn lost(&self, replica: &str) -> Vec<u64> {
        let lost = self.of_replica(replica, "lost_ranks").and_then(Value::as_array);
        lost.into_iter().flatten().filter_map(Value::as_u64).collect()
    }

    /// Why a replica says that it has no group; empty where it does not say so.
    pub fn problem(&self, replica: &str) -> &str {
        self.of_replica(replica, "problem").and_then(Value::as_str).unwrap_or_default()
    }

    fn of_replica(&self, replica: &str, key: &str) -> Option<&Value> {
        self.replicas().find(|entry| entry["id"] == replica)?.get(key)
    }

    /// Sequences on all replicas, waiting ones included.
    pub fn sequences(&self) -> u64 {
        let count = |entry: &Value, key: &str| entry[key].as_u64().unwrap_or(0);
        self.replicas().map(|entry| count(entry, "running") + count(entry, "waiting")).sum()
    }

    /// Workers that answer and are in no group.
    pub fn spares(&self) -> Vec<&str> {
        let spare = |worker: &&Value| worker["claimed_by"].is_null() && worker["answers"] == true && worker["rank"].is_null();
        self.workers().filter(spare).filter_map(|worker| worker["id"].as_str()).collect()
    }

    /// How many replicas and workers are registered, and how many workers are claimed.
    pub fn counts(&self) -> [usize; 3] {
        let claimed = self.workers().filter(|worker| !worker["claimed_by"].is_null());
        [self.replicas().count(), self.workers().count(), claimed.count()]
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#}", self.0)
    }
}
