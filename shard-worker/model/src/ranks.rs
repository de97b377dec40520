//! The group as the forward pass sees it: sums and gathers of device tensors, and the time they took.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tessera_collective::{Collective, CollectiveError};
use tessera_device::{Device, DeviceError};
use tessera_types::{DeviceSlice, Rank, TokenId};

use crate::{ModelError, peers};

/// What all ranks gave, by rank.
pub(crate) enum Gathered<D: Device> {
    /// `[parts * rows, cols]`.
    OnDevice {
        whole: D::Tensor,
        parts: usize,
    },
    OnHost(Vec<f32>),
}

impl<D: Device> Gathered<D> {
    /// The numbers themselves.
    pub(crate) fn into_host(self, device: &D) -> Result<Vec<f32>, ModelError> {
        match self {
            Self::OnDevice { whole, .. } => Ok(device.read(&whole)?),
            Self::OnHost(values) => Ok(values),
        }
    }
}

/// What becomes of the ranks' parts of a sum.
pub(crate) trait Reduce {
    /// Replaces each rank's part of a sum by the sum.
    fn all_reduce<D: Device>(&mut self, device: &D, tensor: &mut D::Tensor) -> Result<(), ModelError>;
}

pub(crate) struct Ranks {
    collective: Box<dyn Collective>,
    waited: Duration,
    bytes: Vec<u8>,
    /// Counts what the rank brought to the others; a rank that hangs has brought less than they.
    progress: Arc<AtomicU64>,
    has_peers: bool,
}

impl Ranks {
    pub(crate) fn new(collective: Box<dyn Collective>) -> Self {
        Self { collective, waited: Duration::ZERO, bytes: Vec::new(), progress: Arc::default(), has_peers: false }
    }

    /// The same rank in another group.
    pub(crate) fn join<D: Device>(&mut self, device: &D, collective: Box<dyn Collective>) -> Result<(), ModelError> {
        self.leave(device)?;
        self.collective = collective;
        self.connect(device)
    }

    /// Makes the group's devices peers, where they reach each other's memory.
    pub(crate) fn connect<D: Device>(&mut self, device: &D) -> Result<(), ModelError> {
        self.has_peers = peers::connect(self, device)?;
        Ok(())
    }

    /// Whether small sums go through the devices' own memory.
    pub(crate) fn has_peers(&self) -> bool {
        self.has_peers
    }

    pub(crate) fn collective(&self) -> &dyn Collective {
        self.collective.as_ref()
    }

    /// Leaves the group, with nothing left running for it; fails with what the device says.
    pub(crate) fn leave<D: Device>(&mut self, device: &D) -> Result<(), DeviceError> {
        let mut failure = None;
        self.collective.leave(&mut || told(device.is_idle(), &mut failure));
        device.part_from_peers();
        self.has_peers = false;
        failure.map_or(Ok(()), Err)
    }

    /// Counts on `progress` from now on.
    pub(crate) fn count(&mut self, progress: Arc<AtomicU64>) {
        self.progress = progress;
    }

    /// Whether this rank samples and answers.
    pub(crate) fn is_first(&self) -> bool {
        self.rank() == Rank(0)
    }

    pub(crate) fn rank(&self) -> Rank {
        self.collective.rank()
    }

    /// Ranks in the group.
    pub(crate) fn size(&self) -> usize {
        self.collective.size()
    }

    /// Time in collectives since this was last asked.
    pub(crate) fn take_waited(&mut self) -> Duration {
        std::mem::take(&mut self.waited)
    }

    /// Waits until every rank is there, where ranks wait for each other on the host. Devices do so when they exchange
    /// something, and [`Ranks::settle`] bounds it.
    pub(crate) fn meet(&mut self) -> Result<(), ModelError> {
        self.progressed();
        if self.collective.size() == 1 || self.collective.joins_devices() {
            return Ok(());
        }
        Ok(self.timed(|collective| collective.all_reduce_sum(&mut [0.0]))?)
    }

    /// Replaces every rank's numbers by those of `owner`.
    pub(crate) fn hand_round<D: Device>(&mut self, device: &D, owner: Rank, tensor: &mut D::Tensor) -> Result<(), ModelError> {
        self.progressed();
        if self.collective.size() == 1 {
            return Ok(());
        }
        if let Some(slice) = self.joined(device, tensor) {
            return Ok(self.collective.broadcast_device(owner, slice)?);
        }
        if let Some(values) = device.host_mut(tensor) {
            return Ok(self.timed(|collective| collective.broadcast(owner, bytemuck::cast_slice_mut(values)))?);
        }
        let mut values = device.read(tensor)?;
        self.timed(|collective| collective.broadcast(owner, bytemuck::cast_slice_mut(&mut values)))?;
        Ok(device.write(tensor, &values)?)
    }

    /// All ranks' parts one behind the other.
    pub(crate) fn all_gather<D: Device>(&mut self, device: &D, mut part: D::Tensor) -> Result<Gathered<D>, ModelError> {
        let parts = self.collective.size();
        if parts == 1 {
            return Ok(Gathered::OnDevice { whole: part, parts });
        }
        let (rows, cols) = device.shape(&part);
        if let Some(slice) = self.joined(device, &part) {
            let whole = device.tensor(rows * parts, cols)?;
            if let Some(all) = device.slice(&whole) {
                self.collective.all_gather_device(slice, all)?;
                return Ok(Gathered::OnDevice { whole, parts });
            }
        }
        let mut whole = vec![0.0; rows * cols * parts];
        if let Some(part) = device.host_mut(&mut part) {
            self.timed(|collective| collective.all_gather(part, &mut whole))?;
        } else {
            let part = device.read(&part)?;
            self.timed(|collective| collective.all_gather(&part, &mut whole))?;
        }
        Ok(Gathered::OnHost(whole))
    }

    /// Rank 0's tokens on every rank; all give as many.
    pub(crate) fn share<D: Device>(&mut self, device: &D, tokens: &mut [TokenId]) -> Result<(), ModelError> {
        if self.collective.size() == 1 || tokens.is_empty() {
            return Ok(());
        }
        if self.collective.joins_devices() {
            return self.share_by_device(device, tokens);
        }
        let mut bytes = std::mem::take(&mut self.bytes);
        bytes.clear();
        bytes.extend(tokens.iter().flat_map(|token| token.0.to_le_bytes()));
        self.timed(|collective| collective.broadcast(Rank(0), &mut bytes))?;
        for (token, id) in tokens.iter_mut().zip(bytes.as_chunks::<4>().0) {
            *token = TokenId(u32::from_le_bytes(*id));
        }
        self.bytes = bytes;
        Ok(())
    }

    fn share_by_device<D: Device>(&mut self, device: &D, tokens: &mut [TokenId]) -> Result<(), ModelError> {
        let ids = words(device, tokens.iter().map(|token| token.0))?;
        let place = device.slice(&ids).ok_or_else(|| CollectiveError::Device("its memory cannot be shared".into()))?;
        self.collective.broadcast_device(Rank(0), place)?;
        self.settle(device)?;
        for (token, bits) in tokens.iter_mut().zip(device.read(&ids)?) {
            *token = TokenId(bits.to_bits());
        }
        Ok(())
    }

    /// Rank 0's choices on every rank's device.
    pub(crate) fn share_chosen<D: Device>(&mut self, device: &D, chosen: &D::Chosen) -> Result<(), ModelError> {
        match device.chosen_slice(chosen) {
            Some(slice) if self.collective.size() > 1 => Ok(self.collective.broadcast_device(Rank(0), slice)?),
            _ => Ok(()),
        }
    }

    /// Waits for the device, where others could leave it waiting for ever.
    pub(crate) fn settle<D: Device>(&mut self, device: &D) -> Result<(), ModelError> {
        if !self.collective.joins_devices() {
            return Ok(());
        }
        self.wait(device, &mut || device.is_idle())
    }

    /// Waits until `done` says true, and meanwhile looks after the group: a rank that is gone may leave a device waiting for
    /// ever.
    pub(crate) fn wait<D: Device>(
        &mut self,
        device: &D,
        done: &mut dyn FnMut() -> Result<bool, DeviceError>,
    ) -> Result<(), ModelError> {
        let (mut failure, mut lost) = (None, None);
        let watched = self.collective.watch(&mut || {
            let is_done = told(done(), &mut failure)?;
            // A sum that came to nothing looks done.
            lost = device.peer_failure();
            Ok(is_done || lost.is_some())
        });
        if let Some(error) = failure {
            return Err(error.into());
        }
        watched?;
        lost.map_or(Ok(()), |lost| Err(peers::lost(lost, self.collective.deadline()).into()))
    }

    /// Whether gathered rows are where the device can go on with them.
    pub(crate) fn gather_on_devices(&self) -> bool {
        self.collective.size() == 1 || self.collective.joins_devices()
    }

    /// Says that the rank gets on, where no sum does.
    pub(crate) fn progressed(&self) {
        self.progress.fetch_add(1, Ordering::Relaxed);
    }

    /// Where a tensor lies, if the collective joins the memory of devices.
    fn joined<D: Device>(&self, device: &D, tensor: &D::Tensor) -> Option<DeviceSlice> {
        if self.collective.joins_devices() { device.slice(tensor) } else { None }
    }

    fn timed<T>(&mut self, call: impl FnOnce(&mut dyn Collective) -> Result<T, CollectiveError>) -> Result<T, CollectiveError> {
        let began = Instant::now();
        let result = call(self.collective.as_mut());
        self.waited += began.elapsed();
        result
    }
}

impl Reduce for Ranks {
    fn all_reduce<D: Device>(&mut self, device: &D, tensor: &mut D::Tensor) -> Result<(), ModelError> {
        self.progressed();
        if self.collective.size() == 1 {
            return Ok(());
        }
        if self.has_peers && device.sum_over_peers(tensor)? {
            return Ok(());
        }
        if let Some(slice) = self.joined(device, tensor) {
            return Ok(self.collective.all_reduce_device(slice)?);
        }
        if let Some(values) = device.host_mut(tensor) {
            return Ok(self.timed(|collective| collective.all_reduce_sum(values))?);
        }
        let mut values = device.read(tensor)?;
        self.timed(|collective| collective.all_reduce_sum(&mut values))?;
        Ok(device.write(tensor, &values)?)
    }
}

/// Words on a device, as the bits of f32, which nobody looks at.
pub(crate) fn words<D: Device>(device: &D, words: impl Iterator<Item = u32>) -> Result<D::Tensor, DeviceError> {
    let bits: Vec<f32> = words.map(f32::from_bits).collect();
    let mut tensor = device.tensor(1, bits.len())?;
    device.write(&mut tensor, &bits)?;
    Ok(tensor)
}

/// A failure in words, as collectives pass it on, and as it is.
fn told<T>(result: Result<T, DeviceError>, failure: &mut Option<DeviceError>) -> Result<T, String> {
    result.map_err(|error| {
        let said = error.to_string();
        *failure = Some(error);
        said
    })
}
