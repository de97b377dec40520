//! Tokens that the device chose: they stay there for the next pass, and the host reads them while that pass runs, with how
//! probable they were.

use std::sync::{Arc, Mutex, PoisonError};

use tessera_types::{DeviceDtype, DeviceSlice, MAX_TOP_LOGPROBS, TokenId, TokenLogprob};

use super::{
    CudaDevice, CudaRows,
    context::Context,
    kernel::{Geometry, Kernel, int},
    pinned::Pinned,
    shapes::agree,
    workspace::Region,
};
use crate::{Choosing, ChosenToken, DeviceError};

/// The least that is pinned for tokens: a group of rows as models choose for at once, with all that can be asked of them.
const LEAST: usize = 64 * (2 + width(MAX_TOP_LOGPROBS as usize)) * size_of::<u32>();

/// Numbers of a row that say how probable tokens were: its own, and `most` others with their ids.
const fn width(most: usize) -> usize {
    1 + 2 * most
}

/// How many are pinned at start, since pinning may wait for the device.
const READY: usize = 8;

/// A token for each of some rows.
pub struct CudaChosen {
    /// `u32[rows]`: ids; then `u32[rows]`: 0 where there was nothing to choose from; then what the kernel says of how probable
    /// tokens were, where any row asks.
    region: Region,
    rows: usize,
    /// How many tokens are told beside each row's own, where any is.
    described: Vec<Option<usize>>,
    /// The most of any row.
    most: Option<usize>,
    /// Where the host gets them, once it asked.
    landing: Option<Pinned>,
    landings: Arc<Landings>,
}

impl CudaChosen {
    fn numbers(&self) -> usize {
        self.rows * (2 + self.most.map_or(0, width))
    }

    /// Where the kernel writes ids, and what else it says of each.
    pub(super) fn addresses(&self) -> (u64, u64) {
        let ids = self.region.address();
        (ids, ids + (self.rows * size_of::<u32>()) as u64)
    }

    /// Where it writes how probable tokens were, and for how many a row has places; `None` where no row asks.
    pub(super) fn logprobs(&self) -> Option<(u64, usize)> {
        Some((self.region.address() + (2 * self.rows * size_of::<u32>()) as u64, self.most?))
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
    /// Room for a token of each row, and for what is asked of it.
    pub(super) fn new_chosen(&self, choosing: &[Choosing]) -> Result<CudaChosen, DeviceError> {
        let asked = |row: &Choosing| (row.described != Choosing::NONE).then_some(row.described as usize);
        let (rows, described) = (choosing.len(), choosing.iter().map(asked).collect::<Vec<_>>());
        let most = described.iter().copied().flatten().max();
        if most.is_some_and(|most| most > MAX_TOP_LOGPROBS as usize) {
            let detail = format!("{most:?} tokens beside a row's own, {MAX_TOP_LOGPROBS} are told at most");
            return Err(DeviceError::Shape { operation: "choose", detail });
        }
        // It outlives the passes that follow until the host has read it.
        let region = self.workspace.keep(rows * (2 + most.map_or(0, width)) * size_of::<u32>())?;
        Ok(CudaChosen { region, rows, described, most, landing: None, landings: self.landings.clone() })
    }

    /// See [`crate::Device::chosen_slice`].
    pub(super) fn slice_of_chosen(&self, chosen: &CudaChosen) -> DeviceSlice {
        let stream = self.context.stream() as u64;
        DeviceSlice { address: chosen.region.address(), numbers: 2 * chosen.rows, dtype: DeviceDtype::F32, stream }
    }

    /// See [`crate::Device::fetch`].
    pub(super) fn fetch_chosen(&self, chosen: &mut CudaChosen) -> Result<(), DeviceError> {
        let bytes = chosen.numbers() * size_of::<u32>();
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
    pub(super) fn read_chosen(&self, chosen: &mut CudaChosen) -> Result<Vec<Option<ChosenToken>>, DeviceError> {
        self.context.bind()?;
        let (rows, count, most) = (chosen.rows, chosen.numbers(), chosen.most.unwrap_or(0));
        let unasked = || DeviceError::Shape { operation: "read tokens", detail: "nobody asked for them".into() };
        let numbers: &mut [u32] = chosen.landing.as_mut().ok_or_else(unasked)?.numbers(count)?;
        let (tokens, rest) = numbers.split_at(rows);
        let (finite, told) = rest.split_at(rows);
        let row = |row: usize| {
            let token = TokenId(tokens[row]);
            let of_row = |top| logprob(token, &told[row * width(most)..][..width(most)], top);
            (finite[row] != 0).then(|| ChosenToken { token, logprob: chosen.described[row].map(of_row) })
        };
        Ok((0..rows).map(row).collect())
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

/// What the kernel says of a row: its token, then ids, then theirs. There are fewer where the vocabulary has no more.
fn logprob(token: TokenId, told: &[u32], top: usize) -> TokenLogprob {
    let (ids, values) = told[1..].split_at(told.len() / 2);
    let pairs = ids.iter().zip(values).take(top).filter(|(id, _)| **id != Choosing::NONE);
    let top = pairs.map(|(id, value)| (TokenId(*id), f32::from_bits(*value))).collect();
    TokenLogprob { token, logprob: f32::from_bits(told[0]), top }
}
