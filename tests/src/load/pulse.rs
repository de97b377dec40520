//! When the tokens of a stream came: the longest silence, and when it ended.

use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

/// Silences of one client's streams, one after the other.
#[derive(Debug)]
pub(super) struct Pulse(Mutex<Inner>);

#[derive(Debug)]
struct Inner {
    since: Instant,
    last: Instant,
    longest: Silence,
    tokens: u64,
}

/// A time without a token.
#[derive(Clone, Copy, Debug, Default)]
pub struct Silence {
    /// How long it was.
    pub lasted: Duration,
    /// From the mark to the token that ended it.
    pub until: Duration,
}

impl Default for Pulse {
    fn default() -> Self {
        let now = Instant::now();
        Self(Mutex::new(Inner { since: now, last: now, longest: Silence::default(), tokens: 0 }))
    }
}

impl Pulse {
    /// Silences count from now on.
    pub(super) fn mark(&self) {
        let (mut inner, now) = (self.0.lock(), Instant::now());
        (inner.since, inner.last, inner.longest) = (now, now, Silence::default());
    }

    /// A token came.
    pub(super) fn beat(&self) {
        let (mut inner, now) = (self.0.lock(), Instant::now());
        let lasted = now - inner.last;
        if lasted > inner.longest.lasted {
            inner.longest = Silence { lasted, until: now - inner.since };
        }
        inner.last = now;
        inner.tokens += 1;
    }

    /// The longest silence since the mark that a token has ended.
    pub(super) fn longest(&self) -> Silence {
        self.0.lock().longest
    }

    /// Tokens so far.
    pub(super) fn tokens(&self) -> u64 {
        self.0.lock().tokens
    }
}
