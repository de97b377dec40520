//! What a person sees while weights load, and when something is wrong.

use std::{
    io::{Write, stderr},
    time::Duration,
};

use anyhow::{Result, bail};
use indicatif::{ProgressBar, ProgressStyle};
use tessera_coordinator::GroupState;
use tokio::sync::watch;

/// A line for the person, not for the log.
pub(crate) fn complain(line: &str) {
    // With standard error gone there is nobody left to tell.
    let _ = writeln!(stderr().lock(), "{line}");
}

/// Shows a bar while the group loads; ends when it runs. Where no terminal is, nothing is drawn.
pub(crate) async fn until_ready(mut group: watch::Receiver<GroupState>) -> Result<()> {
    let mut bar = None;
    loop {
        let state = group.borrow_and_update().clone();
        match state {
            GroupState::Ready { .. } => break,
            GroupState::Stopped => bail!("the coordinator stopped before it was ready"),
            GroupState::Loading { bytes_total: 0, .. } | GroupState::Waiting { .. } | GroupState::Lost { .. } => {}
            GroupState::Loading { bytes_done, bytes_total } => {
                let bar = bar.get_or_insert_with(loading_bar);
                bar.set_length(bytes_total);
                bar.set_position(bytes_done);
            }
        }
        if group.changed().await.is_err() {
            bail!("the coordinator ended before it was ready");
        }
    }
    if let Some(bar) = bar {
        bar.finish_and_clear();
    }
    Ok(())
}

/// As wide as the terminal, in one line: what is logged meanwhile takes its place.
fn loading_bar() -> ProgressBar {
    let bar = ProgressBar::new(0);
    if let Ok(style) = ProgressStyle::with_template("loading {wide_bar} {bytes} of {total_bytes}  {bytes_per_sec}  {eta} left") {
        bar.set_style(style);
    }
    bar.enable_steady_tick(Duration::from_millis(200));
    bar
}
