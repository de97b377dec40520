//! What a rank knows of the sequences it runs. Every rank knows the same.

use std::collections::HashMap;

use tessera_types::{BlockId, Chunk, PlacedImage, SamplingParams, SequenceId, SequenceStart, TokenId};

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
    pub(crate) fn extend(&mut self, chunk: &Chunk) {
        self.blocks.extend_from_slice(&chunk.new_blocks);
    }

    /// Notes that a chunk's keys and values are in the cache.
    pub(crate) fn advance(&mut self, chunk: &Chunk) {
        self.cached = chunk.start as usize + chunk.len as usize;
    }

    /// Appends the token that was chosen.
    pub(crate) fn push(&mut self, token: TokenId) {
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
