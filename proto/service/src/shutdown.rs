//! The end of a process, asked for from outside.

use std::{io, process, time::Duration};

use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    time::sleep,
};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

/// Signals within this are one request: timeout(1), for one, signals a process and then its whole group.
const ONE_REQUEST: Duration = Duration::from_secs(1);
/// What shells report for a process that was interrupted.
const INTERRUPTED: i32 = 130;

/// A token that SIGINT or SIGTERM cancels. A second signal, a second later or more, ends the process at once.
/// Must be called inside a tokio runtime; from the return on, no signal ends the process unheard.
pub fn on_signal() -> CancellationToken {
    let token = CancellationToken::new();
    match Signals::new() {
        Ok(signals) => drop(tokio::spawn(hear(signals, token.clone()))),
        Err(error) => warn!(%error, "signals cannot be heard; they end the process at once"),
    }
    token
}

async fn hear(mut signals: Signals, token: CancellationToken) {
    signals.next().await;
    info!("stopping");
    token.cancel();
    sleep(ONE_REQUEST).await;
    // Made anew, so that signals of the first request are forgotten.
    let Ok(mut signals) = Signals::new() else { return };
    signals.next().await;
    warn!("stopping at once");
    process::exit(INTERRUPTED);
}

/// SIGINT and SIGTERM from now on.
struct Signals {
    interrupt: Signal,
    terminate: Signal,
}

impl Signals {
    fn new() -> io::Result<Self> {
        Ok(Self { interrupt: signal(SignalKind::interrupt())?, terminate: signal(SignalKind::terminate())? })
    }

    async fn next(&mut self) {
        tokio::select! { _ = self.interrupt.recv() => {}, _ = self.terminate.recv() => {} }
    }
}
