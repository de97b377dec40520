//! Makes step plans as a coordinator would, and runs groups of ranks as threads.

use std::collections::HashMap;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tessera_collective::{Collective, GroupConfig, Solo, Transport};
use tessera_device::cpu::{CpuConfig, CpuDevice};
use tessera_device::{Device, Dtype};
use tessera_model::{CacheConfig, Model, ModelError, WeightSource};
use tessera_types::{
    BLOCK_TOKENS, BlockId, Chunk, Epoch, Rank, SamplingParams, SequenceId, SequenceStart, ShardPlan, StepId, StepOutput,
    StepPlan, VisionParallel,
};

use crate::cases::Case;

pub(crate) const BLOCKS: usize = 600;

/// Runs `work` on every rank of a group over a checkpoint; the results in rank order.
pub(crate) fn group<R: Send>(folder: &Path, tp: usize, dtype: Dtype, work: impl Fn(&mut Model<CpuDevice>) -> R + Sync) -> Vec<R> {
    group_of(&WeightSource::open(folder).unwrap(), tp, dtype, work)
}

/// The same over any weights.
pub(crate) fn group_of<R: Send>(
    source: &WeightSource,
    tp: usize,
    dtype: Dtype,
    work: impl Fn(&mut Model<CpuDevice>) -> R + Sync,
) -> Vec<R> {
    group_sharing(source, tp, dtype, VisionParallel::Tensor, work)
}

/// The same, images shared in some way.
pub(crate) fn group_sharing<R: Send>(
    source: &WeightSource,
    tp: usize,
    dtype: Dtype,
    parallel: VisionParallel,
    work: impl Fn(&mut Model<CpuDevice>) -> R + Sync,
) -> Vec<R> {
    static GROUPS: AtomicU64 = AtomicU64::new(0);
    let name = format!("model-test-{}-{}", std::process::id(), GROUPS.fetch_add(1, Ordering::Relaxed));
    let config = |rank: usize| GroupConfig {
        group: name.clone(),
        epoch: Epoch(1),
        rank: Rank(rank as u16),
        size: tp,
        transport: Transport::Shm,
        deadline: Duration::from_secs(120),
    };
    std::thread::scope(|scope| {
        let work = &work;
        let spawn = |config: GroupConfig| {
            scope.spawn(move || {
                let collective = tessera_collective::join(&config).unwrap();
                work(&mut load_sharing(source, tp, collective, dtype, parallel).unwrap())
            })
        };
        let ranks: Vec<_> = (0..tp).map(config).map(spawn).collect();
        ranks.into_iter().map(|rank| rank.join().unwrap()).collect()
    })
}

/// One rank's model.
pub(crate) fn load(
    source: &WeightSource,
    tp: usize,
    collective: Box<dyn Collective>,
    dtype: Dtype,
) -> Result<Model<CpuDevice>, ModelError> {
    load_sharing(source, tp, collective, dtype, VisionParallel::Tensor)
}

fn load_sharing(
    source: &WeightSource,
    tp: usize,
    collective: Box<dyn Collective>,
    dtype: Dtype,
    parallel: VisionParallel,
) -> Result<Model<CpuDevice>, ModelError> {
    let plan = ShardPlan::new(source.spec(), tp, collective.rank()).unwrap().sharing_images(parallel);
    let device = CpuDevice::new(CpuConfig { threads: 1, dtype }).unwrap();
    Model::load(source, plan, device, collective, CacheConfig { blocks: BLOCKS, dtype: dtype.into() }, &mut |_, _| Ok(()))
}

/// A model of one rank.
pub(crate) fn alone(source: &WeightSource, dtype: Dtype) -> Model<CpuDevice> {
    load(source, 1, Box::new(Solo::default()), dtype).unwrap()
}

/// A plan that does nothing.
pub(crate) fn empty_plan(step: u64) -> StepPlan {
    StepPlan {
        epoch: Epoch(1),
        step: StepId(step),
        end: Vec::new(),
        forget_images: Vec::new(),
        start: Vec::new(),
        encode: Vec::new(),
        chunks: Vec::new(),
    }
}

/// A start of a case.
pub(crate) fn start(id: u64, case: &Case, sampling: SamplingParams) -> SequenceStart {
    SequenceStart {
        sequence: SequenceId(id),
        tokens: case.ids.clone(),
        prompt_len: case.ids.len() as u32,
        images: case.placed.clone(),
        sampling,
    }
}

/// Greedy, with five log-probabilities.
pub(crate) fn greedy() -> SamplingParams {
    let mut params = SamplingParams { temperature: 0.0, ..SamplingParams::default() };
    params.logprobs.generated = Some(5);
    params
}

/// What a coordinator knows of a running sequence.
struct Running {
    known: usize,
    cached: usize,
    blocks: usize,
}

/// Builds plans: hands out blocks and counts positions.
pub(crate) struct Driver {
    pub(crate) plan: StepPlan,
    running: HashMap<SequenceId, Running>,
    next_block: u32,
}

impl Driver {
    pub(crate) fn new() -> Self {
        Self::at(1)
    }

    /// Goes on with a model that has run others' steps.
    pub(crate) fn at(step: u64) -> Self {
        Self { plan: empty_plan(step), running: HashMap::new(), next_block: 0 }
    }

    pub(crate) fn start(&mut self, start: SequenceStart) {
        self.running.insert(start.sequence, Running { known: start.tokens.len(), cached: 0, blocks: 0 });
        self.plan.start.push(start);
    }

    /// Tokens of a sequence that are not in the cache.
    pub(crate) fn left(&self, id: u64) -> usize {
        let running = &self.running[&SequenceId(id)];
        running.known - running.cached
    }

    /// Adds a chunk of at most `most` tokens; it samples if it reaches the last one known.
    pub(crate) fn chunk(&mut self, id: u64, most: usize) {
        let sequence = SequenceId(id);
        let running = self.running.get_mut(&sequence).unwrap();
        let len = most.min(running.known - running.cached);
        let end = running.cached + len;
        let new = end.div_ceil(BLOCK_TOKENS) - running.blocks;
        let new_blocks = (self.next_block..self.next_block + new as u32).map(BlockId).collect();
        self.next_block += new as u32;
        let sample = end == running.known;
        self.plan.chunks.push(Chunk { sequence, start: running.cached as u32, len: len as u32, new_blocks, sample });
        (running.cached, running.blocks) = (end, end.div_ceil(BLOCK_TOKENS));
        running.known += usize::from(sample);
    }

    /// Runs the plan and begins the next one.
    pub(crate) fn step<D: Device>(
        &mut self,
        model: &mut Model<D>,
        observe: &mut dyn FnMut(SequenceId, u32, &[f32]),
    ) -> StepOutput {
        model.step_observed(&self.take(), observe).unwrap()
    }

    /// Runs the plan with nobody looking on, as a worker does, and begins the next one.
    pub(crate) fn step_unseen<D: Device>(&mut self, model: &mut Model<D>) -> StepOutput {
        model.step(&self.take()).unwrap()
    }

    /// The plan, and begins the next one.
    pub(crate) fn take(&mut self) -> StepPlan {
        let next = empty_plan(self.plan.step.0 + 1);
        std::mem::replace(&mut self.plan, next)
    }
}
