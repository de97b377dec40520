//! Threads that share the work of one operation.
//!
//! Work is cut into chunks that threads claim one by one, so a thread the system took off its core delays one chunk
//! only. Which thread computes a chunk never shows in the result.
#![allow(unsafe_code)]

mod shared;
mod spin;

use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use shared::Shared;
use spin::Spin;

use super::parts::Parts;
use crate::DeviceError;

/// Below this many elementary operations, waking others costs more than it gains.
const WORTH_SHARING: usize = 1 << 16;

/// `threads` threads, the caller of [`Pool::run`] being one of them.
pub(super) struct Pool {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
    /// Taken by the thread that has the workers' attention.
    turn: Mutex<Spin>,
}

impl Pool {
    pub(super) fn new(threads: usize) -> Result<Self, DeviceError> {
        let shared = Arc::new(Shared::default());
        let mut pool = Self { shared, workers: Vec::new(), turn: Mutex::new(Spin::default()) };
        for index in 1..threads {
            let shared = Arc::clone(&pool.shared);
            let worker = std::thread::Builder::new()
                .name(format!("compute-{index}"))
                .spawn(move || shared.work())
                .map_err(|error| DeviceError::Thread(format!("cannot start: {error}")))?;
            pool.workers.push(worker);
        }
        Ok(pool)
    }

    /// Threads, the caller included.
    pub(super) fn threads(&self) -> usize {
        self.workers.len() + 1
    }

    /// Calls `task(0)` to `task(tasks - 1)`, each once, on any thread and in any order, and returns when all are
    /// done. `cost` is a rough count of elementary operations of the whole.
    pub(super) fn run(&self, cost: usize, tasks: usize, task: impl Fn(usize) + Sync) -> Result<(), DeviceError> {
        let alone = self.workers.is_empty() || tasks < 2 || cost < WORTH_SHARING;
        match self.turn.try_lock() {
            Ok(mut spin) if !alone => self.shared.run(tasks, &task, &mut spin),
            _ => shared::caught(|| (0..tasks).for_each(&task)),
        }
    }

    /// Calls `each` with every row of `matrix`, which is `[_, cols]`; `cost` is of one number.
    pub(super) fn rows(
        &self,
        cost: usize,
        matrix: &mut [f32],
        cols: usize,
        each: impl Fn(usize, &mut [f32]) + Sync,
    ) -> Result<(), DeviceError> {
        if matrix.is_empty() {
            return Ok(());
        }
        let (cost, rows) = (cost.saturating_mul(matrix.len()), matrix.len() / cols);
        let together = rows.div_ceil(4 * self.threads());
        let parts = Parts::new(matrix);
        self.run(cost, rows.div_ceil(together), |task| {
            for row in task * together..rows.min((task + 1) * together) {
                // SAFETY: a row belongs to one task, and a task runs once.
                each(row, unsafe { parts.claim(row * cols..(row + 1) * cols) });
            }
        })
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.close();
        for worker in self.workers.drain(..) {
            // A worker catches its panics; there is nothing to learn from joining it.
            let _ = worker.join();
        }
    }
}

#[cfg(test)]
mod tests;
