//! The thread that owns the device, the model and the collective.

use std::{
    sync::Arc,
    thread,
    time::Instant,
};

use tessera_collective::join;
use tessera_device::{
    Dtype,
    cpu::{CpuConfig, CpuDevice},
};
use tessera_model::{CacheConfig, Model, ModelError, shard_parameters};
use tessera_proto::internal::{self as wire, step_failure::Kind};
use tessera_service::metrics as names;
use tessera_types::{Epoch, ModelSpec, Rank, ShardPlan, StepPlan, StepTimings};
use tokio::sync::{mpsc, oneshot};
use tonic::Status;
use tracing::{info, warn};

use crate::{
    fence::Fence,
    load::{LoadError, LoadRequest, ModelId},
};

/// Commands that may wait; coordinators have two plans under way.
const COMMANDS: usize = 8;

/// What the thread is told.
pub(crate) enum Command {
    Load { request: Box<LoadRequest>, progress: mpsc::Sender<Result<wire::LoadEvent, Status>>, done: oneshot::Sender<Loaded> },
    Step { plan: Box<StepPlan>, results: mpsc::Sender<Result<wire::StepResult, Status>> },
    /// Leaves the group of an epoch; weights stay.
    Leave(Epoch),
}

/// What was loaded.
#[derive(Clone, Debug)]
pub(crate) struct Loaded {
    pub(crate) rank: Rank,
    pub(crate) fingerprint: String,
    pub(crate) weight_bytes: u64,
}

/// A channel to the thread.
pub(crate) type Commands = mpsc::Sender<Command>;

/// Starts the thread; it ends when the channel is dropped.
pub(crate) fn start(threads: usize, kv_memory: u64, fence: Arc<Fence>) -> std::io::Result<Commands> {
    let (sender, mut commands) = mpsc::channel(COMMANDS);
    let mut owner = Owner { threads, kv_memory, fence, held: None, group: None };
    thread::Builder::new().name("rank".into()).spawn(move || {
        while let Some(command) = commands.blocking_recv() {
            owner.obey(command);
        }
    })?;
    Ok(sender)
}

struct Owner {
    threads: usize,
    kv_memory: u64,
    fence: Arc<Fence>,
    held: Option<Held>,
    /// The group that `held` runs in; `None` while it is in none that works.
    group: Option<Epoch>,
}

/// Weights on the device.
struct Held {
    model: Model<CpuDevice>,
    id: ModelId,
    dtype: Dtype,
    blocks: usize,
}

impl Held {
    /// Whether the weights are those of a request.
    fn fits(&self, request: &LoadRequest, plan: &ShardPlan, blocks: usize) -> bool {
        self.id == request.model && self.dtype == request.dtype && self.model.plan() == plan && self.blocks == blocks
    }
}

impl Owner {
    fn obey(&mut self, command: Command) {
        match command {
            Command::Load { request, progress, done } => {
                let event = match self.load(&request, &progress) {
                    Ok((loaded, event)) => {
                        // Nobody waits for it only when the process ends.
                        let _ = done.send(loaded);
                        Ok(wire::LoadEvent { event: Some(wire::load_event::Event::Loaded(event)) })
                    }
                    Err(error) => {
                        warn!(%error, "loading failed");
                        self.fence.release(request.epoch);
                        Err(error.into())
                    }
                };
                answer(&progress, event);
            }
            Command::Step { plan, results } => {
                let result = self.step(&plan);
                answer(&results, Ok(result));
            }
            Command::Leave(epoch) => {
                if self.group == Some(epoch) {
                    self.group = None;
                }
            }
        }
    }

    fn load(
        &mut self,
        request: &LoadRequest,
        progress: &mpsc::Sender<Result<wire::LoadEvent, Status>>,
    ) -> Result<(Loaded, wire::Loaded), LoadError> {
        self.group = None;
        let start = Instant::now();
        let source = request.model.open()?;
        let spec = source.spec().clone();
        let plan = ShardPlan::new(&spec, request.tp, request.rank)?;
        let blocks = request.blocks(&spec, &plan, self.kv_memory)?;
        let collective = join(&request.group)?;
        self.fence.hold(request.epoch, collective.abort_handle());
        match &mut self.held {
            Some(held) if held.fits(request, &plan, blocks) => held.model.join(collective)?,
            _ => {
                // The old weights must make room first.
                self.held = None;
                let device = CpuDevice::new(CpuConfig { threads: self.threads, dtype: request.dtype }).map_err(ModelError::from)?;
                let cache = CacheConfig { blocks, dtype: request.dtype };
                let mut report = |bytes_done, bytes_total| {
                    let event = wire::load_event::Event::Progress(wire::LoadProgress { bytes_done, bytes_total });
                    // Progress that nobody reads in time is overtaken by what follows.
                    let _ = progress.try_send(Ok(wire::LoadEvent { event: Some(event) }));
                };
                let model = Model::load(&source, plan.clone(), device, collective, cache, &mut report)?;
                self.held = Some(Held { model, id: request.model.clone(), dtype: request.dtype, blocks });
            }
        }
        self.group = Some(request.epoch);
        let (weight_bytes, bytes_read) = (weight_bytes(&spec, &plan, request.dtype), source.bytes_read());
        metrics::gauge!(names::RANK_WEIGHT_BYTES, "rank" => request.rank.to_string()).set(weight_bytes as f64);
        info!(epoch = %request.epoch, rank = %request.rank, tp = request.tp, bytes_read, blocks, "loaded in {:.1?}", start.elapsed());
        let model_spec = serde_json::to_string(&spec).unwrap_or_default();
        let fingerprint = format!("{:?} {:?} tp {} rank {}", request.model, request.dtype, request.tp, request.rank);
        let loaded = Loaded { rank: request.rank, fingerprint, weight_bytes };
        Ok((loaded, wire::Loaded { kv_blocks: blocks as u32, model_spec, weight_bytes, bytes_read }))
    }

    fn step(&mut self, plan: &StepPlan) -> wire::StepResult {
        let mut result = wire::StepResult { epoch: plan.epoch.0, step: plan.step.0, failure: None, output: None };
        let failure = |kind: Kind, message: String| Some(wire::StepFailure { kind: kind.into(), message });
        let running = self.held.as_mut().filter(|_| self.group == Some(plan.epoch));
        let Some(held) = running else {
            let now = self.group.map_or("in no group".to_owned(), |epoch| format!("in the group of epoch {epoch}"));
            result.failure = failure(Kind::Epoch, format!("a plan of epoch {}, but this worker is {now}", plan.epoch));
            return result;
        };
        match held.model.step(plan) {
            Ok(output) => {
                measure(output.timings);
                result.output = (held.model.plan().rank == Rank(0)).then(|| wire::StepOutput::from(&output));
            }
            Err(error) => {
                let kind = match &error {
                    ModelError::Plan(_) => Kind::Plan,
                    ModelError::Collective(_) => Kind::Collective,
                    _ => Kind::Device,
                };
                warn!(%error, step = %plan.step, "a step failed");
                result.failure = failure(kind, error.to_string());
                // The other ranks must not wait for this one.
                self.group = None;
                self.fence.release(plan.epoch);
            }
        }
        result
    }
}

/// Answers without waiting: a caller that takes no answers has given up.
fn answer<T>(caller: &mpsc::Sender<Result<T, Status>>, message: Result<T, Status>) {
    if caller.try_send(message).is_err() {
        warn!("nobody took an answer");
    }
}

fn measure(timings: StepTimings) {
    let StepTimings { encode_us, forward_us, sample_us, collective_us } = timings;
    for (stage, us) in [("encode", encode_us), ("forward", forward_us), ("sample", sample_us), ("collective", collective_us)] {
        metrics::histogram!(names::RANK_STAGE_SECONDS, "stage" => stage).record(us as f64 / 1e6);
    }
}

fn weight_bytes(spec: &ModelSpec, plan: &ShardPlan, dtype: Dtype) -> u64 {
    let element = if dtype == Dtype::F32 { 4 } else { 2 };
    shard_parameters(spec, plan) as u64 * element
}

