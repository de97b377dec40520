//! Windows: memory of one GPU that others read, of this process or another, and a word of the host's that their kernels read.
#![allow(unsafe_code)]

use std::{
    collections::hash_map::RandomState,
    ffi::c_void,
    fs,
    hash::{BuildHasher, Hash, Hasher},
    mem,
    ptr::NonNull,
    sync::{
        Arc, LazyLock,
        atomic::{AtomicU64, Ordering},
    },
};

use cudarc::driver::{DriverError, result, sys};

use super::{
    context::{Context, Memory},
    failure::driver,
};
use crate::{DeviceError, PeerOffer};

/// Bytes of a handle.
const HANDLE: usize = mem::size_of::<sys::CUipcMemHandle>();

/// Tells processes of all hosts apart.
static PROCESS: LazyLock<u64> = LazyLock::new(random);
/// Tells hosts apart: handles mean nothing on another.
static HOST: LazyLock<u64> = LazyLock::new(|| {
    let mut hasher = std::hash::DefaultHasher::new();
    fs::read("/proc/sys/kernel/random/boot_id").unwrap_or_default().hash(&mut hasher);
    hasher.finish()
});

fn random() -> u64 {
    RandomState::new().build_hasher().finish() | 1
}

/// What a [`PeerOffer`] says.
#[derive(Clone, Copy)]
pub(super) struct Offered {
    /// Made up for one group.
    pub(super) mark: u64,
    host: u64,
    process: u64,
    /// As the process itself reaches it.
    context: u64,
    address: u64,
    /// Bytes from the allocation's beginning, which the handle names.
    place: u64,
    handle: [u8; HANDLE],
}

impl Offered {
    /// Memory from `place` on in an allocation.
    pub(super) fn new(memory: &Memory, place: u64, context: &Context) -> Result<Self, DeviceError> {
        context.bind()?;
        let mut handle = sys::CUipcMemHandle { reserved: [0; HANDLE] };
        // SAFETY: the address is that of an allocation, which outlives every mapping of the handle that is used.
        unsafe { sys::cuIpcGetMemHandle(&mut handle, memory.address()) }
            .result()
            .map_err(driver("asking for a handle of memory"))?;
        Ok(Self {
            mark: random(),
            host: *HOST,
            process: *PROCESS,
            context: context.handle(),
            address: memory.address() + place,
            place,
            handle: handle.reserved.map(|byte| byte as u8),
        })
    }

    pub(super) fn offer(&self) -> PeerOffer {
        let words = [self.mark, self.host, self.process, self.context, self.address, self.place];
        let words = words.into_iter().flat_map(u64::to_le_bytes).chain(self.handle);
        let bytes: Vec<u8> = words.collect();
        let words: Vec<u32> = bytes.as_chunks::<4>().0.iter().map(|word| u32::from_le_bytes(*word)).collect();
        PeerOffer::from_words(&words)
    }

    pub(super) fn of(offer: &PeerOffer) -> Self {
        let bytes: Vec<u8> = offer.0.iter().flat_map(|word| word.to_le_bytes()).collect();
        let word = |at: usize| u64::from_le_bytes(std::array::from_fn(|byte| bytes[8 * at + byte]));
        let handle = std::array::from_fn(|byte| bytes[48 + byte]);
        let [mark, host, process, context, address, place] = std::array::from_fn(word);
        Self { mark, host, process, context, address, place, handle }
    }
}

/// Another rank's memory, as this device reaches it.
pub(super) struct Reached {
    context: Arc<Context>,
    pub(super) address: u64,
    /// Where its allocation was mapped, if it is another process's.
    mapped: Option<u64>,
}

impl Reached {
    pub(super) fn reach(context: &Arc<Context>, offered: &Offered) -> Result<Self, DeviceError> {
        context.bind()?;
        if offered.host != *HOST {
            return Err(DeviceError::Peers("its GPU is on another host".into()));
        }
        let context = context.clone();
        if offered.process == *PROCESS {
            allow(&context, offered.context)?;
            return Ok(Self { context, address: offered.address, mapped: None });
        }
        let mapped = open(offered)?;
        Ok(Self { context, address: mapped + offered.place, mapped: Some(mapped) })
    }
}

/// Lets a device reach memory of another of this process.
fn allow(context: &Context, other: u64) -> Result<(), DeviceError> {
    if other == context.handle() {
        return Ok(());
    }
    // SAFETY: a handle of this process, which the driver checks.
    match unsafe { sys::cuCtxEnablePeerAccess(other as sys::CUcontext, 0) } {
        sys::CUresult::CUDA_ERROR_PEER_ACCESS_ALREADY_ENABLED => Ok(()),
        answer => answer.result().map_err(driver("reaching another GPU of this process")),
    }
}

/// Maps memory of another process.
fn open(offered: &Offered) -> Result<u64, DeviceError> {
    let handle = sys::CUipcMemHandle { reserved: offered.handle.map(|byte| byte as _) };
    let flags = sys::CUipcMem_flags_enum::CU_IPC_MEM_LAZY_ENABLE_PEER_ACCESS as u32;
    let mut address = 0;
    // SAFETY: a handle that another process asked for; the driver checks it.
    unsafe { sys::cuIpcOpenMemHandle_v2(&mut address, handle, flags) }
        .result()
        .map_err(driver("mapping the memory of another process's GPU"))?;
    Ok(address)
}

impl Drop for Reached {
    fn drop(&mut self) {
        if let Some(mapped) = self.mapped
            && self.context.bind().is_ok()
        {
            // SAFETY: mapped once, and no kernel uses it any more.
            let _ = unsafe { sys::cuIpcCloseMemHandle(mapped) };
        }
    }
}

/// A word of the host's memory that kernels read and write while they run.
pub(super) struct Word {
    context: Arc<Context>,
    at: NonNull<AtomicU64>,
}

// SAFETY: all who share the word use it as an atomic, and it is freed once.
unsafe impl Send for Word {}
// SAFETY: as above.
unsafe impl Sync for Word {}

impl Word {
    /// Zero.
    pub(super) fn new(context: &Arc<Context>) -> Result<Self, DeviceError> {
        context.bind()?;
        // SAFETY: freed once, by `Drop`.
        let memory = unsafe { result::malloc_host(mem::size_of::<AtomicU64>(), 0) }.map_err(driver("reserving pinned memory"))?;
        let none = || DeviceError::Driver { operation: "reserving pinned memory", error: "there is none".into() };
        let at = NonNull::new(memory.cast::<AtomicU64>()).ok_or_else(none)?;
        // SAFETY: the memory is as large as a word, aligned to a page, and nobody else's yet.
        unsafe { at.write(AtomicU64::new(0)) };
        Ok(Self { context: context.clone(), at })
    }

    /// As kernels reach it: pinned memory has one address for all ("CUDA Driver API", unified addressing).
    pub(super) fn address(&self) -> u64 {
        self.at.as_ptr() as u64
    }

    pub(super) fn get(&self) -> u64 {
        // SAFETY: it lives as long as this.
        unsafe { self.at.as_ref() }.load(Ordering::Acquire)
    }

    pub(super) fn set(&self, value: u64) {
        // SAFETY: as above.
        unsafe { self.at.as_ref() }.store(value, Ordering::Release);
    }
}

impl Drop for Word {
    fn drop(&mut self) {
        if self.context.bind().is_ok() {
            // SAFETY: made by `new`, and no kernel uses it any more.
            let _: Result<(), DriverError> = unsafe { result::free_host(self.at.as_ptr().cast::<c_void>()) };
        }
    }
}
