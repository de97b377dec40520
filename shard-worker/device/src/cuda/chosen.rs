//! Tokens that the device chose: they stay there for the next pass, and the host reads them while that pass runs.

use std::sync::{Arc, Mutex, PoisonError};

use tessera_types::{DeviceDtype, DeviceSlice, TokenId};

use super::{
    CudaDevice, CudaRows,
    context::Context,
    kernel::{Geometry, Kernel, int},
    pinned::Pinned,
    shapes::agree,
    workspace::Region,
};
use crate::DeviceError;

/// The least that is pinned for tokens: a group of rows as models choose for at once.
const LEAST: usize = 2 * 64 * size_of::<u32>();

/// How many are pinned at start, since pinning may wait for the device.
const READY: usize = 8;

/// A token for each of some rows.
pub struct CudaChosen {
    /// `u32[rows]`: ids; then `u32[rows]`: 0 where there was nothing to choose from.
    region: Region,
    rows: usize,
    /// Where the host gets them, once it asked.
    landing: Option<Pinned>,
    landings: Arc<Landings>,
}

impl CudaChosen {
    fn bytes(&self) -> usize {
        2 * self.rows * size_of::<u32>()
    }

    /// Where the kernel writes ids, and what else it says of each.
    pub(super) fn addresses(&self) -> (u64, u64) {
        let ids = self.region.address();
        (ids, ids + (self.rows * size_of::<u32>()) as u64)
    }
}

impl Drop for CudaChosen {
    fn drop(&mut self) {
        self.landings.give(self.landing.take());
    }
}

/// Pinned memory for tokens, used again and again.
pub(super) struct Landings {
    context: Arc<Context>,
    free: Mutex<Vec<Pinned>>,
}

impl Landings {
    pub(super) fn new(context: &Arc<Context>) -> Result<Arc<Self>, DeviceError> {
        let free = (0..READY).map(|_| Pinned::new(context, LEAST, "chosen tokens")).collect::<Result<_, _>>()?;
        Ok(Arc::new(Self { context: context.clone(), free: Mutex::new(free) }))
    }

    fn take(&self, bytes: usize) -> Result<Pinned, DeviceError> {
        let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        match free.iter().position(|landing| landing.bytes() >= bytes) {
            Some(fitting) => Ok(free.swap_remove(fitting)),
            None => Pinned::new(&self.context, bytes.max(LEAST), "chosen tokens"),
        }
    }

    fn give(&self, landing: Option<Pinned>) {
        self.free.lock().unwrap_or_else(PoisonError::into_inner).extend(landing);
    }
}

impl CudaDevice {
    /// Room for a token of each of `rows` rows.
    pub(super) fn new_chosen(&self, rows: usize) -> Result<CudaChosen, DeviceError> {
        let region = self.scratch(2 * rows * size_of::<u32>())?;
        Ok(CudaChosen { region, rows, landing: None, landings: self.landings.clone() })
    }

    /// See [`crate::Device::chosen_slice`].
    pub(super) fn slice_of_chosen(&self, chosen: &CudaChosen) -> DeviceSlice {
        let stream = self.context.stream() as u64;
        DeviceSlice { address: chosen.region.address(), numbers: 2 * chosen.rows, dtype: DeviceDtype::F32, stream }
    }

    /// See [`crate::Device::fetch`].
    pub(super) fn fetch_chosen(&self, chosen: &mut CudaChosen) -> Result<(), DeviceError> {
        let bytes = chosen.bytes();
        let mut landing = self.landings.take(bytes)?;
        landing.fetch(chosen.region.address(), bytes)?;
        self.landings.give(chosen.landing.replace(landing));
        Ok(())
    }

    /// See [`crate::Device::is_fetched`].
    pub(super) fn is_fetched_chosen(&self, chosen: &CudaChosen) -> Result<bool, DeviceError> {
        self.context.bind()?;
        chosen.landing.as_ref().map_or(Ok(false), Pinned::is_done)
    }

    /// See [`crate::Device::fetched`].
    pub(super) fn read_chosen(&self, chosen: &mut CudaChosen) -> Result<Vec<Option<TokenId>>, DeviceError> {
        self.context.bind()?;
        let rows = chosen.rows;
        let unasked = || DeviceError::Shape { operation: "read tokens", detail: "nobody asked for them".into() };
        let numbers: &mut [u32] = chosen.landing.as_mut().ok_or_else(unasked)?.numbers(2 * rows)?;
        let (tokens, finite) = numbers.split_at(rows);
        Ok(tokens.iter().zip(finite).map(|(token, finite)| (*finite != 0).then_some(TokenId(*token))).collect())
    }

    /// See [`crate::Device::feed`]. An id is copied as the four bytes that it is.
    pub(super) fn feed_chosen(&self, rows: &CudaRows, chosen: &CudaChosen, feed: &[(usize, usize)]) -> Result<(), DeviceError> {
        let beyond = feed.iter().any(|(row, choice)| *row >= rows.rows || *choice >= chosen.rows);
        agree("feed", "rows beyond the end", usize::from(beyond), 0)?;
        agree("feed", "rows with tokens", usize::from(rows.has_tokens), 1)?;
        let choices = feed.iter().map(|(_, choice)| choice);
        let indices = choices.chain(feed.iter().map(|(row, _)| row)).map(|index| int(*index)).collect::<Result<Vec<_>, _>>()?;
        let places = self.scratch(size_of_val(&*indices))?;
        self.upload(places.address(), &indices)?;
        let behind = places.address() + (feed.len() * size_of::<i32>()) as u64;
        let args = [chosen.region.address().into(), places.address().into(), rows.tokens().into(), behind.into(), 1_i32.into()];
        self.kernels.launch(Kernel::CopyRowsFull, Geometry::rows(feed.len(), 32), &args)
    }
}
