//! Passes that the device has recorded, to be replayed when one like them comes again.

use std::collections::HashMap;
use std::sync::Arc;

use tessera_collective::CollectiveError;
use tessera_device::Device;
use tracing::warn;

use crate::ModelError;

/// By what the device tells passes apart.
pub(crate) struct Passes<D: Device> {
    passes: HashMap<u64, Pass<D>>,
    /// A collective cannot be recorded here: one that refuses is lost, and must not be asked again by every group.
    is_off: bool,
}

enum Pass<D: Device> {
    /// It was run once; the next one is recorded, for passes that come once are not worth it.
    Seen,
    /// Replaying it writes the last layer's output to `hidden`.
    Recorded { recording: D::Recording, hidden: Arc<D::Tensor> },
    /// The device could not.
    Refused,
}

impl<D: Device> Passes<D> {
    pub(crate) fn new() -> Self {
        Self { passes: HashMap::new(), is_off: false }
    }

    /// Forgets all: what was recorded belongs to a group that is no more.
    pub(crate) fn clear(&mut self, device: &D) {
        self.passes.clear();
        device.forget_recordings();
    }

    /// Passes that are replayed.
    pub(crate) fn recorded(&self) -> usize {
        self.passes.values().filter(|pass| matches!(pass, Pass::Recorded { .. })).count()
    }

    /// Does `work` on the rows placed, or replays what was recorded of it.
    pub(crate) fn run(
        &mut self,
        device: &D,
        placed: &D::Placed<'_>,
        mut work: impl FnMut() -> Result<D::Tensor, ModelError>,
    ) -> Result<Arc<D::Tensor>, ModelError> {
        let Some(key) = device.recording(placed).filter(|_| !self.is_off) else { return Ok(Arc::new(work()?)) };
        match self.passes.get(&key) {
            None => {
                self.passes.insert(key, Pass::Seen);
                Ok(Arc::new(work()?))
            }
            Some(Pass::Refused) => Ok(Arc::new(work()?)),
            Some(Pass::Recorded { recording, hidden }) => {
                device.replay(recording)?;
                Ok(hidden.clone())
            }
            Some(Pass::Seen) => match device.record(&mut work) {
                Ok((hidden, recording)) => {
                    let hidden = Arc::new(hidden);
                    device.replay(&recording)?;
                    self.passes.insert(key, Pass::Recorded { recording, hidden: hidden.clone() });
                    Ok(hidden)
                }
                // Nothing was done yet, so it can be done now.
                Err(error) => {
                    self.is_off |= matches!(error, ModelError::Collective(CollectiveError::Library { .. }));
                    warn!(%error, "a pass cannot be recorded; its kernels are launched one by one from now on");
                    self.passes.insert(key, Pass::Refused);
                    Ok(Arc::new(work()?))
                }
            },
        }
    }
}
