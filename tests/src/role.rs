//! One role as a process of its own, ended when dropped.

use std::{process::Stdio, time::Duration};

use anyhow::{Context, Result, bail};
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::{Child, Command},
    time::timeout,
};

use crate::binary;

/// A role that has said that it is ready.
#[derive(Debug)]
pub struct Role {
    process: Child,
    ready: String,
}

impl Role {
    /// Starts `tessera` with these arguments and more of the environment, and waits until it is ready.
    pub async fn start(arguments: &[String], environment: &[(&str, String)]) -> Result<Self> {
        let mut process = Command::new(binary()?)
            .args(arguments)
            .envs(environment.iter().cloned())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .context("cannot start tessera")?;
        let mut lines = BufReader::new(process.stdout.take().context("no standard output")?).lines();
        let ready = async {
            while let Some(line) = lines.next_line().await? {
                if line.starts_with("ready ") {
                    return Ok(line);
                }
            }
            bail!("`tessera {}` ended before it was ready", arguments.join(" "))
        };
        let ready = timeout(Duration::from_secs(60), ready).await.context("not ready within a minute")??;
        Ok(Self { process, ready })
    }

    /// An address that it told by `name` when it was ready.
    pub fn address(&self, name: &str) -> Result<String> {
        let found = self.ready.split_whitespace().find_map(|word| word.strip_prefix(name)?.strip_prefix('='));
        found.map(str::to_owned).with_context(|| format!("no {name} address in `{}`", self.ready))
    }

    /// The process id, to send signals to.
    pub fn id(&self) -> Option<u32> {
        self.process.id()
    }

    /// Sends SIGTERM and waits; the exit code says whether it stopped cleanly.
    pub async fn stop(mut self) -> Result<Option<i32>> {
        let id = self.process.id().context("it has ended already")?;
        if !Command::new("kill").args(["-TERM", &id.to_string()]).status().await?.success() {
            bail!("cannot signal process {id}");
        }
        let status = timeout(Duration::from_secs(5), self.process.wait()).await.context("it did not stop within 5 s")??;
        Ok(status.code())
    }
}
