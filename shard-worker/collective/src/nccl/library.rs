//! NCCL itself, opened when it is first needed.
//!
//! Types and values are cudarc's; the functions are looked up here, because cudarc panics where the library is missing,
//! does not know the name that it is installed by without its headers (`libnccl.so.2`), and takes every result for one
//! of those that its version of NCCL has.

#![expect(unsafe_code, reason = "calls of a C library")]

use std::{
    env,
    ffi::{CStr, c_char, c_int, c_void},
    mem, ptr,
    sync::OnceLock,
};

use cudarc::nccl::sys::{cudaStream_t, ncclComm_t, ncclConfig_t, ncclDataType_t, ncclRedOp_t, ncclResult_t, ncclUniqueId};
use tessera_types::DeviceDtype;

use super::{NCCL_ID_BYTES, NcclId};
use crate::CollectiveError;

/// As installed to run programs, and as installed to build them.
const NAMES: [&str; 2] = ["libnccl.so.2", "libnccl.so"];
/// From here on non-blocking communicators can be aborted at any time.
const OLDEST: Version = Version(21_800);

pub(super) const SUCCESS: c_int = ncclResult_t::ncclSuccess as c_int;
pub(super) const IN_PROGRESS: c_int = ncclResult_t::ncclInProgress as c_int;
const REMOTE_ERROR: c_int = ncclResult_t::ncclRemoteError as c_int;

/// A result, also one that is not known here.
pub(super) type Code = c_int;
type InitFn = unsafe extern "C" fn(*mut ncclComm_t, c_int, ncclUniqueId, c_int, *mut ncclConfig_t) -> Code;
type ReduceFn = unsafe extern "C" fn(*const c_void, *mut c_void, usize, c_int, c_int, ncclComm_t, cudaStream_t) -> Code;
type GatherFn = unsafe extern "C" fn(*const c_void, *mut c_void, usize, c_int, ncclComm_t, cudaStream_t) -> Code;

/// The functions of NCCL that are used here.
pub(super) struct Library {
    pub(super) get_unique_id: unsafe extern "C" fn(*mut ncclUniqueId) -> Code,
    pub(super) init: InitFn,
    pub(super) async_error: unsafe extern "C" fn(ncclComm_t, *mut Code) -> Code,
    pub(super) abort: unsafe extern "C" fn(ncclComm_t) -> Code,
    pub(super) all_reduce: ReduceFn,
    pub(super) all_gather: GatherFn,
    /// Its root stands where the reduction has its operation.
    pub(super) broadcast: ReduceFn,
    pub(super) error_string: unsafe extern "C" fn(Code) -> *const c_char,
    pub(super) last_error: unsafe extern "C" fn(ncclComm_t) -> *const c_char,
}

/// The library of this process.
///
/// # Errors
/// `Missing`, with the same sentence each time: what was not there at first is not looked for again.
pub(super) fn library() -> Result<&'static Library, CollectiveError> {
    static LIBRARY: OnceLock<Result<Library, String>> = OnceLock::new();
    LIBRARY.get_or_init(Library::open).as_ref().map_err(|sentence| CollectiveError::Missing(sentence.clone()))
}

impl Library {
    fn open() -> Result<Self, String> {
        let (opened, name) = open_any()?;
        let version: unsafe extern "C" fn(*mut c_int) -> Code = function(&opened, name, "ncclGetVersion")?;
        let mut found = Version(0);
        // SAFETY: the function of this name takes a place for one number in every version of NCCL.
        let code = unsafe { version(&mut found.0) };
        if code != SUCCESS || found < OLDEST {
            return Err(format!("NCCL {OLDEST} or newer is needed to join GPUs, and {name} is version {found}"));
        }
        let functions = Self {
            get_unique_id: function(&opened, name, "ncclGetUniqueId")?,
            init: function(&opened, name, "ncclCommInitRankConfig")?,
            async_error: function(&opened, name, "ncclCommGetAsyncError")?,
            abort: function(&opened, name, "ncclCommAbort")?,
            all_reduce: function(&opened, name, "ncclAllReduce")?,
            all_gather: function(&opened, name, "ncclAllGather")?,
            broadcast: function(&opened, name, "ncclBroadcast")?,
            error_string: function(&opened, name, "ncclGetErrorString")?,
            last_error: function(&opened, name, "ncclGetLastError")?,
        };
        // Never closed, so the functions are good for ever.
        mem::forget(opened);
        Ok(functions)
    }

    pub(super) fn new_id(&self) -> Result<NcclId, CollectiveError> {
        let mut id = ncclUniqueId { internal: [0; NCCL_ID_BYTES] };
        // SAFETY: there is room for one id.
        let code = unsafe { (self.get_unique_id)(&mut id) };
        if code == SUCCESS { Ok(id.internal.map(|byte| byte as u8)) } else { Err(self.failure("a new id", code)) }
    }

    /// Begins to join; `made` gets the communicator, also while that goes on.
    pub(super) fn init(&self, made: &mut ncclComm_t, id: &NcclId, rank: usize, size: usize) -> c_int {
        let id = ncclUniqueId { internal: id.map(|byte| byte as c_char) };
        let mut config = non_blocking();
        // SAFETY: the configuration is of the size that it says it has; NCCL copies it and the id.
        unsafe { (self.init)(made, size as c_int, id, rank as c_int, &mut config) }
    }

    /// What the call itself came to, and what the communicator is at.
    ///
    /// # Safety
    /// The communicator is alive.
    pub(super) unsafe fn async_error(&self, communicator: ncclComm_t) -> (c_int, c_int) {
        let mut state = SUCCESS;
        // SAFETY: the communicator is alive, as the caller has promised; there is room for one result.
        let code = unsafe { (self.async_error)(communicator, &mut state) };
        (code, state)
    }

    /// Ends kernels and calls in progress, and frees the communicator.
    ///
    /// # Safety
    /// The communicator is alive, and nobody uses it from now on.
    pub(super) unsafe fn abort(&self, communicator: ncclComm_t) {
        // SAFETY: as the caller has promised. Whatever it says, the communicator is gone.
        unsafe { (self.abort)(communicator) };
    }

    /// # Safety
    /// The communicator is alive; the memory is there until the stream has got through this.
    pub(super) unsafe fn sum(&self, at: *mut c_void, count: usize, kind: c_int, of: ncclComm_t, stream: cudaStream_t) -> c_int {
        // SAFETY: as the caller has promised.
        unsafe { (self.all_reduce)(at, at, count, kind, ncclRedOp_t::ncclSum as c_int, of, stream) }
    }

    /// # Safety
    /// As for `sum`; `to` has room for every rank's `count` numbers.
    pub(super) unsafe fn gather(
        &self,
        from: *const c_void,
        to: *mut c_void,
        count: usize,
        kind: c_int,
        of: ncclComm_t,
        stream: cudaStream_t,
    ) -> c_int {
        // SAFETY: as the caller has promised.
        unsafe { (self.all_gather)(from, to, count, kind, of, stream) }
    }

    /// # Safety
    /// As for `sum`.
    pub(super) unsafe fn broadcast(
        &self,
        at: *mut c_void,
        count: usize,
        kind: c_int,
        root: c_int,
        of: ncclComm_t,
        stream: cudaStream_t,
    ) -> c_int {
        // SAFETY: as the caller has promised.
        unsafe { (self.broadcast)(at, at, count, kind, root, of, stream) }
    }

    /// What a result means that is neither success nor progress.
    pub(super) fn failure(&self, operation: &'static str, code: c_int) -> CollectiveError {
        // SAFETY: NCCL has a text for every number, and its last error takes no communicator; both texts stay.
        let (meaning, last) = unsafe { (text((self.error_string)(code)), text((self.last_error)(ptr::null_mut()))) };
        let last = if last.is_empty() { last } else { format!(": {last}") };
        let problem = format!("{meaning} (NCCL's result {code}){last}");
        if code == REMOTE_ERROR {
            CollectiveError::SomeoneLost(format!("{operation}: {problem}"))
        } else {
            CollectiveError::Library { operation, problem }
        }
    }
}

/// The first of the names that can be opened, and its name.
fn open_any() -> Result<(libloading::Library, &'static str), String> {
    let mut problems = Vec::new();
    for name in NAMES {
        // SAFETY: NCCL's initialisers touch nothing of this process.
        match unsafe { libloading::Library::new(name) } {
            Ok(opened) => return Ok((opened, name)),
            Err(error) => problems.push(error.to_string()),
        }
    }
    let path = env::var("LD_LIBRARY_PATH").unwrap_or_default();
    let path = if path.is_empty() { "is empty".to_owned() } else { format!("is {path}") };
    let (name, problems) = (NAMES[0], problems.join("; "));
    Err(format!(
        "NCCL is needed to join GPUs, and {name} cannot be opened; it was sought on LD_LIBRARY_PATH, which {path}, and where \
         the system keeps its libraries ({problems})"
    ))
}

fn function<F: Copy>(library: &libloading::Library, file: &str, name: &str) -> Result<F, String> {
    // SAFETY: the types above are those of NCCL's header, which has kept them since the oldest version taken.
    let symbol = unsafe { library.get::<F>(name.as_bytes()) };
    symbol.map(|symbol| *symbol).map_err(|error| format!("{file} is no NCCL that can join GPUs: {error}"))
}

/// # Safety
/// `text` is null or ends with a zero.
unsafe fn text(text: *const c_char) -> String {
    if text.is_null() {
        return String::new();
    }
    // SAFETY: as the caller has promised.
    unsafe { CStr::from_ptr(text) }.to_string_lossy().trim().to_owned()
}

pub(super) fn data_type(dtype: DeviceDtype) -> c_int {
    match dtype {
        DeviceDtype::F32 => ncclDataType_t::ncclFloat32 as c_int,
        DeviceDtype::Bf16 => ncclDataType_t::ncclBfloat16 as c_int,
    }
}

/// As NCCL_CONFIG_INITIALIZER has it, but for blocking.
fn non_blocking() -> ncclConfig_t {
    const UNDEFINED: c_int = c_int::MIN;
    ncclConfig_t {
        size: size_of::<ncclConfig_t>(),
        magic: 0xcafe_beef,
        // Of the header that these fields are from.
        version: 22_800,
        blocking: 0,
        cgaClusterSize: UNDEFINED,
        minCTAs: UNDEFINED,
        maxCTAs: UNDEFINED,
        netName: ptr::null(),
        splitShare: UNDEFINED,
        trafficClass: UNDEFINED,
        commName: ptr::null(),
        collnetEnable: UNDEFINED,
        CTAPolicy: UNDEFINED,
        shrinkShare: UNDEFINED,
        nvlsCTAs: UNDEFINED,
        nChannelsPerNetPeer: UNDEFINED,
        nvlinkCentricSched: UNDEFINED,
    }
}

/// As NCCL numbers its versions: 21805 for 2.18.5, and 2708 for 2.7.8.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Version(c_int);

impl std::fmt::Display for Version {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let major = if self.0 < 10_000 { 1000 } else { 10_000 };
        write!(f, "{}.{}.{}", self.0 / major, self.0 % major / 100, self.0 % 100)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_as_nccl_numbers_them() {
        for (number, text) in [(22_809, "2.28.9"), (21_805, "2.18.5"), (2708, "2.7.8")] {
            assert_eq!(Version(number).to_string(), text);
        }
        assert!(Version(2708) < OLDEST && Version(21_708) < OLDEST && Version(21_801) > OLDEST);
    }
}
