//! What a rank is asked to load, checked; and why it could not.

use std::{path::PathBuf, time::Duration};

use tessera_collective::{CollectiveError, GroupConfig, Transport};
use tessera_device::Dtype;
use tessera_model::{CheckpointError, ModelError, WeightSource};
use tessera_proto::internal::{self as wire, collective::Transport as WireTransport, model_source::Source};
use tessera_types::{BLOCK_TOKENS, Epoch, ModelSpec, Rank, ShardError, ShardPlan};
use tonic::Status;

/// A load request in the domain's words.
#[derive(Clone, Debug)]
pub(crate) struct LoadRequest {
    pub(crate) epoch: Epoch,
    pub(crate) rank: Rank,
    pub(crate) tp: usize,
    pub(crate) model: ModelId,
    pub(crate) dtype: Dtype,
    /// `None`: as many as the memory holds.
    pub(crate) kv_blocks: Option<usize>,
    pub(crate) group: GroupConfig,
}

/// Which weights; two requests with equal ids load the same.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum ModelId {
    Folder(PathBuf),
    Dummy(Box<ModelSpec>, u64),
}

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
    NoRoom { memory: u64, block: usize },
}

impl From<LoadError> for Status {
    fn from(error: LoadError) -> Self {
        let message = error.to_string();
        match &error {
            LoadError::Shard(_) | LoadError::NoRoom { .. } => Self::invalid_argument(message),
            LoadError::Checkpoint(error) | LoadError::Model(ModelError::Checkpoint(error)) => match error {
                CheckpointError::NoLayout(_) | CheckpointError::MissingFile { .. } => Self::not_found(message),
                _ => Self::data_loss(message),
            },
            LoadError::Model(ModelError::Device(_)) => Self::resource_exhausted(message),
            LoadError::Model(ModelError::Collective(_)) | LoadError::Collective(_)  => Self::unavailable(message),
            LoadError::Model(_) => Self::internal(message),
        }
    }
}

impl ModelId {
    pub(crate) fn open(&self) -> Result<WeightSource, CheckpointError> {
        match self {
            Self::Folder(folder) => WeightSource::open(folder),
            Self::Dummy(spec, seed) => Ok(WeightSource::dummy((**spec).clone(), *seed)),
        }
    }
}

impl LoadRequest {
    /// Blocks of the cache: those asked for, or those that `memory` bytes hold.
    pub(crate) fn blocks(&self, spec: &ModelSpec, plan: &ShardPlan, memory: u64) -> Result<usize, LoadError> {
        let element = match self.dtype {
            Dtype::F32 => 4,
            Dtype::Bf16 => 2,
        };
        let block = spec.kv_bytes_per_token(plan.kv_heads.len(), element) * BLOCK_TOKENS;
        let blocks = self.kv_blocks.unwrap_or((memory / block as u64) as usize);
        if blocks == 0 { Err(LoadError::NoRoom { memory, block }) } else { Ok(blocks) }
    }
}

impl TryFrom<wire::LoadRequest> for LoadRequest {
    type Error = Status;

    fn try_from(request: wire::LoadRequest) -> Result<Self, Status> {
        let missing = |field: &str| Status::invalid_argument(format!("{field}: missing"));
        let model = match request.model.and_then(|model| model.source).ok_or_else(|| missing("model"))? {
            Source::Folder(folder) => ModelId::Folder(folder.into()),
            Source::Dummy(dummy) => {
                let spec = serde_json::from_str(&dummy.model_spec);
                let spec = spec.map_err(|error| Status::invalid_argument(format!("model.dummy.model_spec: {error}")))?;
                ModelId::Dummy(spec, dummy.seed)
            }
        };
        let dtype = match request.dtype.as_str() {
            "f32" => Dtype::F32,
            "bf16" => Dtype::Bf16,
            other => return Err(Status::invalid_argument(format!("dtype: `{other}` is neither f32 nor bf16"))),
        };
        let rank = u16::try_from(request.rank).map_err(|_| Status::invalid_argument("rank: out of range"))?;
        let (epoch, rank, tp) = (Epoch(request.epoch), Rank(rank), request.tp as usize);
        let collective = request.collective.ok_or_else(|| missing("collective"))?;
        let group = GroupConfig {
            transport: transport(&collective)?,
            group: safe_name(&collective.group)?,
            epoch,
            rank,
            size: tp,
            deadline: Duration::from_millis(collective.deadline_ms.clamp(1, 600_000)),
        };
        let kv_blocks = (request.kv_blocks > 0).then_some(request.kv_blocks as usize);
        Ok(Self { epoch, rank, tp, model, dtype, kv_blocks, group })
    }
}

fn transport(collective: &wire::Collective) -> Result<Transport, Status> {
    if collective.transport() != WireTransport::Tcp {
        return Ok(Transport::Shm);
    }
    let parse = |address: &String| {
        address.parse().map_err(|_| Status::invalid_argument(format!("collective.addresses: `{address}` is not HOST:PORT")))
    };
    Ok(Transport::Tcp { addresses: collective.addresses.iter().map(parse).collect::<Result<_, _>>()? })
}

/// The group's name becomes part of a file's.
fn safe_name(name: &str) -> Result<String, Status> {
    let safe = !name.is_empty() && name.len() <= 100 && name.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c));
    if safe { Ok(name.to_owned()) } else { Err(Status::invalid_argument(format!("collective.group: `{name}` is not a plain name"))) }
}
