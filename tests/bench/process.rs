//! Other processes: one that keeps a core busy, and what a process has used.

use std::{
    fs,
    process::{Child, Command},
    time::Duration,
};

use anyhow::{Context, Result};

/// A process that computes without end, until dropped.
pub(crate) struct Busy(Child);

impl Busy {
    pub(crate) fn start() -> Result<Self> {
        let shell = Command::new("sh").args(["-c", "while :; do :; done"]).spawn();
        Ok(Self(shell.context("cannot start a busy process")?))
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        // It may have ended by itself; either way it is gone.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Processor time that a process has used, all threads together.
pub(crate) fn cpu_time(id: u32) -> Result<Duration> {
    let stat = fs::read_to_string(format!("/proc/{id}/stat")).with_context(|| format!("process {id} is gone"))?;
    // Fields count from behind the command's closing bracket; user and system time are the 12th and 13th there.
    let fields = stat.rsplit(')').next().context("an odd stat file")?;
    let ticks: Vec<u64> = fields.split_whitespace().skip(11).take(2).filter_map(|field| field.parse().ok()).collect();
    Ok(Duration::from_millis(ticks.iter().sum::<u64>() * 10))
}
