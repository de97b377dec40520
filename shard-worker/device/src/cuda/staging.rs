//! Pinned buffers through which weights go to the device: one is filled while the other is copied.
#![allow(unsafe_code)]

use std::{ptr::NonNull, sync::Arc};

use cudarc::driver::{result, sys};
use half::bf16;

use super::{context::Context, failure::driver};
use crate::DeviceError;

/// Numbers in a buffer.
const NUMBERS: usize = 8 << 20;

/// Two buffers that take turns.
pub(super) struct Staging {
    context: Arc<Context>,
    buffers: [Pinned; 2],
    turn: usize,
}

/// Page-locked memory of the host, and when its last copy is done.
struct Pinned {
    numbers: NonNull<bf16>,
    done: sys::CUevent,
}

// SAFETY: the buffer is this value's alone, and events may be used from any thread on which the context is current.
unsafe impl Send for Pinned {}

impl Pinned {
    fn new() -> Result<Self, DeviceError> {
        let bytes = NUMBERS * size_of::<bf16>();
        // SAFETY: freed once, by `Drop`.
        let memory = unsafe { result::malloc_host(bytes, 0) }.map_err(driver("reserving pinned memory"))?;
        let numbers = NonNull::new(memory.cast()).ok_or_else(|| DeviceError::OutOfMemory {
            what: "staging weights".into(),
            bytes,
            device: "the host".into(),
        })?;
        let flags = sys::CUevent_flags::CU_EVENT_DISABLE_TIMING;
        match result::event::create(flags) {
            Ok(done) => Ok(Self { numbers, done }),
            Err(error) => {
                // SAFETY: allocated above, and not kept.
                let _ = unsafe { result::free_host(memory) };
                Err(driver("making an event")(error))
            }
        }
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        // SAFETY: both were made by `new`; a copy that still reads the memory is waited for.
        unsafe {
            let _ = result::event::synchronize(self.done);
            let _ = result::event::destroy(self.done);
            let _ = result::free_host(self.numbers.as_ptr().cast());
        }
    }
}

impl Staging {
    pub(super) fn new(context: &Arc<Context>) -> Result<Self, DeviceError> {
        context.bind()?;
        Ok(Self { context: context.clone(), buffers: [Pinned::new()?, Pinned::new()?], turn: 0 })
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
            let buffer = &self.buffers[self.turn];
            self.turn = 1 - self.turn;
            // SAFETY: the event is the buffer's; nothing reads the buffer any more once it is done.
            unsafe { result::event::synchronize(buffer.done) }.map_err(driver("waiting for a copy"))?;
            // SAFETY: the buffer has `NUMBERS` numbers, of which `count * cols` are used, and nobody else has it.
            let numbers = unsafe { std::slice::from_raw_parts_mut(buffer.numbers.as_ptr(), count * cols) };
            for (row, numbers) in numbers.chunks_exact_mut(cols).enumerate() {
                fill(begin + row, numbers);
            }
            self.context.upload(to + (begin * cols * size_of::<bf16>()) as u64, numbers)?;
            // SAFETY: event and stream live.
            unsafe { result::event::record(buffer.done, self.context.stream()) }.map_err(driver("noting a copy"))?;
        }
        Ok(())
    }
}
