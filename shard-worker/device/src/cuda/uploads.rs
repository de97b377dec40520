//! Numbers of the host on their way to the device while it is at work.
//!
//! They go through pinned memory: from any other the driver may wait for the stream before it copies, and holds locks
//! meanwhile that ranks of one process need for the very work that is waited for.

use std::sync::{Arc, Mutex, PoisonError};

use bytemuck::Pod;

use super::{CudaDevice, context::Context, pinned::Pinned};
use crate::DeviceError;

/// Buffers that take turns, 32 MiB in all: what two steps under way fill, each with a large image's pixels.
const BUFFERS: usize = 64;
/// Bytes of a buffer.
const BYTES: usize = 512 << 10;

pub(super) struct Uploads(Mutex<Ring>);

struct Ring {
    buffers: Vec<Pinned>,
    next: usize,
}

impl Uploads {
    pub(super) fn new(context: &Arc<Context>) -> Result<Self, DeviceError> {
        let buffers = (0..BUFFERS).map(|_| Pinned::new(context, BYTES, "numbers for the GPU")).collect::<Result<_, _>>()?;
        Ok(Self(Mutex::new(Ring { buffers, next: 0 })))
    }

    fn send<T: Pod>(&self, to: u64, values: &[T]) -> Result<(), DeviceError> {
        let mut ring = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut to = to;
        for part in values.chunks(BYTES / size_of::<T>()) {
            let turn = ring.next;
            ring.next = (turn + 1) % BUFFERS;
            let buffer = &mut ring.buffers[turn];
            buffer.numbers::<T>(part.len())?.copy_from_slice(part);
            buffer.send::<T>(to, part.len())?;
            to += size_of_val(part) as u64;
        }
        Ok(())
    }
}

impl CudaDevice {
    /// Copies numbers to the device. They may be changed as soon as this returns.
    pub(super) fn upload<T: Pod>(&self, to: u64, values: &[T]) -> Result<(), DeviceError> {
        if self.recordings.is_active() {
            // A replay would copy what the host's memory holds by then.
            let detail = "numbers of the host while a pass is recorded".into();
            return Err(DeviceError::Shape { operation: "upload", detail });
        }
        self.uploads.send(to, values)
    }
}
