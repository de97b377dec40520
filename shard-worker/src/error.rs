//! Why a rank did not load, and the one place that makes a status of it.

use tessera_collective::CollectiveError;
use tessera_device::DeviceError;
use tessera_model::{CheckpointError, ModelError};
use tessera_types::{Epoch, ShardError};
use tonic::{Code, Status};

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
    #[error("kv_cache_dtype: keys and values in fp8 are for `cuda` and `sim` devices, and this worker computes on `cpu`")]
    KvCacheDtype,
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
            LoadError::Shard(_)
            | LoadError::NoRoom { .. }
            | LoadError::TooManyBlocks { .. }
            | LoadError::Quantization
            | LoadError::KvCacheDtype => Self::invalid_argument(message),
            LoadError::Checkpoint(error) | LoadError::Model(ModelError::Checkpoint(error)) => match error {
                CheckpointError::NoLayout(_) | CheckpointError::MissingFile { .. } => Self::not_found(message),
                _ => Self::data_loss(message),
            },
            LoadError::Model(ModelError::Device(error)) => Self::new(device(error), message),
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

/// Who may do better: a larger group, nobody, another worker; or nobody knows.
fn device(error: &DeviceError) -> Code {
    match error {
        DeviceError::OutOfMemory { .. } => Code::ResourceExhausted,
        DeviceError::Dtype { .. } => Code::InvalidArgument,
        DeviceError::Kernels(_) | DeviceError::Library { .. } | DeviceError::NoDevice { .. } => Code::FailedPrecondition,
        DeviceError::Shape { .. }
        | DeviceError::Thread(_)
        | DeviceError::Driver { .. }
        | DeviceError::Broken { .. }
        | DeviceError::Peers(_) => Code::Internal,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_want_of_memory_asks_for_more_ranks_and_only_a_dtype_is_wrong_for_every_worker() {
        let code = |error: DeviceError| Status::from(LoadError::Model(error.into())).code();
        let memory = DeviceError::OutOfMemory { what: "weights".into(), bytes: 1, device: "cuda:0".into() };
        assert_eq!(code(memory), Code::ResourceExhausted);
        let dtype = DeviceError::Dtype { device: "cuda", known: "bf16", asked: "f32".into() };
        assert_eq!(code(dtype), Code::InvalidArgument);
        let lacks = [
            DeviceError::Kernels("none for sm_70".into()),
            DeviceError::Library { library: "libnvrtc", hint: "it compiles" },
            DeviceError::NoDevice { asked: 1, there: 1 },
        ];
        assert_eq!(lacks.map(code), [Code::FailedPrecondition; 3]);
        let broken = DeviceError::Driver { operation: "a launch", error: "an illegal address".into() };
        assert_eq!([broken, DeviceError::Thread("panic".into())].map(code), [Code::Internal; 2]);
    }
}
