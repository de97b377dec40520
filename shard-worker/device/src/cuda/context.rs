//! The device's context, the one stream that orders all its work, and memory on it.
#![allow(unsafe_code)]

use std::sync::Arc;

use cudarc::driver::{DriverError, result, sys};

use super::failure::{driver, missing};
use crate::DeviceError;

/// A GPU of this machine, before it is opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CudaGpu {
    /// Which of those that the process sees, from 0.
    pub ordinal: usize,
    /// As its driver calls it.
    pub name: String,
    /// Bytes of memory.
    pub memory: u64,
}

impl CudaGpu {
    /// Looks for a GPU without taking any of it.
    ///
    /// # Errors
    /// `Library` where there is no driver, `NoDevice` where there are fewer GPUs, `Driver` with what the driver said.
    pub fn find(ordinal: usize) -> Result<Self, DeviceError> {
        let device = find(ordinal)?;
        let name = result::device::get_name(device).map_err(driver("asking a GPU's name"))?;
        // SAFETY: the device was just found.
        let memory = unsafe { result::device::total_mem(device) }.map_err(driver("asking a GPU's memory"))?;
        Ok(Self { ordinal, name, memory: memory as u64 })
    }

    /// Bytes that passes compute with, unless a [`super::CudaConfig`] says otherwise; recorded ones have others.
    pub fn workspace(&self) -> u64 {
        let all = self.memory / super::WORKSPACE_PART as u64;
        all - all / super::RECORDED_PART as u64
    }

    /// Bytes left for keys and values beside weights of so many bytes, the workspace, and what CUDA and NCCL take.
    pub fn cache_memory(&self, weights: u64) -> u64 {
        (self.memory / 10 * 9).saturating_sub(weights + self.memory / super::WORKSPACE_PART as u64)
    }
}

fn find(ordinal: usize) -> Result<sys::CUdevice, DeviceError> {
    // SAFETY: asks the loader alone. Any other call panics where the library is missing.
    if !unsafe { sys::is_culib_present() } {
        return Err(missing("libcuda.so.1", "it comes with NVIDIA's driver"));
    }
    result::init().map_err(driver("starting CUDA"))?;
    let count = result::device::get_count().map_err(driver("counting GPUs"))?;
    let there = usize::try_from(count).unwrap_or(0);
    let found = i32::try_from(ordinal).ok().filter(|ordinal| *ordinal < count);
    result::device::get(found.ok_or(DeviceError::NoDevice { asked: ordinal, there })?).map_err(driver("opening a GPU"))
}

/// A GPU's primary context with one stream. Whatever is done goes through the stream, in order.
pub(super) struct Context {
    device: sys::CUdevice,
    context: sys::CUcontext,
    stream: sys::CUstream,
    name: String,
    /// Compute capability, as 9.0.
    capability: (u32, u32),
    processors: usize,
    shared_of_block: usize,
}

// SAFETY: handles of the driver may be used from any thread on which the context is current, which `bind` sees to.
unsafe impl Send for Context {}
// SAFETY: the driver's calls lock for themselves.
unsafe impl Sync for Context {}

impl Context {
    /// Opens the GPU `ordinal` and makes it current on this thread.
    pub(super) fn open(ordinal: usize) -> Result<Arc<Self>, DeviceError> {
        let device = find(ordinal)?;
        let name = result::device::get_name(device).map_err(driver("asking a GPU's name"))?;
        let attribute = |attribute| {
            // SAFETY: the device was just opened.
            let value =
                unsafe { result::device::get_attribute(device, attribute) }.map_err(driver("asking what a GPU can do"))?;
            Ok::<_, DeviceError>(u32::try_from(value).unwrap_or(0))
        };
        let capability = (
            attribute(sys::CUdevice_attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?,
            attribute(sys::CUdevice_attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?,
        );
        let processors = attribute(sys::CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)? as usize;
        let shared_of_block = attribute(sys::CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN)? as usize;
        // SAFETY: the device was just opened; the context is released when this is dropped.
        let context = unsafe { result::primary_ctx::retain(device) }.map_err(driver("making a context"))?;
        // SAFETY: the context was just made.
        unsafe { result::ctx::set_current(context) }.map_err(driver("making a context current"))?;
        let stream = result::stream::create(result::stream::StreamKind::NonBlocking).map_err(driver("making a stream"))?;
        Ok(Arc::new(Self { device, context, stream, name, capability, processors, shared_of_block }))
    }

    /// Makes the context current on the calling thread.
    pub(super) fn bind(&self) -> Result<(), DeviceError> {
        // SAFETY: the context lives as long as this.
        unsafe { result::ctx::set_current(self.context) }.map_err(driver("making a context current"))
    }

    /// The driver's handle.
    pub(super) fn handle(&self) -> u64 {
        self.context as u64
    }

    pub(super) fn stream(&self) -> sys::CUstream {
        self.stream
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn capability(&self) -> (u32, u32) {
        self.capability
    }

    /// Streaming multiprocessors: how many blocks run at once at least.
    pub(super) fn processors(&self) -> usize {
        self.processors.max(1)
    }

    /// Bytes of shared memory that a block may ask for.
    pub(super) fn shared_of_block(&self) -> usize {
        self.shared_of_block
    }

    /// Bytes free and bytes in all.
    pub(super) fn memory(&self) -> Result<(usize, usize), DeviceError> {
        self.bind()?;
        result::mem_get_info().map_err(driver("asking for free memory"))
    }

    /// Waits for all that was given to the stream.
    pub(super) fn settle(&self) -> Result<(), DeviceError> {
        // SAFETY: the stream lives as long as this.
        unsafe { result::stream::synchronize(self.stream) }.map_err(driver("waiting for the GPU"))
    }

    /// Whether all that was given to the stream is done.
    pub(super) fn is_idle(&self) -> Result<bool, DeviceError> {
        // SAFETY: the stream lives as long as this.
        match unsafe { sys::cuStreamQuery(self.stream) } {
            sys::CUresult::CUDA_ERROR_NOT_READY => Ok(false),
            state => state.result().map(|()| true).map_err(driver("asking whether the GPU is done")),
        }
    }

    /// Copies numbers to the device. Those in memory that is not pinned may be changed as soon as this returns.
    pub(super) fn upload<T: bytemuck::Pod>(&self, to: u64, values: &[T]) -> Result<(), DeviceError> {
        if values.is_empty() {
            return Ok(());
        }
        // SAFETY: the caller owns that much memory at `to`; the driver stages memory that is not pinned before it returns, and
        // whoever owns pinned memory keeps it until its copy is done.
        unsafe { result::memcpy_htod_async(to, values, self.stream) }.map_err(driver("copying to the GPU"))
    }

    /// Copies numbers from the device, behind all work given so far.
    pub(super) fn download<T: bytemuck::Pod>(&self, from: u64, values: &mut [T]) -> Result<(), DeviceError> {
        if values.is_empty() {
            return Ok(());
        }
        // SAFETY: the caller owns that much memory at `from`; `values` lives until the stream has settled below.
        unsafe { result::memcpy_dtoh_async(values, from, self.stream) }.map_err(driver("copying from the GPU"))?;
        self.settle()
    }

    /// Fills memory with zeros.
    pub(super) fn clear(&self, address: u64, bytes: usize) -> Result<(), DeviceError> {
        if bytes == 0 {
            return Ok(());
        }
        // SAFETY: the caller owns that much memory at `address`.
        unsafe { result::memset_d8_async(address, 0, bytes, self.stream) }.map_err(driver("clearing memory"))
    }

    /// Reserves memory of the device for `what`.
    pub(super) fn allocate(self: &Arc<Self>, bytes: usize, what: &str) -> Result<Memory, DeviceError> {
        self.bind()?;
        // SAFETY: the context is current; what is allocated is freed once, by `Memory`.
        match unsafe { result::malloc_sync(bytes.max(1)) } {
            Ok(address) => Ok(Memory { context: self.clone(), address, bytes }),
            Err(DriverError(sys::CUresult::CUDA_ERROR_OUT_OF_MEMORY)) => {
                Err(DeviceError::OutOfMemory { what: what.into(), bytes, device: self.name.clone() })
            }
            Err(error) => Err(driver("reserving memory")(error)),
        }
    }
}

impl Drop for Context {
    fn drop(&mut self) {
        // SAFETY: nothing else holds the stream or, by this device, the context. Failures have nobody to be told to.
        unsafe {
            let _ = result::ctx::set_current(self.context);
            let _ = result::stream::synchronize(self.stream);
            let _ = result::stream::destroy(self.stream);
            let _ = result::primary_ctx::release(self.device);
        }
    }
}

/// Memory of a device, freed when dropped.
pub(super) struct Memory {
    context: Arc<Context>,
    address: u64,
    bytes: usize,
}

impl Memory {
    /// Whether it is a context's of the same device.
    pub(super) fn is_of(&self, context: &Context) -> bool {
        self.context.handle() == context.handle()
    }

    pub(super) fn address(&self) -> u64 {
        self.address
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        if self.context.bind().is_ok() {
            // SAFETY: allocated by `Context::allocate`, freed once. The driver waits for work that still uses it.
            let _ = unsafe { result::free_sync(self.address) };
        }
    }
}
