//! What a rank knows of the sequences it runs. Every rank knows the same.

use std::collections::HashMap;

use tessera_types::{BlockId, Chunk, PlacedImage, Sampled, SamplingParams, SequenceId, SequenceStart, StepPlan, TokenId};

use crate::sampling::{Choice, TokenCounts};

/// A sequence: its tokens, where its keys and values lie, how its tokens are chosen.
#[derive(Clone, Debug)]
pub(crate) struct Sequence {
    pub(crate) tokens: Vec<TokenId>,
    pub(crate) prompt_len: usize,
    pub(crate) images: Vec<PlacedImage>,
    pub(crate) sampling: SamplingParams,
    pub(crate) blocks: Vec<BlockId>,
    /// Positions whose keys and values are in the cache.
    pub(crate) cached: usize,
    /// Kept only where a penalty asks for it.
    pub(crate) counts: Option<TokenCounts>,
}

/// All sequences that were started and not ended.
pub(crate) type Sequences = HashMap<SequenceId, Sequence>;

/// Does to the sequences what a checked plan says before its chunks run.
pub(crate) fn apply(sequences: &mut Sequences, plan: &StepPlan) {
    for id in &plan.end {
        sequences.remove(id);
    }
    for start in &plan.start {
        sequences.insert(start.sequence, Sequence::new(start));
    }
    for chunk in &plan.chunks {
        if let Some(sequence) = sequences.get_mut(&chunk.sequence) {
            sequence.extend(chunk);
        }
    }
}

/// Notes what a step did to its sequences.
pub(crate) fn settle(sequences: &mut Sequences, plan: &StepPlan, sampled: &[Sampled]) {
    for chunk in &plan.chunks {
        if let Some(sequence) = sequences.get_mut(&chunk.sequence) {
            sequence.advance(chunk);
        }
    }
    for sampled in sampled {
        if let Some(sequence) = sequences.get_mut(&sampled.sequence) {
            sequence.push(sampled.token);
        }
    }
}

impl Sequence {
    pub(crate) fn new(start: &SequenceStart) -> Self {
        let prompt_len = start.prompt_len as usize;
        let counts = TokenCounts::needed(&start.sampling).then(|| TokenCounts::new(&start.tokens, prompt_len));
        Self {
            tokens: start.tokens.clone(),
            prompt_len,
            images: start.images.clone(),
            sampling: start.sampling.clone(),
            blocks: Vec::new(),
            cached: 0,
            counts,
        }
    }

    /// Takes a chunk's blocks before it runs.
    fn extend(&mut self, chunk: &Chunk) {
        self.blocks.extend_from_slice(&chunk.new_blocks);
    }

    /// Notes that a chunk's keys and values are in the cache.
    fn advance(&mut self, chunk: &Chunk) {
        self.cached = chunk.start as usize + chunk.len as usize;
    }

    /// Appends the token that was chosen.
    fn push(&mut self, token: TokenId) {
        self.tokens.push(token);
        if let Some(counts) = &mut self.counts {
            counts.push(token);
        }
    }

    /// How to choose the token at `position`.
    pub(crate) fn choice(&self, position: u32) -> Choice<'_> {
        let generated = self.tokens.len() - self.prompt_len;
        Choice { params: &self.sampling, counts: self.counts.as_ref(), generated, position }
    }
}
