//! A child's device: its memory and its stream.

use std::sync::Arc;

use cudarc::driver::{CudaContext, CudaEvent, CudaSlice, CudaStream, DevicePtr};
use half::bf16;
use tessera_collective::{Collective, CollectiveError};
use tessera_types::{DeviceDtype, DeviceSlice};

use crate::child;

pub(crate) struct Gpu {
    pub(crate) stream: Arc<CudaStream>,
}

/// Memory of the device.
pub(crate) struct Buffer {
    memory: CudaSlice<u8>,
    pub(crate) slice: DeviceSlice,
}

impl Gpu {
    /// Makes the context of the rank's device the thread's.
    pub(crate) fn new() -> Self {
        let device = child::rank() % CudaContext::device_count().unwrap() as usize;
        Self { stream: CudaContext::new(device).unwrap().new_stream().unwrap() }
    }

    /// A buffer with these bits, as wide as numbers of a kind.
    pub(crate) fn bytes(&self, bytes: &[u8], dtype: DeviceDtype) -> Buffer {
        let memory = self.stream.clone_htod(bytes).unwrap();
        let (address, _in_order) = memory.device_ptr(&self.stream);
        let stream = self.stream.cu_stream() as u64;
        let slice = DeviceSlice { address, numbers: bytes.len() / dtype.bytes(), dtype, stream };
        drop(_in_order);
        Buffer { memory, slice }
    }

    pub(crate) fn numbers(&self, numbers: &[f32], dtype: DeviceDtype) -> Buffer {
        let wide = |number: &f32| number.to_le_bytes().to_vec();
        let narrow = |number: &f32| bf16::from_f32(*number).to_le_bytes().to_vec();
        let bytes: Vec<u8> = match dtype {
            DeviceDtype::F32 => numbers.iter().flat_map(wide).collect(),
            DeviceDtype::Bf16 => numbers.iter().flat_map(narrow).collect(),
        };
        self.bytes(&bytes, dtype)
    }

    /// What the buffer holds once the stream is through.
    pub(crate) fn read(&self, buffer: &Buffer) -> Vec<u8> {
        self.stream.clone_dtoh(&buffer.memory).unwrap()
    }

    pub(crate) fn read_numbers(&self, buffer: &Buffer) -> Vec<f32> {
        let bytes = self.read(buffer);
        let wide = |bytes: &[u8]| f32::from_le_bytes(bytes.try_into().unwrap());
        let narrow = |bytes: &[u8]| bf16::from_le_bytes(bytes.try_into().unwrap()).to_f32();
        match buffer.slice.dtype {
            DeviceDtype::F32 => bytes.chunks_exact(4).map(wide).collect(),
            DeviceDtype::Bf16 => bytes.chunks_exact(2).map(narrow).collect(),
        }
    }

    /// Waits for all that was enqueued, as the collective watches.
    pub(crate) fn watch(&self, collective: &mut dyn Collective) -> Result<(), CollectiveError> {
        let event: CudaEvent = self.stream.record_event(None).unwrap();
        collective.watch(&mut || event.try_is_complete().map_err(|error| error.to_string()))
    }
}
