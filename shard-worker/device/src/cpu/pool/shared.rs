//! What the caller and the workers share: one job at a time, claimed chunk by chunk.
#![allow(unsafe_code)]

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::spin::Spin;
use crate::DeviceError;

/// Sleepers look again this often whatever happens, so that no wait is without end.
const LOOK_AGAIN: Duration = Duration::from_millis(500);
/// Chunks of one job, so that their number fits its 16 bits.
const MAX_TASKS: usize = u16::MAX as usize;

/// A job: a call, and what the first failed chunk said.
struct Job<'a> {
    call: &'a (dyn Fn(usize) + Sync),
    failure: Mutex<Option<DeviceError>>,
}

/// `state` is `epoch << 32 | tasks << 16 | next`. Claiming is a compare-and-swap of the whole, so whoever succeeds
/// knows that the job of that epoch is still open; and since its caller waits for the claimed chunk, that it stays.
#[derive(Default)]
pub(super) struct Shared {
    state: AtomicU64,
    job: AtomicPtr<Job<'static>>,
    finished: AtomicUsize,
    closed: AtomicBool,
    sleepers: AtomicUsize,
    caller_sleeps: AtomicBool,
    lock: Mutex<()>,
    /// Rung when a job opens, and at the end.
    opened: Condvar,
    /// Rung when a job's last chunk is finished and the caller sleeps.
    done: Condvar,
}

impl Shared {
    /// Runs a job; the caller takes part. Only one caller at a time.
    pub(super) fn run(&self, tasks: usize, task: &(dyn Fn(usize) + Sync), spin: &mut Spin) -> Result<(), DeviceError> {
        let stride = tasks.div_ceil(MAX_TASKS);
        let call = |chunk: usize| (chunk * stride..tasks.min((chunk + 1) * stride)).for_each(task);
        let job = Job { call: &call, failure: Mutex::new(None) };
        let chunks = tasks.div_ceil(stride);

        self.finished.store(0, Ordering::Relaxed);
        self.job.store((&raw const job).cast_mut().cast(), Ordering::Relaxed);
        let epoch = (self.state.load(Ordering::Relaxed) >> 32) as u32;
        let opened = u64::from(epoch.wrapping_add(1)) << 32 | (chunks as u64) << 16;
        self.state.store(opened, Ordering::SeqCst);
        if self.sleepers.load(Ordering::SeqCst) > 0 {
            let _guard = self.lock();
            self.opened.notify_all();
        }

        self.claim();
        let all_done = || self.finished.load(Ordering::Acquire) == chunks;
        if !spin.until(all_done) {
            self.caller_sleeps.store(true, Ordering::SeqCst);
            let mut guard = self.lock();
            while self.finished.load(Ordering::SeqCst) != chunks {
                guard = self.done.wait_timeout(guard, LOOK_AGAIN).unwrap_or_else(PoisonError::into_inner).0;
            }
            drop(guard);
            self.caller_sleeps.store(false, Ordering::Relaxed);
        }
        job.failure.into_inner().unwrap_or_else(PoisonError::into_inner).map_or(Ok(()), Err)
    }

    /// A worker's life.
    pub(super) fn work(&self) {
        let mut spin = Spin::default();
        let mut seen = 0;
        loop {
            let news = || self.epoch() != seen || self.closed.load(Ordering::SeqCst);
            if !spin.until(news) {
                self.sleepers.fetch_add(1, Ordering::SeqCst);
                let mut guard = self.lock();
                while !news() {
                    guard = self.opened.wait_timeout(guard, LOOK_AGAIN).unwrap_or_else(PoisonError::into_inner).0;
                }
                drop(guard);
                self.sleepers.fetch_sub(1, Ordering::SeqCst);
            }
            if self.closed.load(Ordering::SeqCst) {
                return;
            }
            seen = self.epoch();
            self.claim();
        }
    }

    /// Ends the workers' lives.
    pub(super) fn close(&self) {
        self.closed.store(true, Ordering::SeqCst);
        let _guard = self.lock();
        self.opened.notify_all();
    }

    /// Claims and runs chunks until none is left.
    fn claim(&self) {
        let mut state = self.state.load(Ordering::Acquire);
        loop {
            let (tasks, next) = ((state >> 16 & 0xffff) as usize, (state & 0xffff) as usize);
            if next >= tasks {
                return;
            }
            match self.state.compare_exchange_weak(state, state + 1, Ordering::AcqRel, Ordering::Acquire) {
                Ok(_) => {
                    self.run_chunk(next, tasks);
                    state = self.state.load(Ordering::Acquire);
                }
                Err(now) => state = now,
            }
        }
    }

    fn run_chunk(&self, chunk: usize, tasks: usize) {
        // SAFETY: this thread has claimed a chunk that is not finished, and `run` does not return, nor does the job
        // it stored end, before all chunks are. The store happened before the state that was claimed from.
        let job = unsafe { &*self.job.load(Ordering::Relaxed) };
        if let Err(failure) = caught(|| (job.call)(chunk)) {
            *job.failure.lock().unwrap_or_else(PoisonError::into_inner) = Some(failure);
        }
        // From here on the job may be gone.
        if self.finished.fetch_add(1, Ordering::SeqCst) + 1 == tasks && self.caller_sleeps.load(Ordering::SeqCst) {
            let _guard = self.lock();
            self.done.notify_one();
        }
    }

    fn epoch(&self) -> u64 {
        self.state.load(Ordering::SeqCst) >> 32
    }

    fn lock(&self) -> MutexGuard<'_, ()> {
        self.lock.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A panic as an error.
pub(super) fn caught(work: impl FnOnce()) -> Result<(), DeviceError> {
    catch_unwind(AssertUnwindSafe(work)).map_err(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
        DeviceError::Thread(text.unwrap_or_else(|| "a panic without a message".to_owned()))
    })
}
