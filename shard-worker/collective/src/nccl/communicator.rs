//! A communicator that can be ended at any time, from any thread, once.
//!
//! Aborting frees it, so whoever uses it holds a lock, and only for a call of NCCL's that does not block. Should one
//! block all the same, the abort waits for it until the last resort ends the process.

#![expect(unsafe_code, reason = "calls of a C library")]

use std::{
    ffi::c_int,
    io, ptr,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread,
    time::Duration,
};

use cudarc::nccl::sys::ncclComm_t;

use super::{
    NcclId,
    library::{IN_PROGRESS, Library, SUCCESS},
};
use crate::{CollectiveError, LastResort};

/// Beyond the last resort's limit: it may be one that returns.
const SLACK: Duration = Duration::from_secs(1);

/// What a communicator is at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// All that was asked for is on its stream.
    Posted,
    /// NCCL is still at it.
    Posting,
}

pub(super) struct Communicator {
    library: &'static Library,
    /// Until the end has begun.
    handle: Mutex<Option<Handle>>,
    end: Mutex<End>,
    /// The end is done.
    done: Condvar,
    last_resort: LastResort,
}

struct Handle(ncclComm_t);

// SAFETY: NCCL allows any thread to use a communicator, one at a time, which the lock around it sees to.
unsafe impl Send for Handle {}

#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    NotBegun,
    Begun,
    Done,
}

impl Communicator {
    /// Begins to join the others; [`Communicator::state`] tells when all are there.
    pub(super) fn begin(
        library: &'static Library,
        id: &NcclId,
        rank: usize,
        size: usize,
        last_resort: LastResort,
    ) -> Result<Arc<Self>, CollectiveError> {
        let mut handle = ptr::null_mut();
        let code = library.init(&mut handle, id, rank, size);
        if !matches!(code, SUCCESS | IN_PROGRESS) || handle.is_null() {
            return Err(library.failure("join", code));
        }
        let (handle, end) = (Mutex::new(Some(Handle(handle))), Mutex::new(End::NotBegun));
        Ok(Arc::new(Self { library, handle, end, done: Condvar::new(), last_resort }))
    }

    pub(super) fn library(&self) -> &'static Library {
        self.library
    }

    /// Makes a call of NCCL's.
    pub(super) fn call(&self, operation: &'static str, call: impl FnOnce(ncclComm_t) -> c_int) -> Result<State, CollectiveError> {
        match &*locked(&self.handle) {
            Some(Handle(handle)) => self.meaning(operation, call(*handle)),
            None => Err(CollectiveError::Aborted),
        }
    }

    /// What the communicator is at, or why it stands no more.
    pub(super) fn state(&self, operation: &'static str) -> Result<State, CollectiveError> {
        let mut state = SUCCESS;
        self.call(operation, |handle| {
            // SAFETY: `call` gives a communicator that is alive, and holds the lock until this is done.
            let (code, now) = unsafe { self.library.async_error(handle) };
            state = now;
            code
        })?;
        self.meaning(operation, state)
    }

    fn meaning(&self, operation: &'static str, code: c_int) -> Result<State, CollectiveError> {
        match code {
            SUCCESS => Ok(State::Posted),
            IN_PROGRESS => Ok(State::Posting),
            code => Err(self.library.failure(operation, code)),
        }
    }

    /// Aborts the communicator, on a thread of its own; never blocks. The last resort follows when that takes too long.
    pub(super) fn end(self: &Arc<Self>) {
        let mut end = locked(&self.end);
        if *end != End::NotBegun {
            return;
        }
        *end = End::Begun;
        drop(end);
        let started = spawn("nccl-end", {
            let ending = self.clone();
            move || ending.abort_in_time()
        });
        if let Err(error) = started {
            self.last_resort.follow(&format!("there is no thread to abort NCCL's communicator: {error}"));
        }
    }

    fn abort_in_time(self: &Arc<Self>) {
        let aborting = spawn("nccl-abort", {
            let ending = self.clone();
            move || ending.abort()
        });
        let problem = match aborting {
            Err(error) => format!("there is no thread to abort NCCL's communicator: {error}"),
            Ok(()) if self.is_done_within(self.last_resort.limit()) => return,
            Ok(()) => {
                let limit = self.last_resort.limit();
                format!("NCCL's communicator was not aborted within {limit:?}: the device hangs, or a graph was kept")
            }
        };
        self.last_resort.follow(&problem);
    }

    fn abort(&self) {
        let handle = locked(&self.handle).take();
        if let Some(Handle(handle)) = handle {
            // SAFETY: the communicator was alive, and nobody finds it any more.
            unsafe { self.library.abort(handle) };
        }
        *locked(&self.end) = End::Done;
        self.done.notify_all();
    }

    /// Waits until the communicator is gone, for no longer than the last resort does.
    pub(super) fn wait_for_end(&self) {
        self.is_done_within(self.last_resort.limit() + SLACK);
    }

    fn is_done_within(&self, limit: Duration) -> bool {
        let waited = self.done.wait_timeout_while(locked(&self.end), limit, |end| *end != End::Done);
        let (end, _) = waited.unwrap_or_else(PoisonError::into_inner);
        *end == End::Done
    }
}

/// Nothing that holds a lock here panics half-way.
fn locked<T>(lock: &Mutex<T>) -> MutexGuard<'_, T> {
    lock.lock().unwrap_or_else(PoisonError::into_inner)
}

fn spawn(name: &str, work: impl FnOnce() + Send + 'static) -> io::Result<()> {
    thread::Builder::new().name(name.into()).spawn(work).map(drop)
}
