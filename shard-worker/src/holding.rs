//! What a rank holds: the weights on its device, kept from group to group as long as they fit.

use tessera_collective::{AbortHandle, CollectiveError, join_with};
use tessera_device::{
    DeviceError, Dtype,
    cpu::{CpuConfig, CpuDevice},
};
use tessera_model::{CacheConfig, Fingerprint, Model, ModelError, shard_parameters};
use tessera_proto::internal::Loaded;
use tessera_types::{Rank, ShardPlan, StepOutput, StepPlan};

use crate::{
    error::LoadError,
    guard::guarded,
    request::{LoadRequest, ModelId, element_bytes},
};

/// Weights on the device, with their cache.
pub(crate) struct Holding {
    model: Model<CpuDevice>,
    id: ModelId,
    /// As the files were when they were read.
    weights: Fingerprint,
    dtype: Dtype,
    blocks: u32,
    fingerprint: String,
}

/// What the device is given.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Resources {
    pub(crate) threads: usize,
    pub(crate) kv_memory: u64,
}

impl Holding {
    /// Joins the request's group and makes `held` what it asks for. What is wrong with the request itself is found before
    /// any rank waits for another; the group is joined before the weights are read, since ranks that hold
    /// them already would else wait for those that read.
    pub(crate) fn load(
        held: &mut Option<Self>,
        request: &LoadRequest,
        abort: AbortHandle,
        resources: Resources,
        progress: &mut dyn FnMut(u64, u64),
    ) -> Result<Loaded, LoadError> {
        let source = request.model.open()?;
        let spec = source.spec();
        let plan = ShardPlan::new(spec, request.group.size, request.group.rank)?;
        let blocks = request.blocks(spec, &plan, resources.kv_memory)?;
        let weights = source.fingerprint();
        let collective = join_with(&request.group, abort.clone())?;
        match held {
            Some(held) if held.fits(request, weights, &plan, blocks) => held.model.join(collective)?,
            _ => {
                // The old weights must make room first.
                *held = None;
                let device = CpuDevice::new(CpuConfig { threads: resources.threads, dtype: request.dtype });
                let cache = CacheConfig { blocks: blocks as usize, dtype: request.dtype };
                let mut progress = |done, total| {
                    progress(done, total);
                    if abort.is_aborted() { Err(CollectiveError::Aborted.into()) } else { Ok(()) }
                };
                let model = Model::load(&source, plan, device.map_err(ModelError::from)?, collective, cache, &mut progress)?;
                let (id, dtype, fingerprint) = (request.model.clone(), request.dtype, request.fingerprint());
                *held = Some(Self { model, id, weights, dtype, blocks, fingerprint });
            }
        }
        Ok(Loaded {
            kv_blocks: blocks,
            model_spec: serde_json::to_string(spec)?,
            weight_bytes: held.as_ref().map_or(0, Self::weight_bytes),
            bytes_read: source.bytes_read(),
            model_fingerprint: weights.to_string(),
        })
    }

    /// Whether the weights are those of a request.
    fn fits(&self, request: &LoadRequest, weights: Fingerprint, plan: &ShardPlan, blocks: u32) -> bool {
        self.id == request.model
            && self.weights == weights
            && self.dtype == request.dtype
            && self.model.plan() == plan
            && self.blocks == blocks
    }

    /// Runs a step of the group last joined; a panic is an error like any other.
    pub(crate) fn step(&mut self, plan: &StepPlan) -> Result<StepOutput, ModelError> {
        guarded(|| self.model.step(plan)).unwrap_or_else(|panic| Err(DeviceError::Thread(panic).into()))
    }

    pub(crate) fn rank(&self) -> Rank {
        self.model.plan().rank
    }

    /// Model, dtype, degree and rank.
    pub(crate) fn fingerprint(&self) -> &str {
        &self.fingerprint
    }

    pub(crate) fn weight_bytes(&self) -> u64 {
        (shard_parameters(self.model.spec(), self.model.plan()) * element_bytes(self.dtype)) as u64
    }
}
