//! Pinned buffers through which weights go to the device: one is filled while the other is copied.

use std::sync::Arc;

use half::bf16;

use super::{context::Context, pinned::Pinned};
use crate::DeviceError;

/// Numbers in a buffer.
const NUMBERS: usize = 8 << 20;

/// Two buffers that take turns.
pub(super) struct Staging {
    buffers: [Pinned; 2],
    turn: usize,
}

impl Staging {
    pub(super) fn new(context: &Arc<Context>) -> Result<Self, DeviceError> {
        let buffer = || Pinned::new(context, NUMBERS * size_of::<bf16>(), "staging weights");
        Ok(Self { buffers: [buffer()?, buffer()?], turn: 0 })
    }

    /// Rows of so many numbers that go at once.
    pub(super) fn rows_at_once(cols: usize) -> Result<usize, DeviceError> {
        match NUMBERS.checked_div(cols).unwrap_or(1) {
            0 => Err(DeviceError::Shape { operation: "load", detail: format!("rows of {cols} numbers, of {NUMBERS} at most") }),
            rows => Ok(rows),
        }
    }

    /// Copies `rows` rows of `cols` numbers, each filled by `fill`, to `to`, which has room for them.
    pub(super) fn send(
        &mut self,
        to: u64,
        (rows, cols): (usize, usize),
        fill: impl Fn(usize, &mut [bf16]),
    ) -> Result<(), DeviceError> {
        if cols == 0 {
            return Ok(());
        }
        let each = Self::rows_at_once(cols)?;
        for begin in (0..rows).step_by(each) {
            let count = each.min(rows - begin);
            let buffer = &mut self.buffers[self.turn];
            self.turn = 1 - self.turn;
            for (row, numbers) in buffer.numbers(count * cols)?.chunks_exact_mut(cols).enumerate() {
                fill(begin + row, numbers);
            }
            buffer.send::<bf16>(to + (begin * cols * size_of::<bf16>()) as u64, count * cols)?;
        }
        Ok(())
    }
}
