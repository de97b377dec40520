//! Makes step plans as a coordinator would, and runs groups of ranks as threads.

use std::collections::HashMap;
use std::path::Path;

use tessera_device::Dtype;
use tessera_device::cpu::{CpuConfig, CpuDevice};
use tessera_model::{CacheConfig, Model, ModelError, WeightSource};
use tessera_types::{
    BLOCK_TOKENS, BlockId, Chunk, Epoch, Rank, SamplingParams, SequenceId, SequenceStart, ShardPlan, StepId, StepOutput, StepPlan,
};

use crate::cases::Case;

pub const BLOCKS: usize = 600;

/// Runs `work` on every rank of a group over a checkpoint; the results in rank order.
pub fn group<R: Send>(folder: &Path, tp: usize, dtype: Dtype, work: impl Fn(&mut Model<CpuDevice>) -> R + Sync) -> Vec<R> {
    group_of(&WeightSource::open(folder).unwrap(), tp, dtype, work)
}

/// The same over any weights.
pub fn group_of<R: Send>(source: &WeightSource, tp: usize, dtype: Dtype, work: impl Fn(&mut Model<CpuDevice>) -> R + Sync) -> Vec<R> {
    let collectives = tessera_collective::shm::threads(tp).unwrap();
    std::thread::scope(|scope| {
        let work = &work;
        let spawn = |collective| {
            scope.spawn(move || {
                let mut model = load(source, tp, collective, dtype).unwrap();
                work(&mut model)
            })
        };
        let ranks: Vec<_> = collectives.into_iter().map(spawn).collect();
        ranks.into_iter().map(|rank| rank.join().unwrap()).collect()
    })
}

/// One rank's model.
pub fn load(
    source: &WeightSource,
    tp: usize,
    collective: Box<dyn tessera_collective::Collective>,
    dtype: Dtype,
) -> Result<Model<CpuDevice>, ModelError> {
    let plan = ShardPlan::new(source.spec(), tp, collective.rank()).unwrap();
    let device = CpuDevice::new(CpuConfig { threads: 1, dtype }).unwrap();
    Model::load(source, plan, device, collective, CacheConfig { blocks: BLOCKS, dtype }, &mut |_, _| {})
}

/// A model of one rank.
pub fn alone(source: &WeightSource, dtype: Dtype) -> Model<CpuDevice> {
    let collective = tessera_collective::Solo::default();
    let plan = ShardPlan::new(source.spec(), 1, Rank(0)).unwrap();
    let device = CpuDevice::new(CpuConfig { threads: 1, dtype }).unwrap();
    Model::load(source, plan, device, Box::new(collective), CacheConfig { blocks: BLOCKS, dtype }, &mut |_, _| {}).unwrap()
}

/// A plan that does nothing.
pub fn empty_plan(step: u64) -> StepPlan {
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
pub fn start(id: u64, case: &Case, sampling: SamplingParams) -> SequenceStart {
    SequenceStart {
        sequence: SequenceId(id),
        tokens: case.ids.clone(),
        prompt_len: case.ids.len() as u32,
        images: case.placed.clone(),
        sampling,
    }
}

/// Greedy, with five log-probabilities.
pub fn greedy() -> SamplingParams {
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
pub struct Driver {
    pub plan: StepPlan,
    running: HashMap<SequenceId, Running>,
    next_block: u32,
}

impl Driver {
    pub fn new() -> Self {
        Self { plan: empty_plan(1), running: HashMap::new(), next_block: 0 }
    }

    pub fn start(&mut self, start: SequenceStart) {
        self.running.insert(start.sequence, Running { known: start.tokens.len(), cached: 0, blocks: 0 });
        self.plan.start.push(start);
    }

    /// Tokens of a sequence that are not in the cache.
    pub fn left(&self, id: u64) -> usize {
        let running = &self.running[&SequenceId(id)];
        running.known - running.cached
    }

    /// Adds a chunk of at most `most` tokens; it samples if it reaches the last one known.
    pub fn chunk(&mut self, id: u64, most: usize) {
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
    pub fn step(&mut self, model: &mut Model<CpuDevice>, observe: &mut dyn FnMut(SequenceId, u32, &[f32])) -> StepOutput {
        let next = empty_plan(self.plan.step.0 + 1);
        let plan = std::mem::replace(&mut self.plan, next);
        model.step_observed(&plan, observe).unwrap()
    }
}
