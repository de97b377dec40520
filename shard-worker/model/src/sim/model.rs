//! The simulated rank.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use tessera_collective::{AbortHandle, CollectiveError};
use tessera_device::Formats;
use tessera_device::sim::{ChunkWork, Clock, Roofline, SimConfig, Work};
use tessera_types::{
    BLOCK_TOKENS, ImageKey, ModelSpec, PromptLogprobs, Rank, Sampled, SamplingParams, SequenceId, SequenceStart, ShardPlan,
    StepOutput, StepPlan, StepTimings, special,
};

use super::answers::Candidates;
use super::context::Context;
use crate::batch::{Batch, LogitsRow, Purpose};
use crate::check::Checker;
use crate::error::{ModelError, PlanError};
use crate::ledger::Ledger;
use crate::sampling::Sampler;
use crate::sequences::{self, Sequences};
use crate::step::micros;

/// A wait looks this often whether its group has ended.
const NAP: Duration = Duration::from_millis(50);

/// What is simulated.
#[derive(Clone, Copy, Debug)]
pub struct SimSetup {
    /// The accelerator.
    pub device: SimConfig,
    /// What weights and cache would be kept in.
    pub formats: Formats,
    /// Blocks the cache would have.
    pub blocks: usize,
}

/// One rank of a model of which nothing is loaded.
pub struct SimModel {
    spec: ModelSpec,
    plan: ShardPlan,
    blocks: usize,
    positions: usize,
    roofline: Roofline,
    clock: Clock,
    abort: AbortHandle,
    sequences: Sequences,
    ledger: Ledger,
    /// Patches of each image that was encoded.
    images: HashMap<ImageKey, usize>,
    /// On rank 0, which alone answers.
    voices: HashMap<SequenceId, Voice>,
    sampler: Sampler,
    progress: Arc<AtomicU64>,
}

/// How a sequence's answers are made up.
struct Voice {
    context: Context,
    /// Without the parameters that name tokens: candidates have places instead of ids.
    params: SamplingParams,
}

impl Voice {
    fn new(start: &SequenceStart) -> Self {
        let params = SamplingParams { stop_tokens: Vec::new(), logit_bias: Vec::new(), ..start.sampling.clone() };
        Self { context: Context::new(&start.images), params }
    }
}

impl SimModel {
    /// A rank that holds the slice `plan`; `abort` ends what it waits for.
    pub fn new(spec: ModelSpec, plan: ShardPlan, setup: SimSetup, abort: AbortHandle) -> Self {
        let roofline = Roofline::new(setup.device, &spec, &plan, setup.formats);
        Self {
            blocks: setup.blocks,
            positions: spec.max_context.min(setup.blocks * BLOCK_TOKENS),
            roofline,
            clock: Clock::new(Instant::now()),
            abort,
            sequences: Sequences::new(),
            ledger: Ledger::new(setup.blocks),
            images: HashMap::new(),
            voices: HashMap::new(),
            sampler: Sampler::default(),
            progress: Arc::default(),
            spec,
            plan,
        }
    }

    /// Joins a new group, which `abort` ends: forgets every sequence and image.
    pub fn join(&mut self, abort: AbortHandle) {
        self.abort = abort;
        self.clock = Clock::new(Instant::now());
        self.sequences.clear();
        self.ledger.clear();
        self.images.clear();
        self.voices.clear();
    }

    /// Counts on `progress`, many times a long step, while steps get on.
    pub fn count_progress(&mut self, progress: Arc<AtomicU64>) {
        self.progress = progress;
    }

    /// The model's shape.
    pub fn spec(&self) -> &ModelSpec {
        &self.spec
    }

    /// The slice this rank stands for.
    pub fn plan(&self) -> &ShardPlan {
        &self.plan
    }

    /// Takes the time of a step that came at `given`, and answers as [`crate::Model::step`] does.
    pub fn step(&mut self, plan: &StepPlan, given: Instant) -> Result<StepOutput, ModelError> {
        self.checker().check(plan)?;
        self.apply(plan);
        let batch = Batch::new(&plan.chunks, &self.sequences)?;
        let time = self.roofline.step(&work(plan, &batch));
        let mut output = StepOutput { epoch: plan.epoch, step: plan.step, ..StepOutput::default() };
        for row in &batch.logits {
            self.answer(row, &mut output)?;
        }
        self.ledger.settle(plan, &self.sequences);
        sequences::advance(&mut self.sequences, plan);
        sequences::push(&mut self.sequences, &output.sampled);
        output.timings = StepTimings {
            encode_us: micros(time.encode),
            forward_us: micros(time.forward),
            sample_us: 0,
            collective_us: micros(time.collective),
        };
        let end = self.clock.occupy(given, time.total());
        self.wait_until(end)?;
        Ok(output)
    }

    fn checker(&self) -> Checker<'_> {
        Checker {
            spec: &self.spec,
            blocks: self.blocks,
            positions: self.positions,
            sequences: &self.sequences,
            ledger: &self.ledger,
            images: self.images.clone(),
        }
    }

    fn apply(&mut self, plan: &StepPlan) {
        self.ledger.apply(plan, &self.sequences);
        for key in &plan.forget_images {
            self.images.remove(key);
        }
        self.images.extend(plan.encode.iter().map(|image| (image.key, image.grid.patches())));
        for id in &plan.end {
            self.voices.remove(id);
        }
        if self.is_first() {
            self.voices.extend(plan.start.iter().map(|start| (start.sequence, Voice::new(start))));
        }
        sequences::apply(&mut self.sequences, plan);
    }

    fn is_first(&self) -> bool {
        self.plan.rank == Rank(0)
    }

    fn answer(&mut self, row: &LogitsRow, output: &mut StepOutput) -> Result<(), ModelError> {
        let LogitsRow { sequence: id, position, purpose, .. } = *row;
        let unknown = || PlanError::UnknownSequence(id);
        if !self.is_first() {
            if purpose == Purpose::Sample {
                // A token's place: nobody hears what this rank would say.
                output.sampled.push(Sampled { sequence: id, token: special::UNKNOWN, logprob: None });
            }
            return Ok(());
        }
        let sequence = self.sequences.get(&id).ok_or_else(unknown)?;
        let voice = self.voices.get_mut(&id).ok_or_else(unknown)?;
        let next = position + 1;
        let context = voice.context.of(&sequence.tokens, next as usize);
        let candidates = Candidates::new(context, self.spec.decoder.vocab_size, &sequence.sampling.stop_tokens);
        let asked = voice.params.logprobs;
        if purpose == Purpose::Sample {
            let token = candidates.choose(&mut self.sampler, &voice.params, next);
            let logprob = asked.generated.map(|top| candidates.describe(token, top));
            output.sampled.push(Sampled { sequence: id, token, logprob });
            return Ok(());
        }
        let described = candidates.describe(sequence.tokens[next as usize], asked.prompt.unwrap_or(0));
        match output.prompt_logprobs.last_mut().filter(|last| last.sequence == id) {
            Some(last) => last.tokens.push(described),
            None => output.prompt_logprobs.push(PromptLogprobs { sequence: id, start: next, tokens: vec![described] }),
        }
        Ok(())
    }

    fn wait_until(&self, end: Instant) -> Result<(), ModelError> {
        loop {
            if self.abort.is_aborted() {
                return Err(CollectiveError::Aborted.into());
            }
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(());
            }
            thread::sleep(left.min(NAP));
            self.progress.fetch_add(1, Ordering::Relaxed);
        }
    }
}

fn work(plan: &StepPlan, batch: &Batch) -> Work {
    Work {
        images: plan.encode.iter().map(|image| image.grid.patches()).collect(),
        chunks: plan.chunks.iter().map(|chunk| ChunkWork { start: chunk.start as usize, len: chunk.len as usize }).collect(),
        logits: batch.logits.len(),
    }
}
