//! What a rank knows of the sequences it runs. Every rank knows the same.

use std::collections::HashMap;

use tessera_types::{
    BlockId, Chunk, PlacedImage, Sampled, SamplingParams, SequenceId, SequenceStart, StepPlan, TokenId, special,
};

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

/// Notes that a step's keys and values are in the cache, or will be before anything asked for later looks.
pub(crate) fn advance(sequences: &mut Sequences, plan: &StepPlan) {
    for chunk in &plan.chunks {
        if let Some(sequence) = sequences.get_mut(&chunk.sequence) {
            sequence.cached = chunk.start as usize + chunk.len as usize;
        }
    }
}

/// Appends the tokens that were chosen.
pub(crate) fn push(sequences: &mut Sequences, sampled: &[Sampled]) {
    for sampled in sampled {
        if let Some(sequence) = sequences.get_mut(&sampled.sequence) {
            let place = sequence.expect();
            sequence.fill(place, sampled.token);
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

    /// A place for a token that will be known later.
    pub(crate) fn expect(&mut self) -> usize {
        self.tokens.push(special::UNKNOWN);
        self.tokens.len() - 1
    }

    /// The token that was expected at `place`.
    pub(crate) fn fill(&mut self, place: usize, token: TokenId) {
        if let Some(expected) = self.tokens.get_mut(place) {
            *expected = token;
        }
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
