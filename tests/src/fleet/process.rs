//! A process with a name, arguments and a log that outlive it: it can be killed and started again.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use tokio::time::{Instant, sleep};

use crate::binary;

/// How long a process may take to be ready; far more than it needs.
const READY: Duration = Duration::from_secs(60);
/// Between two looks.
const LOOK: Duration = Duration::from_millis(20);

/// What a process holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Resident memory, in bytes.
    pub memory: u64,
    /// Open files, sockets included.
    pub descriptors: usize,
}

/// One `tessera`, killed when dropped.
#[derive(Debug)]
pub(super) struct Process {
    name: String,
    /// What it is run by, on a host of its own.
    on: Vec<String>,
    arguments: Vec<String>,
    log: PathBuf,
    /// Where in the log its present life begins.
    begin: usize,
    child: Option<Child>,
}

impl Process {
    pub(super) fn new(name: &str, on: Vec<String>, arguments: Vec<String>, folder: &Path) -> Self {
        Self { name: name.to_owned(), on, arguments, log: folder.join(format!("{name}.log")), begin: 0, child: None }
    }

    /// Starts it, if it does not run.
    pub(super) fn start(&mut self) -> Result<()> {
        if self.ended()?.is_none() && self.child.is_some() {
            return Ok(());
        }
        let log = File::options().create(true).append(true).open(&self.log)?;
        self.begin = usize::try_from(log.metadata()?.len())?;
        let words: Vec<_> = self.on.iter().map(Into::into).chain([binary()?.into_os_string()]).collect();
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]).args(&self.arguments).stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        self.child = Some(command.spawn().context("cannot start tessera")?);
        Ok(())
    }

    /// Waits until it says that it is ready.
    pub(super) async fn ready(&mut self) -> Result<()> {
        let until = Instant::now() + READY;
        while !self.said().lines().any(|line| line.starts_with("ready ")) {
            if let Some(code) = self.ended()? {
                bail!("{} ended ({code:?}) before it was ready:\n{}", self.name, self.said());
            }
            ensure!(Instant::now() < until, "{} is not ready:\n{}", self.name, self.said());
            sleep(LOOK).await;
        }
        Ok(())
    }

    /// The process id while it runs.
    pub(super) fn id(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
    }

    pub(super) fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            // It may have ended by itself; either way it is gone.
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Sends a signal by its name, as `TERM`.
    pub(super) fn signal(&self, signal: &str) -> Result<()> {
        let id = self.id().with_context(|| format!("{} does not run", self.name))?;
        let sent = Command::new("kill").args(["-s", signal, &id.to_string()]).status()?;
        ensure!(sent.success(), "cannot send {signal} to {}", self.name);
        Ok(())
    }

    /// The exit code of one that has ended by itself; `Some(None)` after a signal.
    #[expect(clippy::option_option, reason = "whether it ended, and how")]
    pub(super) fn ended(&mut self) -> Result<Option<Option<i32>>> {
        let Some(child) = &mut self.child else { return Ok(None) };
        let status = child.try_wait()?;
        if status.is_some() {
            self.child = None;
        }
        Ok(status.map(|status| status.code()))
    }

    /// Waits until it has ended by itself; its exit code.
    pub(super) async fn end(&mut self, bound: Duration) -> Result<Option<i32>> {
        let until = Instant::now() + bound;
        loop {
            if let Some(code) = self.ended()? {
                return Ok(code);
            }
            ensure!(self.child.is_some(), "{} does not run", self.name);
            ensure!(Instant::now() < until, "{} has not ended within {bound:?}:\n{}", self.name, self.said());
            sleep(LOOK).await;
        }
    }

    /// What it holds; `None` where it does not run.
    pub(super) fn usage(&self) -> Option<Usage> {
        let folder = PathBuf::from(format!("/proc/{}", self.id()?));
        let status = fs::read_to_string(folder.join("status")).ok()?;
        let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
        let kibibytes: u64 = resident.split_whitespace().next()?.parse().ok()?;
        Some(Usage { memory: kibibytes << 10, descriptors: fs::read_dir(folder.join("fd")).ok()?.count() })
    }

    /// What it has said in this life.
    pub(super) fn said(&self) -> String {
        let log = fs::read(&self.log).unwrap_or_default();
        String::from_utf8_lossy(log.get(self.begin..).unwrap_or_default()).into_owned()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}
