//! One sequence: its tokens, and what of it the ranks hold.

use std::collections::VecDeque;
use std::sync::Arc;

use tessera_types::{BLOCK_TOKENS, BlockId, PlacedImage, PrefixHash, SamplingParams, SequenceId, SequenceStart, TokenId};

use crate::blocks::{Block, blocks_for};
use crate::event::{FinishReason, RequestNumber};
use crate::images::Pin;
use crate::queue::Place;

/// Where a sequence stands. One that runs is prefilling while more than one position is still to be computed, and
/// decoding then; one that has ended is not kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    /// Holds nothing on the ranks.
    Waiting(Place),
    /// Holds blocks; the number is the order of admission, which is the order of service.
    Running(u64),
}

#[derive(Debug)]
pub(crate) struct Sequence {
    pub(crate) request: RequestNumber,
    pub(crate) prompt: Arc<[TokenId]>,
    pub(crate) generated: Vec<TokenId>,
    /// The names of its full blocks, as far as its tokens are known.
    pub(crate) names: Vec<PrefixHash>,
    pub(crate) sampling: SamplingParams,
    /// Tokens to generate at most, the context considered.
    pub(crate) max_new: usize,
    /// Tokens that the present group's cache has room for; less than `max_new` only once a group was re-formed smaller.
    pub(crate) room: usize,
    pub(crate) standing: Standing,
    /// Tokens that the ranks are choosing in plans whose output has not come.
    pub(crate) in_flight: usize,
    /// The next prompt position whose log-probability is to be told.
    pub(crate) next_prompt_logprob: u32,
    pub(crate) held: Held,
}

/// What the ranks hold of a sequence; gone when it gives way.
#[derive(Debug, Default)]
pub(crate) struct Held {
    /// Whether the ranks know the sequence.
    pub(crate) started: bool,
    /// Positions whose keys and values are in the cache once all plans sent have run.
    pub(crate) computed: usize,
    /// Blocks from position 0 on, some of them not used yet.
    pub(crate) blocks: Vec<Block>,
    /// How many of `blocks` the ranks were told.
    pub(crate) blocks_told: usize,
    /// How many of `blocks` the pool knows by name, or was told it could.
    pub(crate) blocks_named: usize,
    /// Images pinned so far, those already passed and those in a prefix found in the cache included.
    pub(crate) images_pinned: usize,
    /// Encoder outputs that positions from `computed` on need, with the position behind each.
    pub(crate) pins: VecDeque<(usize, Pin)>,
}

impl Sequence {
    /// Tokens known.
    pub(crate) fn known(&self) -> usize {
        self.prompt.len() + self.generated.len()
    }

    /// Positions that can be fed, but were not: known tokens and those being chosen.
    pub(crate) fn remaining(&self) -> usize {
        self.known() + self.in_flight - self.held.computed
    }

    /// Whether another token is wanted beyond those being chosen.
    pub(crate) fn wants_more(&self) -> bool {
        self.generated.len() + self.in_flight < self.max_new.min(self.room)
    }

    /// Why the sequence is over, going by the tokens it has.
    pub(crate) fn end(&self) -> Option<FinishReason> {
        let stop = self.generated.last().filter(|token| self.sampling.stop_tokens.contains(token));
        let length = || (self.generated.len() >= self.max_new).then_some(FinishReason::Length);
        let full = || (self.generated.len() >= self.room).then_some(FinishReason::CacheTooSmall);
        stop.map(|&token| FinishReason::Stop(token)).or_else(length).or_else(full)
    }

    /// Whether log-probabilities of the prompt are still to be told.
    fn describes_prompt(&self) -> bool {
        self.sampling.logprobs.prompt.is_some() && (self.next_prompt_logprob as usize) < self.prompt.len()
    }

    /// Names the blocks that became full with the tokens known now.
    pub(crate) fn name_blocks(&mut self, images: &[PlacedImage]) {
        while (self.names.len() + 1) * BLOCK_TOKENS <= self.known() {
            let start = self.names.len() * BLOCK_TOKENS;
            let tokens = self.prompt.iter().chain(&self.generated).copied().skip(start).take(BLOCK_TOKENS);
            self.names.push(PrefixHash::next(self.names.last().copied(), start, tokens, images));
        }
    }

    /// Blocks that need not be computed if the cache has them. The last token always is, since the next one comes from
    /// its logits; and all are that have log-probabilities to tell.
    pub(crate) fn reusable(&self) -> &[PrefixHash] {
        let last = self.known().saturating_sub(1) / BLOCK_TOKENS;
        if self.describes_prompt() { &[] } else { &self.names[..last.min(self.names.len())] }
    }

    /// Blocks that are full once all plans sent have run, and were not taken here before.
    pub(crate) fn take_full(&mut self) -> impl Iterator<Item = (BlockId, PrefixHash)> {
        // A token that is still being chosen may be computed already, but its block has no name yet.
        let full = (self.held.computed / BLOCK_TOKENS).min(self.names.len());
        let new = std::mem::replace(&mut self.held.blocks_named, full)..full;
        self.held.blocks[new.clone()].iter().map(Block::id).zip(self.names[new].iter().copied())
    }

    /// Everything a rank must know to run the sequence from nothing.
    pub(crate) fn start(&self, sequence: SequenceId, images: &[PlacedImage]) -> SequenceStart {
        let mut sampling = self.sampling.clone();
        if !self.describes_prompt() {
            sampling.logprobs.prompt = None;
        }
        SequenceStart {
            sequence,
            tokens: self.prompt.iter().chain(&self.generated).copied().collect(),
            prompt_len: self.prompt.len() as u32,
            images: images.to_vec(),
            sampling,
        }
    }
}

impl Held {
    /// What a sequence holds that starts behind blocks found in the cache.
    pub(crate) fn behind(blocks: Vec<Block>, images: &[PlacedImage]) -> Self {
        let (blocks_named, computed) = (blocks.len(), blocks.len() * BLOCK_TOKENS);
        let images_pinned = images.iter().take_while(|image| image.end() <= computed).count();
        Self { started: false, computed, blocks, blocks_told: 0, blocks_named, images_pinned, pins: VecDeque::new() }
    }

    /// Blocks missing before position `end` can be computed.
    pub(crate) fn missing(&self, end: usize) -> usize {
        blocks_for(end).saturating_sub(self.blocks.len())
    }

    /// Moves on to position `end`; returns the blocks that the ranks must be told for it.
    pub(crate) fn advance(&mut self, end: usize) -> Vec<BlockId> {
        self.computed = end;
        let told = std::mem::replace(&mut self.blocks_told, blocks_for(end));
        self.blocks[told..self.blocks_told].iter().map(Block::id).collect()
    }

    /// Takes out the pins of images that lie behind.
    pub(crate) fn passed(&mut self) -> impl Iterator<Item = Pin> {
        let count = self.pins.iter().take_while(|(end, _)| *end <= self.computed).count();
        self.pins.drain(..count).map(|(_, pin)| pin)
    }
}

impl Drop for Held {
    /// Lets the last block go first: a prefix without its end is worth something, an end without its prefix nothing.
    fn drop(&mut self) {
        while self.blocks.pop().is_some() {}
    }
}
