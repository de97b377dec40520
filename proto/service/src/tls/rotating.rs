//! What files make, kept up to date with them.

use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tracing::{info, warn};

use super::TlsError;

/// Between two looks at the files.
const PACE: Duration = Duration::from_secs(1);

/// Files that something is made from.
pub(super) trait Files {
    /// What they hold.
    type Content: PartialEq;
    /// What is made from it.
    type Made: Clone;

    /// Reads them all.
    fn read(&self) -> Result<Self::Content, TlsError>;

    /// Makes it.
    fn make(content: &Self::Content) -> Result<Self::Made, TlsError>;
}

/// What was made from files last. Contents are compared rather than times: a mounted secret is replaced by a link.
pub(super) struct Rotating<F: Files> {
    files: F,
    state: Mutex<State<F>>,
}

struct State<F: Files> {
    content: F::Content,
    made: F::Made,
    looked: Instant,
    /// What was wrong with the files at the last look.
    problem: Option<String>,
}

impl<F: Files> Rotating<F> {
    pub(super) fn read(files: F) -> Result<Self, TlsError> {
        let content = files.read()?;
        let made = F::make(&content)?;
        let state = State { content, made, looked: Instant::now(), problem: None };
        Ok(Self { files, state: Mutex::new(state) })
    }

    /// What the files make now, or made when they were last in order.
    pub(super) fn current(&self) -> F::Made {
        let mut state = self.state.lock();
        if state.looked.elapsed() >= PACE {
            state.looked = Instant::now();
            state.take_over(self.files.read());
        }
        state.made.clone()
    }
}

impl<F: Files> State<F> {
    fn take_over(&mut self, read: Result<F::Content, TlsError>) {
        let outcome = read.and_then(|content| {
            if content == self.content {
                return Ok(false);
            }
            self.made = F::make(&content)?;
            self.content = content;
            Ok(true)
        });
        match outcome {
            Ok(changed) => {
                self.problem = None;
                if changed {
                    info!("new certificates are in use");
                }
            }
            // A certificate may be seen without its key, between the replacing of one file and the next.
            Err(error) => {
                let problem = Some(error.to_string());
                if self.problem != problem {
                    warn!(%error, "the last good certificates stay in use");
                    self.problem = problem;
                }
            }
        }
    }
}
