//! What ends a process whose device hangs.

#![expect(unsafe_code, reason = "ending the process at once")]

use std::{
    fmt,
    io::{self, Write},
    sync::Arc,
    time::Duration,
};

/// What follows when a collective cannot be aborted in time. A kernel that hangs holds its device, and nothing but the
/// end of the process frees that; so by default the process says why on stderr and exits with
/// [`LastResort::EXIT_CODE`], to be started anew by whoever looks after it.
#[derive(Clone)]
pub struct LastResort {
    limit: Duration,
    act: Arc<dyn Fn(&str) + Send + Sync>,
}

impl LastResort {
    /// "Try again" among the exit codes of `sysexits.h`.
    pub const EXIT_CODE: i32 = 75;
    /// How long an abort may take, where no one says otherwise. One that works takes milliseconds.
    pub const LIMIT: Duration = Duration::from_secs(10);

    /// Does something else, after another time. `act` is told why.
    pub fn new(limit: Duration, act: impl Fn(&str) + Send + Sync + 'static) -> Self {
        Self { limit, act: Arc::new(act) }
    }

    /// Ends the process after another time.
    pub fn exit_within(limit: Duration) -> Self {
        Self::new(limit, exit)
    }

    pub(crate) fn limit(&self) -> Duration {
        self.limit
    }

    /// Does it, and says why.
    pub fn follow(&self, why: &str) {
        (self.act)(why);
    }
}

impl Default for LastResort {
    fn default() -> Self {
        Self::exit_within(Self::LIMIT)
    }
}

fn exit(why: &str) {
    // Whoever logs may be stuck as well; where stderr cannot be written either, the code must say it.
    let _ = writeln!(io::stderr(), "{why}; the process ends with code {}", LastResort::EXIT_CODE);
    // SAFETY: ends the process at once, without the destructors of libraries that may wait for the device for ever.
    unsafe { libc::_exit(LastResort::EXIT_CODE) }
}

impl fmt::Debug for LastResort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LastResort").field("limit", &self.limit).finish_non_exhaustive()
    }
}
