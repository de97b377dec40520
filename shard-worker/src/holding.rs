//! What a rank holds: the weights on its device, kept from group to group as long as they fit.

use std::sync::{Arc, atomic::AtomicU64};
use std::time::{Duration, Instant};

use tessera_collective::{AbortHandle, CollectiveError, join_with};
use tessera_device::{
    CacheDtype, Device, DeviceError, Formats, WeightFormat,
    cpu::{CpuConfig, CpuDevice},
    cuda::{CudaConfig, CudaDevice},
    sim::SimConfig,
};
use tessera_model::{CacheConfig, Fingerprint, Model, ModelError, SimModel, SimSetup, shard_bytes};
use tessera_proto::internal::Loaded;
use tessera_types::{ModelSpec, Rank, ShardPlan, StepOutput, StepPlan};
use tracing::info;

use crate::{
    CudaWays, DeviceConfig,
    advice::{StepTokens, step_tokens},
    error::LoadError,
    guard::guarded,
    request::{LoadRequest, ModelId},
};

/// Weights on the device, with their cache.
pub(crate) struct Holding {
    forward: Forward,
    id: ModelId,
    /// As the files were when they were read; `None` where nothing was.
    weights: Option<Fingerprint>,
    formats: Formats,
    blocks: u32,
    fingerprint: String,
}

/// What runs the steps.
enum Forward {
    Cpu(Box<Model<CpuDevice>>),
    Cuda(Box<Model<CudaDevice>>),
    Sim(Box<SimModel>),
}

/// A device that runs the forward pass itself.
trait Computes: Device + Sized {
    fn forward(model: Model<Self>) -> Forward;
    /// The model that is held, if it is on such a device.
    fn model(forward: &mut Forward) -> Option<&mut Model<Self>>;
}

impl Computes for CpuDevice {
    fn forward(model: Model<Self>) -> Forward {
        Forward::Cpu(Box::new(model))
    }

    fn model(forward: &mut Forward) -> Option<&mut Model<Self>> {
        if let Forward::Cpu(model) = forward { Some(model) } else { None }
    }
}

impl Computes for CudaDevice {
    fn forward(model: Model<Self>) -> Forward {
        Forward::Cuda(Box::new(model))
    }

    fn model(forward: &mut Forward) -> Option<&mut Model<Self>> {
        if let Forward::Cuda(model) = forward { Some(model) } else { None }
    }
}

impl Holding {
    /// Joins the request's group and makes `held` what it asks for.
    pub(crate) fn load(
        held: &mut Option<Self>,
        request: &LoadRequest,
        abort: AbortHandle,
        device: &DeviceConfig,
        counter: &Arc<AtomicU64>,
        progress: &mut dyn FnMut(u64, u64),
    ) -> Result<Loaded, LoadError> {
        let loaded = match device {
            DeviceConfig::Cpu { .. } if request.formats.weights.quantization.is_some() => return Err(LoadError::Quantization),
            DeviceConfig::Cpu { .. } if request.formats.cache == CacheDtype::Fp8 => return Err(LoadError::KvCacheDtype),
            DeviceConfig::Cpu { threads, kv_memory } => {
                let config = CpuConfig { threads: *threads, dtype: request.formats.weights.dtype };
                Self::load_on(held, request, abort, |_| *kv_memory, || CpuDevice::new(config), progress)
            }
            DeviceConfig::Cuda { gpu, kernels, kv_memory, ways } => {
                let (ordinal, kernels) = (gpu.ordinal, kernels.clone());
                let CudaWays { graphs, overlap, peers } = *ways;
                let config = CudaConfig { ordinal, kernels, workspace: None, records: graphs, overlaps: overlap, peers };
                let left = |weights| kv_memory.unwrap_or_else(|| gpu.cache_memory(weights));
                Self::load_on(held, request, abort, left, || CudaDevice::new(&config, request.formats.weights), progress)
            }
            DeviceConfig::Sim { accelerator, kv_memory } => Self::load_sim(held, request, abort, *accelerator, *kv_memory),
        };
        match held.as_mut().map(|held| &mut held.forward) {
            Some(Forward::Cpu(model)) => model.count_progress(counter.clone()),
            Some(Forward::Cuda(model)) => model.count_progress(counter.clone()),
            Some(Forward::Sim(model)) => model.count_progress(counter.clone()),
            None => {}
        }
        let tokens = held.as_ref().map(|held| step_tokens(device, held.spec(), held.plan()));
        let StepTokens { advised, most } = tokens.unwrap_or_default();
        loaded.map(|loaded| Loaded { step_tokens: advised, most_step_tokens: most, ..loaded })
    }

    /// What is wrong with the request itself is found before any rank waits for another; the group is joined before the
    /// weights are read, since ranks that hold them already would else wait for those that read. `kv_memory` is told the
    /// bytes of the weights.
    fn load_on<D: Computes>(
        held: &mut Option<Self>,
        request: &LoadRequest,
        abort: AbortHandle,
        kv_memory: impl FnOnce(u64) -> u64,
        device: impl FnOnce() -> Result<D, DeviceError>,
        progress: &mut dyn FnMut(u64, u64),
    ) -> Result<Loaded, LoadError> {
        let source = request.model.open()?;
        let spec = source.spec();
        let plan = request.plan(spec)?;
        let blocks = request.blocks(spec, &plan, kv_memory(weight_bytes(spec, &plan, request.formats.weights)))?;
        let weights = Some(source.fingerprint());
        if let Some(model) = Self::fitting(held, request, weights, &plan, blocks).and_then(D::model) {
            model.join(join_with(&request.group, abort)?)?;
        } else {
            // The old weights must make room first, and a collective of devices needs the device.
            *held = None;
            let device = device().map_err(ModelError::from)?;
            let collective = join_with(&request.group, abort.clone())?;
            let cache = CacheConfig { blocks: blocks as usize, dtype: request.formats.cache };
            let (began, mut bytes) = (Instant::now(), 0);
            let mut progress = |done, total| {
                bytes = done;
                progress(done, total);
                if abort.is_aborted() { Err(CollectiveError::Aborted.into()) } else { Ok(()) }
            };
            let model = Model::load(&source, plan, device, collective, cache, &mut progress)?;
            tell_pace(bytes, source.bytes_read(), began.elapsed());
            *held = Some(Self::new(D::forward(model), request, weights, blocks));
        }
        loaded(held, spec, blocks, source.bytes_read())
    }

    /// Nothing is read, and no other rank is waited for.
    fn load_sim(
        held: &mut Option<Self>,
        request: &LoadRequest,
        abort: AbortHandle,
        accelerator: SimConfig,
        kv_memory: Option<u64>,
    ) -> Result<Loaded, LoadError> {
        let spec = request.model.shape()?;
        let plan = request.plan(&spec)?;
        let kv_memory = kv_memory
            .unwrap_or_else(|| accelerator.accelerator.cache_memory(weight_bytes(&spec, &plan, request.formats.weights)));
        let blocks = request.blocks(&spec, &plan, kv_memory)?;
        match Self::fitting(held, request, None, &plan, blocks) {
            Some(Forward::Sim(model)) => model.join(abort),
            _ => {
                let setup = SimSetup { device: accelerator, formats: request.formats, blocks: blocks as usize };
                let model = SimModel::new(spec.clone(), plan, setup, abort);
                *held = Some(Self::new(Forward::Sim(Box::new(model)), request, None, blocks));
            }
        }
        loaded(held, &spec, blocks, 0)
    }

    fn new(forward: Forward, request: &LoadRequest, weights: Option<Fingerprint>, blocks: u32) -> Self {
        let (id, formats, fingerprint) = (request.model.clone(), request.formats, request.fingerprint.clone());
        Self { forward, id, weights, formats, blocks, fingerprint }
    }

    /// What is held, if it is what a request asks for.
    fn fitting<'a>(
        held: &'a mut Option<Self>,
        request: &LoadRequest,
        weights: Option<Fingerprint>,
        plan: &ShardPlan,
        blocks: u32,
    ) -> Option<&'a mut Forward> {
        held.as_mut().filter(|held| held.fits(request, weights, plan, blocks)).map(|held| &mut held.forward)
    }

    /// Whether the weights are those of a request, and the cache.
    fn fits(&self, request: &LoadRequest, weights: Option<Fingerprint>, plan: &ShardPlan, blocks: u32) -> bool {
        self.id == request.model
            && self.weights == weights
            && self.formats == request.formats
            && self.plan() == plan
            && self.blocks == blocks
    }

    /// Whether a step can be begun while those begun before are open.
    pub(crate) fn is_followed_by(&self, plan: &StepPlan) -> bool {
        match &self.forward {
            Forward::Cpu(model) => model.is_followed_by(plan),
            Forward::Cuda(model) => model.is_followed_by(plan),
            // Its steps are never open.
            Forward::Sim(_) => true,
        }
    }

    /// Begins a step, which came at `given`, of the group last joined. `None` while it is open. A panic is an error like any
    /// other, here and below.
    pub(crate) fn begin(&mut self, plan: &StepPlan, given: Instant) -> Result<Option<StepOutput>, ModelError> {
        unpanicked(|| match &mut self.forward {
            Forward::Cpu(model) => model.begin(plan),
            Forward::Cuda(model) => model.begin(plan),
            Forward::Sim(model) => model.step(plan, given).map(Some),
        })
    }

    /// Waits until the first open step can be ended, which is true, or until `tired` says true.
    pub(crate) fn wait(&mut self, tired: &mut dyn FnMut() -> bool) -> Result<bool, ModelError> {
        unpanicked(|| match &mut self.forward {
            Forward::Cpu(model) => model.wait(tired),
            Forward::Cuda(model) => model.wait(tired),
            Forward::Sim(_) => Ok(true),
        })
    }

    /// Ends the first open step.
    pub(crate) fn end(&mut self) -> Result<StepOutput, ModelError> {
        unpanicked(|| match &mut self.forward {
            Forward::Cpu(model) => model.end(),
            Forward::Cuda(model) => model.end(),
            Forward::Sim(_) => Err(CollectiveError::Aborted.into()),
        })
    }

    /// Leaves the group last joined and keeps the weights.
    pub(crate) fn leave(&mut self) -> Result<(), ModelError> {
        match &mut self.forward {
            Forward::Cpu(model) => model.leave(),
            Forward::Cuda(model) => model.leave(),
            // Its ranks join no collective.
            Forward::Sim(_) => Ok(()),
        }
    }

    fn spec(&self) -> &ModelSpec {
        match &self.forward {
            Forward::Cpu(model) => model.spec(),
            Forward::Cuda(model) => model.spec(),
            Forward::Sim(model) => model.spec(),
        }
    }

    fn plan(&self) -> &ShardPlan {
        match &self.forward {
            Forward::Cpu(model) => model.plan(),
            Forward::Cuda(model) => model.plan(),
            Forward::Sim(model) => model.plan(),
        }
    }

    pub(crate) fn rank(&self) -> Rank {
        self.plan().rank
    }

    /// Whether small sums over ranks go through the devices' own memory.
    pub(crate) fn has_peers(&self) -> bool {
        matches!(&self.forward, Forward::Cuda(model) if model.has_peers())
    }

    /// Model, format, degree, rank, and how images are shared.
    pub(crate) fn fingerprint(&self) -> &str {
        &self.fingerprint
    }

    pub(crate) fn weight_bytes(&self) -> u64 {
        weight_bytes(self.spec(), self.plan(), self.formats.weights)
    }
}

fn unpanicked<T>(work: impl FnOnce() -> Result<T, ModelError>) -> Result<T, ModelError> {
    guarded(work).unwrap_or_else(|panic| Err(DeviceError::Thread(panic).into()))
}

/// Bytes of the weights that a rank holds.
pub(crate) fn weight_bytes(spec: &ModelSpec, plan: &ShardPlan, format: WeightFormat) -> u64 {
    shard_bytes(spec, plan, format) as u64
}

/// Logs how fast weights came onto the device, whether they were read or made up.
fn tell_pace(bytes: u64, bytes_read: u64, took: Duration) {
    let (gigabytes, seconds) = (bytes as f64 / 1e9, took.as_secs_f64());
    let how = if bytes_read > 0 { "read" } else { "made up" };
    info!(bytes, seconds, "weights were {how}: {gigabytes:.2} GB in {seconds:.2} s, {:.2} GB/s", gigabytes / seconds);
}

fn loaded(held: &Option<Holding>, spec: &ModelSpec, kv_blocks: u32, bytes_read: u64) -> Result<Loaded, LoadError> {
    let weight_bytes = held.as_ref().map_or(0, Holding::weight_bytes);
    let weights = held.as_ref().and_then(|held| held.weights);
    let model_fingerprint = weights.map(|weights| weights.to_string()).unwrap_or_default();
    let model_spec = serde_json::to_string(spec)?;
    Ok(Loaded { kv_blocks, model_spec, weight_bytes, bytes_read, model_fingerprint, ..Loaded::default() })
}
