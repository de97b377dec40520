//! Why a rank did not load, and the one place that makes a status of it.

use tessera_collective::CollectiveError;
use tessera_model::{CheckpointError, ModelError};
use tessera_types::{Epoch, ShardError};
use tonic::Status;

/// Why a model was not loaded.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LoadError {
    #[error(transparent)]
    Shard(#[from] ShardError),
    #[error(transparent)]
    Model(#[from] ModelError),
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    #[error(transparent)]
    Collective(#[from] CollectiveError),
    #[error("a cache of {memory} bytes has no room for a block of {block} bytes")]
    NoRoom { memory: u64, block: u64 },
    #[error("kv_blocks: {asked} blocks of {block} bytes are more than the {memory} bytes this worker has for its cache")]
    TooManyBlocks { asked: u32, block: u64, memory: u64 },
    #[error("quantization: fp8 weights are for `cuda` and `sim` devices, and this worker computes on `cpu`")]
    Quantization,
    #[error("epoch {epoch} is over: this worker has seen epoch {newest}")]
    Stale { epoch: Epoch, newest: Epoch },
    #[error("the model's shape cannot be told: {0}")]
    Shape(#[from] serde_json::Error),
    #[error("the group of epoch {0} was given up while it was loading")]
    GivenUp(Epoch),
}

impl From<LoadError> for Status {
    fn from(error: LoadError) -> Self {
        let message = error.to_string();
        match &error {
            LoadError::Shard(_) | LoadError::NoRoom { .. } | LoadError::TooManyBlocks { .. } | LoadError::Quantization => {
                Self::invalid_argument(message)
            }
            LoadError::Checkpoint(error) | LoadError::Model(ModelError::Checkpoint(error)) => match error {
                CheckpointError::NoLayout(_) | CheckpointError::MissingFile { .. } => Self::not_found(message),
                _ => Self::data_loss(message),
            },
            LoadError::Model(ModelError::Device(_)) => Self::resource_exhausted(message),
            // Another worker may have what this one lacks.
            LoadError::Stale { .. } | LoadError::Collective(CollectiveError::Missing(_)) => Self::failed_precondition(message),
            LoadError::GivenUp(_)
            | LoadError::Collective(CollectiveError::Aborted)
            | LoadError::Model(ModelError::Collective(CollectiveError::Aborted)) => Self::aborted(message),
            LoadError::Collective(_) | LoadError::Model(ModelError::Collective(_)) => Self::unavailable(message),
            LoadError::Model(_) | LoadError::Shape(_) => Self::internal(message),
        }
    }
}
