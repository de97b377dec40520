//! Pinned buffers through which weights go to the device: one is filled while the other is copied.

use std::sync::Arc;

use half::bf16;

use super::{
    context::{Context, Memory},
    pinned::Pinned,
};
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

    /// Copies `rows` rows of `cols` numbers, each filled by `fill`, to `to` from its number `first` on.
    pub(super) fn send(
        &mut self,
        to: &Memory,
        first: usize,
        (rows, cols): (usize, usize),
        fill: impl Fn(usize, &mut [bf16]),
    ) -> Result<(), DeviceError> {
        if cols == 0 || cols > NUMBERS || (first + rows * cols) * size_of::<bf16>() > to.bytes() {
            let detail = format!("{rows} rows of {cols} numbers from {first} in {} bytes", to.bytes());
            return if rows * cols == 0 { Ok(()) } else { Err(DeviceError::Shape { operation: "load", detail }) };
        }
        let each = NUMBERS / cols;
        for begin in (0..rows).step_by(each) {
            let count = each.min(rows - begin);
            let buffer = &mut self.buffers[self.turn];
            self.turn = 1 - self.turn;
            for (row, numbers) in buffer.numbers(count * cols)?.chunks_exact_mut(cols).enumerate() {
                fill(begin + row, numbers);
            }
            let address = to.address() + ((first + begin * cols) * size_of::<bf16>()) as u64;
            buffer.send::<bf16>(address, count * cols)?;
        }
        Ok(())
    }
}
