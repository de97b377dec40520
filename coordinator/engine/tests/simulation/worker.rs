//! A worker that panics on any plan that contradicts what it knows. Its cache holds, for each position, a hash of
//! everything up to it, so a block shared or reused by mistake shows: before it computes on, a sequence finds at each of
//! its positions what its own tokens make, and it writes where nobody else reads.

use std::collections::{HashMap, HashSet};

use tessera_engine::EngineConfig;
use tessera_types::{
    BLOCK_TOKENS, BlockId, Chunk, Epoch, Grid, ImageKey, PromptLogprobs, Sampled, SequenceId, SequenceStart, StepId, StepOutput,
    StepPlan, StepTimings, TokenLogprob,
};

use super::reference::{choose, state};

pub(crate) struct Worker {
    epoch: Epoch,
    step: StepId,
    config: EngineConfig,
    cache: Vec<[u64; BLOCK_TOKENS]>,
    sequences: HashMap<SequenceId, Known>,
    images: HashMap<ImageKey, Grid>,
    pub(crate) encodes: usize,
    /// Positions computed.
    pub(crate) computed: usize,
    /// Positions at which sequences started.
    pub(crate) skipped: usize,
}

struct Known {
    start: SequenceStart,
    blocks: Vec<BlockId>,
    computed: usize,
}

impl Worker {
    pub(crate) fn new(epoch: Epoch, config: EngineConfig) -> Self {
        let cache = vec![[0; BLOCK_TOKENS]; config.kv_blocks];
        let (sequences, images) = (HashMap::new(), HashMap::new());
        Self { epoch, step: StepId(0), config, cache, sequences, images, encodes: 0, computed: 0, skipped: 0 }
    }

    pub(crate) fn run(&mut self, plan: &StepPlan) -> StepOutput {
        assert_eq!((plan.epoch, plan.step), (self.epoch, StepId(self.step.0 + 1)));
        self.step = plan.step;
        for sequence in &plan.end {
            assert!(self.sequences.remove(sequence).is_some(), "the end of an unknown sequence {sequence}");
        }
        for key in &plan.forget_images {
            assert!(self.images.remove(key).is_some(), "an unknown image to forget");
        }
        for start in &plan.start {
            let known = Known { start: start.clone(), blocks: Vec::new(), computed: 0 };
            assert!(self.sequences.insert(start.sequence, known).is_none(), "{} started twice", start.sequence);
        }
        self.encode(plan);
        self.check_batch(plan);
        let mut output = StepOutput { epoch: plan.epoch, step: plan.step, ..Default::default() };
        output.timings = StepTimings { encode_us: 7 * plan.encode.len() as u64, ..Default::default() };
        plan.chunks.iter().for_each(|chunk| self.run_chunk(chunk, &mut output));
        output
    }

    fn encode(&mut self, plan: &StepPlan) {
        for image in &plan.encode {
            assert!(self.images.insert(image.key, image.grid).is_none(), "an image encoded while its output is held");
            self.encodes += 1;
        }
        let patches: usize = plan.encode.iter().map(|image| image.grid.patches()).sum();
        assert!(plan.encode.len() <= 1 || patches <= self.config.step_patches, "{patches} patches in a step");
        let held: usize = self.images.values().map(|grid| grid.patches()).sum();
        assert!(held <= self.config.encoder_tokens, "{held} encoder outputs held");
    }

    fn check_batch(&self, plan: &StepPlan) {
        let tokens: usize = plan.chunks.iter().map(|chunk| chunk.len as usize).sum();
        assert!((1..=self.config.step_tokens).contains(&tokens), "{tokens} tokens in a step");
        assert!(plan.chunks.len() <= self.config.max_batch_sequences, "{} chunks", plan.chunks.len());
        let distinct: HashSet<_> = plan.chunks.iter().map(|chunk| chunk.sequence).collect();
        assert_eq!(distinct.len(), plan.chunks.len(), "a sequence has two chunks");
    }

    /// Blocks exist, and those that the chunk writes into are nobody else's.
    fn check_blocks(&self, chunk: &Chunk) {
        let known = &self.sequences[&chunk.sequence];
        let blocks = || known.blocks.iter().chain(&chunk.new_blocks);
        for block in blocks() {
            assert!((block.0 as usize) < self.cache.len(), "no block {block}");
        }
        let others: Vec<_> = self.sequences.iter().filter(|(id, _)| **id != chunk.sequence).collect();
        for block in blocks().skip(chunk.start as usize / BLOCK_TOKENS) {
            let other = others.iter().find(|(_, other)| other.blocks.contains(block));
            assert!(other.is_none(), "{} writes into block {block} that another holds", chunk.sequence);
        }
    }

    fn run_chunk(&mut self, chunk: &Chunk, output: &mut StepOutput) {
        let (start, end) = (chunk.start as usize, (chunk.start + chunk.len) as usize);
        self.check_blocks(chunk);
        let known = self.sequences.get_mut(&chunk.sequence).expect("a chunk of an unknown sequence");
        if known.blocks.is_empty() {
            assert_eq!(start % BLOCK_TOKENS, 0, "only full blocks are shared");
            assert!(known.start.sampling.logprobs.prompt.is_none() || start == 0, "positions to describe left out");
            known.computed = start;
            self.skipped += start;
        }
        self.computed += end - start;
        assert_eq!(start, known.computed, "chunks must be contiguous");
        assert!(start < end && end <= known.start.tokens.len(), "tokens that nobody knows");
        known.blocks.extend(&chunk.new_blocks);
        let distinct: HashSet<_> = known.blocks.iter().collect();
        assert_eq!(distinct.len(), known.blocks.len(), "a block at two places");
        assert_eq!(known.blocks.len(), end.div_ceil(BLOCK_TOKENS), "blocks for {end} tokens");
        for image in known.start.images.iter().filter(|image| image.overlaps(start, end)) {
            assert_eq!(self.images.get(&image.key), Some(&image.grid), "an image used before it is encoded");
        }
        let (tokens, images) = (&known.start.tokens, &known.start.images);
        let mut at = 0;
        for (position, &token) in tokens.iter().enumerate().take(end) {
            at = state(at, position, token, images);
            let slot = &mut self.cache[known.blocks[position / BLOCK_TOKENS].0 as usize][position % BLOCK_TOKENS];
            if position < start {
                assert_eq!(*slot, at, "{} finds at {position} what is not its own", chunk.sequence);
            }
            *slot = at;
        }
        known.computed = end;
        output.prompt_logprobs.extend(describe(&known.start, start, end));
        assert_eq!(chunk.sample, end == tokens.len(), "a chunk samples if it reaches the end");
        if chunk.sample {
            let token = choose(at, known.start.sampling.seed);
            known.start.tokens.push(token);
            output.sampled.push(Sampled { sequence: chunk.sequence, token, logprob: None });
        }
    }
}

fn describe(sequence: &SequenceStart, start: usize, end: usize) -> Option<PromptLogprobs> {
    sequence.sampling.logprobs.prompt?;
    let positions = start + 1..(end + 1).min(sequence.prompt_len as usize);
    let entry = |position: usize| TokenLogprob { token: sequence.tokens[position], logprob: position as f32, top: Vec::new() };
    let tokens: Vec<_> = positions.clone().map(entry).collect();
    (!tokens.is_empty()).then_some(PromptLogprobs { sequence: sequence.sequence, start: positions.start as u32, tokens })
}
