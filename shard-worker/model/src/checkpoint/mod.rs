//! Weights: a checkpoint folder of either layout, or made-up values.

mod dummy;
mod error;
mod fingerprint;
mod layout;
mod names;
mod safetensors_file;
mod slice;

use std::path::Path;

use tessera_types::ModelSpec;

pub use dummy::DummyWeights;
pub use error::CheckpointError;
pub use fingerprint::Fingerprint;
pub use layout::{Checkpoint, Layout, shape};
pub use slice::{Loadable, SliceBytes, TensorSlice};

/// Where a model's weights come from.
#[derive(Debug)]
pub enum WeightSource {
    /// Files.
    Checkpoint(Checkpoint),
    /// Nothing: pseudo-random values, to run a shape without its weights.
    Dummy(DummyWeights),
}

impl WeightSource {
    /// Opens a checkpoint folder: reads its configuration and the headers of its files, none of the weights.
    pub fn open(folder: &Path) -> Result<Self, CheckpointError> {
        Checkpoint::open(folder).map(Self::Checkpoint)
    }

    /// Pseudo-random weights of a shape.
    pub fn dummy(spec: ModelSpec, seed: u64) -> Self {
        Self::Dummy(DummyWeights::new(spec, seed))
    }

    /// The model's shape.
    pub fn spec(&self) -> &ModelSpec {
        match self {
            Self::Checkpoint(checkpoint) => checkpoint.spec(),
            Self::Dummy(dummy) => dummy.spec(),
        }
    }

    /// Bytes of weights read so far; headers are not counted.
    pub fn bytes_read(&self) -> u64 {
        match self {
            Self::Checkpoint(checkpoint) => checkpoint.bytes_read(),
            Self::Dummy(_) => 0,
        }
    }

    /// Bytes a slice has, once the tensor is known to be there with the shape wanted.
    pub fn check(&self, slice: &TensorSlice) -> Result<u64, CheckpointError> {
        match self {
            Self::Checkpoint(checkpoint) => checkpoint.check(slice),
            Self::Dummy(_) => Ok(dummy::bytes(slice)),
        }
    }

    /// Reads a slice, and nothing around it.
    pub fn read(&self, slice: &TensorSlice) -> Result<SliceBytes, CheckpointError> {
        match self {
            Self::Checkpoint(checkpoint) => checkpoint.read(slice, &mut |_| Ok(())),
            Self::Dummy(dummy) => Ok(dummy.read(slice)),
        }
    }

    /// Makes a slice ready for a device, and tells of the bytes that were read since it last told, within long slices and
    /// at the end. An error of `told` ends the reading. Of made-up weights nothing is made yet, but for the device to do.
    pub fn load<E: From<CheckpointError>>(
        &self,
        slice: &TensorSlice,
        told: &mut dyn FnMut(u64) -> Result<(), E>,
    ) -> Result<Loadable, E> {
        match self {
            Self::Checkpoint(checkpoint) => checkpoint.read(slice, told).map(Loadable::Read),
            Self::Dummy(dummy) => {
                told(dummy::bytes(slice))?;
                Ok(dummy.load(slice))
            }
        }
    }

    /// What tells these weights from others.
    pub fn fingerprint(&self) -> Fingerprint {
        match self {
            Self::Checkpoint(checkpoint) => checkpoint.fingerprint(),
            Self::Dummy(dummy) => dummy.fingerprint(),
        }
    }
}
