//! Passes that are recorded once as a CUDA graph and replayed: hundreds of launches become one.
//!
//! A recording names addresses, so what it computes with is set apart for recordings: they share one workspace, since they
//! run one after the other, results included, and the rows of a pass go where those of the recorded pass went.
#![allow(unsafe_code)]

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use cudarc::driver::{result, sys};

use super::{CudaDevice, CudaTensor, context::Context, failure::driver, workspace::Region};
use crate::DeviceError;

/// The most rows that a recorded pass has; larger ones keep the device busy without.
const ROWS: usize = 64;
/// Passes whose rows are kept in their places.
const PASSES: usize = 256;

/// A pass that can be replayed.
pub struct Recording {
    context: Arc<Context>,
    graph: sys::CUgraphExec,
}

// SAFETY: a graph may be launched from any thread on which the context is current.
unsafe impl Send for Recording {}

impl Recording {
    pub(super) fn replay(&self) -> Result<(), DeviceError> {
        // SAFETY: graph and stream live; what the graph reads and writes is set apart as long as the device is there.
        unsafe { result::graph::launch(self.graph, self.context.stream()) }.map_err(driver("replaying a pass"))
    }
}

impl Drop for Recording {
    fn drop(&mut self) {
        if self.context.bind().is_ok() {
            // SAFETY: made by `record`, destroyed once; the driver keeps what still runs.
            let _ = unsafe { result::graph::exec_destroy(self.graph) };
        }
    }
}

/// What was captured, complete or not. A collective whose calls it holds ends only when it is gone.
struct Captured(sys::CUgraph);

impl Drop for Captured {
    fn drop(&mut self) {
        // SAFETY: made by a capture, destroyed once.
        let _ = unsafe { result::graph::destroy(self.0) };
    }
}

/// What recordings share.
#[derive(Default)]
pub(super) struct Recordings {
    active: AtomicBool,
    rows: Mutex<HashMap<u64, Arc<Region>>>,
}

impl Recordings {
    /// Whether work is being recorded rather than done.
    pub(super) fn is_active(&self) -> bool {
        self.active.load(Ordering::Relaxed)
    }

    /// The place of the rows of passes with `key`.
    pub(super) fn rows(&self, key: u64, make: impl FnOnce() -> Result<Region, DeviceError>) -> Result<Arc<Region>, DeviceError> {
        let mut rows = self.rows.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(place) = rows.get(&key) {
            return Ok(place.clone());
        }
        let place = Arc::new(make()?);
        rows.insert(key, place.clone());
        Ok(place)
    }

    /// Forgets all places.
    pub(super) fn clear(&self) {
        self.rows.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    fn has_room_for(&self, key: u64) -> bool {
        let rows = self.rows.lock().unwrap_or_else(PoisonError::into_inner);
        rows.len() < PASSES || rows.contains_key(&key)
    }
}

impl CudaDevice {
    /// What tells passes apart that cannot share a recording: only their numbers of rows and of splits differ, and all
    /// rows are next tokens.
    pub(super) fn recording_key(&self, rows: usize, splits: usize, next_tokens: bool) -> Option<u64> {
        let key = (rows as u64) << 32 | splits as u64;
        (self.records && next_tokens && (1..=ROWS).contains(&rows) && self.recordings.has_room_for(key)).then_some(key)
    }

    /// See [`crate::Device::record`].
    pub(super) fn record_pass<E: From<DeviceError>>(
        &self,
        work: impl FnOnce() -> Result<CudaTensor, E>,
    ) -> Result<(CudaTensor, Recording), E> {
        let (context, stream) = (&self.context, self.context.stream());
        let mode = sys::CUstreamCaptureMode_enum::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
        // SAFETY: the stream lives, and its capture ends below.
        unsafe { result::stream::begin_capture(stream, mode) }.map_err(driver("recording a pass"))?;
        self.recordings.active.store(true, Ordering::Relaxed);
        let worked = work();
        self.recordings.active.store(false, Ordering::Relaxed);
        // SAFETY: the stream captures since the call above, whatever became of the work.
        let graph = unsafe { result::stream::end_capture(stream) }.map(Captured).map_err(driver("recording a pass"));
        let (made, graph) = (worked?, graph?);
        let flags = sys::CUgraphInstantiate_flags(0);
        // SAFETY: the graph was just made.
        let executable = unsafe { result::graph::instantiate(graph.0, flags) }.map_err(driver("preparing a recorded pass"))?;
        let made = CudaTensor { region: made.region.given_back(), ..made };
        Ok((made, Recording { context: context.clone(), graph: executable }))
    }
}
