//! The group as the forward pass sees it: sums and gathers of device tensors, and the time they took.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tessera_collective::{Collective, CollectiveError};
use tessera_device::Device;
use tessera_types::{Rank, TokenId};

use crate::ModelError;

pub(crate) struct Ranks {
    collective: Box<dyn Collective>,
    waited: Duration,
    bytes: Vec<u8>,
    /// Counts what the rank brought to the others; a rank that hangs has brought less than they.
    progress: Arc<AtomicU64>,
}

impl Ranks {
    pub(crate) fn new(collective: Box<dyn Collective>) -> Self {
        Self { collective, waited: Duration::ZERO, bytes: Vec::new(), progress: Arc::default() }
    }

    /// The same rank in another group.
    pub(crate) fn join(&mut self, collective: Box<dyn Collective>) {
        self.collective = collective;
    }

    /// Counts on `progress` from now on.
    pub(crate) fn count(&mut self, progress: Arc<AtomicU64>) {
        self.progress = progress;
    }

    /// Whether this rank samples and answers.
    pub(crate) fn is_first(&self) -> bool {
        self.collective.rank() == Rank(0)
    }

    /// Time in collectives since this was last asked.
    pub(crate) fn take_waited(&mut self) -> Duration {
        std::mem::take(&mut self.waited)
    }

    /// Replaces each rank's part of a sum by the sum.
    pub(crate) fn all_reduce<D: Device>(&mut self, device: &D, tensor: &mut D::Tensor) -> Result<(), ModelError> {
        self.progress.fetch_add(1, Ordering::Relaxed);
        if self.collective.size() == 1 {
            return Ok(());
        }
        if let Some(values) = device.host_mut(tensor) {
            return Ok(self.timed(|collective| collective.all_reduce_sum(values))?);
        }
        let mut values = device.read(tensor)?;
        self.timed(|collective| collective.all_reduce_sum(&mut values))?;
        Ok(device.write(tensor, &values)?)
    }

    /// All ranks' parts one behind the other.
    pub(crate) fn all_gather<D: Device>(&mut self, device: &D, tensor: &mut D::Tensor) -> Result<Vec<f32>, ModelError> {
        if self.collective.size() == 1 {
            return Ok(device.read(tensor)?);
        }
        let (rows, cols) = device.shape(tensor);
        let mut whole = vec![0.0; rows * cols * self.collective.size()];
        if let Some(part) = device.host_mut(tensor) {
            self.timed(|collective| collective.all_gather(part, &mut whole))?;
        } else {
            let part = device.read(tensor)?;
            self.timed(|collective| collective.all_gather(&part, &mut whole))?;
        }
        Ok(whole)
    }

    /// Rank 0's tokens on every rank; all give as many.
    pub(crate) fn share(&mut self, tokens: &mut [TokenId]) -> Result<(), ModelError> {
        if self.collective.size() == 1 || tokens.is_empty() {
            return Ok(());
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

    fn timed<T>(&mut self, call: impl FnOnce(&mut dyn Collective) -> Result<T, CollectiveError>) -> Result<T, CollectiveError> {
        let began = Instant::now();
        let result = call(self.collective.as_mut());
        self.waited += began.elapsed();
        result
    }
}
