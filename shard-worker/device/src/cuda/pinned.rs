//! Page-locked memory of the host, which the device reads and writes beside the host's own work.
#![allow(unsafe_code)]

use std::{
    ptr::NonNull,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use bytemuck::Pod;
use cudarc::driver::{DriverError, result, sys};

use super::{context::Context, failure::driver};
use crate::DeviceError;

/// How long a copy may take, with all that was given to the device before it.
const LONGEST: Duration = Duration::from_secs(30);
/// Between two looks.
const NAP: Duration = Duration::from_micros(20);

/// Page-locked memory, and when its last copy is done.
pub(super) struct Pinned {
    context: Arc<Context>,
    memory: NonNull<u8>,
    bytes: usize,
    done: sys::CUevent,
}

// SAFETY: the memory is this value's alone, and events may be used from any thread on which the context is current.
unsafe impl Send for Pinned {}

impl Pinned {
    /// Memory of `bytes`, aligned to a page, for `what`.
    pub(super) fn new(context: &Arc<Context>, bytes: usize, what: &str) -> Result<Self, DeviceError> {
        context.bind()?;
        // SAFETY: freed once, by `Drop`.
        let memory = unsafe { result::malloc_host(bytes, 0) }.map_err(driver("reserving pinned memory"))?;
        let none = || DeviceError::OutOfMemory { what: what.into(), bytes, device: "the host".into() };
        let memory = NonNull::new(memory.cast()).ok_or_else(none)?;
        match result::event::create(sys::CUevent_flags::CU_EVENT_DISABLE_TIMING) {
            Ok(done) => Ok(Self { context: context.clone(), memory, bytes, done }),
            Err(error) => {
                // SAFETY: allocated above, and not kept.
                let _ = unsafe { result::free_host(memory.as_ptr().cast()) };
                Err(driver("making an event")(error))
            }
        }
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Its first `count` numbers, once no copy uses them any more; fails where that is not so in time.
    pub(super) fn numbers<T: Pod>(&mut self, count: usize) -> Result<&mut [T], DeviceError> {
        if count * size_of::<T>() > self.bytes {
            let detail = format!("{count} numbers in {} bytes", self.bytes);
            return Err(DeviceError::Shape { operation: "use pinned memory", detail });
        }
        let begin = Instant::now();
        while !self.is_done()? {
            if begin.elapsed() > LONGEST {
                let error = format!("the GPU was not done with it after {LONGEST:?}");
                return Err(DeviceError::Driver { operation: "waiting for a copy", error });
            }
            thread::sleep(NAP);
        }
        // SAFETY: no copy uses the memory; it has that many bytes, is aligned to a page, and nobody else has it.
        Ok(unsafe { std::slice::from_raw_parts_mut(self.memory.as_ptr().cast(), count) })
    }

    /// Copies its first `count` numbers to the device.
    pub(super) fn send<T: Pod>(&self, to: u64, count: usize) -> Result<(), DeviceError> {
        let bytes = (count * size_of::<T>()).min(self.bytes);
        // SAFETY: the memory lives until the event below is done.
        self.context.upload(to, unsafe { std::slice::from_raw_parts(self.memory.as_ptr(), bytes) })?;
        self.note()
    }

    /// Lets its first `bytes` get those at `from`, behind all that was given to the stream so far.
    pub(super) fn fetch(&mut self, from: u64, bytes: usize) -> Result<(), DeviceError> {
        // SAFETY: the memory is this value's alone, and lives until the event below is done.
        let numbers = unsafe { std::slice::from_raw_parts_mut(self.memory.as_ptr(), bytes.min(self.bytes)) };
        if !numbers.is_empty() {
            // SAFETY: the caller owns that much memory at `from`.
            unsafe { result::memcpy_dtoh_async(numbers, from, self.context.stream()) }.map_err(driver("copying from the GPU"))?;
        }
        self.note()
    }

    /// Whether the last copy is done.
    pub(super) fn is_done(&self) -> Result<bool, DeviceError> {
        // SAFETY: the event is this value's.
        match unsafe { result::event::query(self.done) } {
            Ok(()) => Ok(true),
            Err(DriverError(sys::CUresult::CUDA_ERROR_NOT_READY)) => Ok(false),
            Err(error) => Err(driver("asking whether a copy is done")(error)),
        }
    }

    fn note(&self) -> Result<(), DeviceError> {
        // SAFETY: event and stream live.
        unsafe { result::event::record(self.done, self.context.stream()) }.map_err(driver("noting a copy"))
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        if self.context.bind().is_err() {
            return;
        }
        // SAFETY: both were made by `new`; a copy that still uses the memory is waited for.
        unsafe {
            let _ = result::event::synchronize(self.done);
            let _ = result::event::destroy(self.done);
            let _ = result::free_host(self.memory.as_ptr().cast());
        }
    }
}
