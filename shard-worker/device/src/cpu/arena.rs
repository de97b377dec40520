//! Activations, whose buffers are used again.

use std::sync::{Arc, Mutex, PoisonError};

use super::buffer::Buffer;
use crate::DeviceError;

/// Buffers of tensors that were dropped, by the power of two of their size. It never holds more of a size than were
/// alive at once.
pub(super) struct Arena {
    free: Mutex<Vec<Vec<Buffer<f32>>>>,
}

/// An f32 matrix `[rows, cols]`, row-major.
pub struct CpuTensor {
    pub(super) rows: usize,
    pub(super) cols: usize,
    buffer: Buffer<f32>,
    arena: Arc<Arena>,
}

impl Arena {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self { free: Mutex::new((0..usize::BITS).map(|_| Vec::new()).collect()) })
    }

    /// A matrix with any numbers in it.
    pub(super) fn tensor(self: &Arc<Self>, rows: usize, cols: usize) -> Result<CpuTensor, DeviceError> {
        let len = rows.saturating_mul(cols);
        let size = len.max(16).checked_next_power_of_two().unwrap_or(usize::MAX);
        let kept = self.free.lock().unwrap_or_else(PoisonError::into_inner)[class(size)].pop();
        let buffer = match kept {
            Some(buffer) => buffer,
            None => Buffer::zeroed(size, "an activation")?,
        };
        Ok(CpuTensor { rows, cols, buffer, arena: Arc::clone(self) })
    }
}

fn class(size: usize) -> usize {
    size.ilog2() as usize
}

impl CpuTensor {
    pub(super) fn numbers(&self) -> &[f32] {
        &self.buffer[..self.rows * self.cols]
    }

    pub(super) fn numbers_mut(&mut self) -> &mut [f32] {
        &mut self.buffer[..self.rows * self.cols]
    }
}

impl Drop for CpuTensor {
    fn drop(&mut self) {
        let buffer = std::mem::take(&mut self.buffer);
        self.arena.free.lock().unwrap_or_else(PoisonError::into_inner)[class(buffer.len())].push(buffer);
    }
}
