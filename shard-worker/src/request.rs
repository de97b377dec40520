//! What a rank is asked to load, checked.

use std::{path::PathBuf, str::FromStr, time::Duration};

use tessera_collective::{GroupConfig, NCCL_ID_BYTES, NcclId, Transport};
use tessera_device::{CacheDtype, CacheShape, Dtype, Formats, Quantization, WeightFormat};
use tessera_model::{CheckpointError, WeightSource, shape};
use tessera_proto::{
    bad_request,
    internal::{self as wire, collective::Transport as WireTransport, model_source::Source},
};
use tessera_types::{Epoch, ModelSpec, Rank, ShardPlan, VisionParallel};
use tonic::Status;

use crate::error::LoadError;

/// The longest that an operation may be told to wait for a rank.
const LONGEST_DEADLINE_MS: u64 = 600_000;

/// A load request in the domain's words.
#[derive(Clone, Debug)]
pub(crate) struct LoadRequest {
    pub(crate) model: ModelId,
    /// What weights and cache are kept in.
    pub(crate) formats: Formats,
    pub(crate) vision_parallel: VisionParallel,
    /// `None`: as many as the memory holds.
    pub(crate) kv_blocks: Option<u32>,
    /// Epoch, rank and degree are the group's.
    pub(crate) group: GroupConfig,
    /// What a worker that holds these weights is known by.
    pub(crate) fingerprint: String,
}

/// Which weights; two requests with equal ids load the same.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum ModelId {
    Folder(PathBuf),
    Dummy(Box<ModelSpec>, u64),
}

impl ModelId {
    pub(crate) fn open(&self) -> Result<WeightSource, CheckpointError> {
        match self {
            Self::Folder(folder) => WeightSource::open(folder),
            Self::Dummy(spec, seed) => Ok(WeightSource::dummy((**spec).clone(), *seed)),
        }
    }

    /// The shape alone; there need be no weights.
    pub(crate) fn shape(&self) -> Result<ModelSpec, CheckpointError> {
        match self {
            Self::Folder(folder) => shape(folder),
            Self::Dummy(spec, _) => Ok((**spec).clone()),
        }
    }

    /// Finds what is wrong with it or with the degree, as far as that can be told without a device.
    pub(crate) fn check(&self, tp: usize) -> Result<(), LoadError> {
        ShardPlan::new(self.open()?.spec(), tp, Rank(0))?;
        Ok(())
    }
}

impl LoadRequest {
    /// What the rank is to hold of a model.
    pub(crate) fn plan(&self, spec: &ModelSpec) -> Result<ShardPlan, LoadError> {
        let plan = ShardPlan::new(spec, self.group.size, self.group.rank)?;
        Ok(plan.sharing_images(self.vision_parallel))
    }

    /// Blocks of the cache: those asked for, or those that `memory` bytes hold.
    pub(crate) fn blocks(&self, spec: &ModelSpec, plan: &ShardPlan, memory: u64) -> Result<u32, LoadError> {
        let (d, kv_heads) = (&spec.decoder, plan.kv_heads.len());
        let one = CacheShape { layers: d.layers, kv_heads, head_dim: d.head_dim, blocks: 1, dtype: self.formats.cache };
        let block = one.bytes() as u64;
        let room = u32::try_from(memory.checked_div(block).unwrap_or(0)).unwrap_or(u32::MAX);
        let asked = self.kv_blocks.unwrap_or(room);
        match asked {
            0 => Err(LoadError::NoRoom { memory, block }),
            asked if asked > room => Err(LoadError::TooManyBlocks { asked, block, memory }),
            asked => Ok(asked),
        }
    }
}

impl TryFrom<wire::ModelSource> for ModelId {
    type Error = Status;

    fn try_from(model: wire::ModelSource) -> Result<Self, Status> {
        Ok(match model.source.ok_or_else(|| bad_request("model", "missing"))? {
            Source::Folder(folder) => Self::Folder(folder.into()),
            Source::Dummy(dummy) => {
                let spec = serde_json::from_str(&dummy.model_spec);
                Self::Dummy(spec.map_err(|error| bad_request("model.dummy.model_spec", &error.to_string()))?, dummy.seed)
            }
        })
    }
}

impl TryFrom<wire::LoadRequest> for LoadRequest {
    type Error = Status;

    fn try_from(request: wire::LoadRequest) -> Result<Self, Status> {
        let fingerprint = request.fingerprint();
        let model = request.model.ok_or_else(|| bad_request("model", "missing"))?.try_into()?;
        let weights = format(&request.dtype, &request.quantization)?;
        let formats = Formats { weights, cache: cache_dtype(&request.kv_cache_dtype, weights.dtype)? };
        let vision_parallel = VisionParallel::from_str(&request.vision_parallel);
        let vision_parallel = vision_parallel.map_err(|error| bad_request("vision_parallel", &error.to_string()))?;
        let rank = u16::try_from(request.rank).map_err(|_| bad_request("rank", "out of range"))?;
        let collective = request.collective.ok_or_else(|| bad_request("collective", "missing"))?;
        let group = GroupConfig {
            transport: transport(&collective)?,
            group: collective.group,
            epoch: Epoch(request.epoch),
            rank: Rank(rank),
            size: request.tp as usize,
            deadline: match collective.deadline_ms {
                0 => GroupConfig::DEADLINE,
                ms => Duration::from_millis(ms.min(LONGEST_DEADLINE_MS)),
            },
        };
        let kv_blocks = (request.kv_blocks > 0).then_some(request.kv_blocks);
        Ok(Self { model, formats, vision_parallel, kv_blocks, group, fingerprint })
    }
}

fn format(dtype: &str, quantization: &str) -> Result<WeightFormat, Status> {
    let dtype = match dtype {
        "f32" => Dtype::F32,
        "bf16" => Dtype::Bf16,
        other => return Err(bad_request("dtype", &format!("`{other}` is neither f32 nor bf16"))),
    };
    let quantization = match (quantization, dtype) {
        ("", _) => None,
        ("fp8", Dtype::Bf16) => Some(Quantization::Fp8),
        ("fp8", Dtype::F32) => return Err(bad_request("quantization", "fp8 weights are made of bf16 ones, not of f32 ones")),
        (other, _) => return Err(bad_request("quantization", &format!("`{other}` is not fp8"))),
    };
    Ok(WeightFormat { dtype, quantization })
}

fn cache_dtype(name: &str, dtype: Dtype) -> Result<CacheDtype, Status> {
    let refused = |problem: &str| Err(bad_request("kv_cache_dtype", problem));
    match (name, dtype) {
        ("", _) => Ok(dtype.into()),
        ("fp8", Dtype::Bf16) => Ok(CacheDtype::Fp8),
        ("fp8", Dtype::F32) => refused("keys and values in fp8 are made of bf16 ones, not of f32 ones"),
        (other, _) => refused(&format!("`{other}` is not fp8")),
    }
}

fn transport(collective: &wire::Collective) -> Result<Transport, Status> {
    match collective.transport() {
        WireTransport::Shm => Ok(Transport::Shm),
        WireTransport::Tcp => {
            let parse = |(rank, address): (usize, &String)| {
                let field = format!("collective.addresses[{rank}]");
                address.parse().map_err(|_| bad_request(&field, &format!("`{address}` is not IP:PORT")))
            };
            Ok(Transport::Tcp { addresses: collective.addresses.iter().enumerate().map(parse).collect::<Result<_, _>>()? })
        }
        WireTransport::Nccl => {
            let id = NcclId::try_from(&*collective.nccl_id);
            let problem = || format!("must have {NCCL_ID_BYTES} bytes, has {}", collective.nccl_id.len());
            Ok(Transport::Nccl { id: id.map_err(|_| bad_request("collective.nccl_id", &problem()))? })
        }
        WireTransport::Unspecified => Err(bad_request("collective.transport", "missing")),
    }
}

#[cfg(test)]
mod tests {
    use tonic::Code;

    use super::*;

    #[test]
    fn what_is_wrong_with_a_model_is_found_without_a_device() {
        let code = |model: ModelId, tp| Status::from(model.check(tp).unwrap_err()).code();
        let shape = || ModelId::Dummy(Box::new(ModelSpec::bench_1b()), 0);
        assert_eq!(code(ModelId::Folder("/nowhere".into()), 2), Code::NotFound);
        assert_eq!(code(shape(), 3), Code::InvalidArgument);
        shape().check(2).unwrap();
    }
}
