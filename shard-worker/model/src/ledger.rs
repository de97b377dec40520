//! What is in the cache's blocks: who holds them, and how much of each was filled since the group was joined.

use std::collections::{HashMap, HashSet};
use std::ops::Range;

use tessera_types::{BLOCK_TOKENS, BlockId, Chunk, SequenceId, StepId, StepPlan};

use crate::error::PlanError;
use crate::sequences::Sequences;

/// The books of one group's cache.
#[derive(Debug)]
pub(crate) struct Ledger {
    /// Live sequences that list each block.
    holders: Vec<u32>,
    /// Tokens from each block's beginning that were written.
    filled: Vec<usize>,
    /// The last step that was begun.
    step: Option<StepId>,
}

/// Blocks that a chunk writes into, among all that its sequence lists.
fn written(chunk: &Chunk) -> Range<usize> {
    let (start, end) = (chunk.start as usize, chunk.start as usize + chunk.len as usize);
    start / BLOCK_TOKENS..end.div_ceil(BLOCK_TOKENS)
}

/// The blocks of `chunk`'s sequence, its new ones included, in order.
fn listed<'a>(chunk: &'a Chunk, sequences: &'a Sequences) -> impl Iterator<Item = BlockId> + 'a {
    let before = sequences.get(&chunk.sequence).map_or(&[][..], |sequence| &sequence.blocks);
    before.iter().chain(&chunk.new_blocks).copied()
}

impl Ledger {
    /// The books of a cache in which nothing is.
    pub(crate) fn new(blocks: usize) -> Self {
        Self { holders: vec![0; blocks], filled: vec![0; blocks], step: None }
    }

    /// Forgets everything, as a rank does that joins a new group.
    pub(crate) fn clear(&mut self) {
        *self = Self::new(self.holders.len());
    }

    /// Steps count up by one, from whatever the first one is.
    pub(crate) fn check_step(&self, step: StepId) -> Result<(), PlanError> {
        match self.step.map(|last| last.0.wrapping_add(1)) {
            Some(expected) if expected != step.0 => Err(PlanError::Step { expected: StepId(expected), got: step }),
            _ => Ok(()),
        }
    }

    /// Leading tokens of `blocks` that are in the cache.
    pub(crate) fn filled(&self, blocks: &[BlockId]) -> usize {
        let of = |block: &BlockId| self.filled.get(block.0 as usize).copied().unwrap_or(0);
        let full = blocks.iter().take_while(|block| of(block) == BLOCK_TOKENS).count();
        full * BLOCK_TOKENS + blocks.get(full).map_or(0, of)
    }

    /// No chunk writes where another sequence looks: blocks written into are listed by their sequence alone, once.
    /// Chunks have been checked one by one before.
    pub(crate) fn check_writes(&self, plan: &StepPlan, sequences: &Sequences) -> Result<(), PlanError> {
        let mut change: HashMap<BlockId, i64> = HashMap::new();
        for sequence in plan.end.iter().filter_map(|id| sequences.get(id)) {
            sequence.blocks.iter().for_each(|block| *change.entry(*block).or_default() -= 1);
        }
        let starts: HashSet<SequenceId> = plan.start.iter().map(|start| start.sequence).collect();
        let nobody = Sequences::new();
        // A sequence that ends and starts again in this plan has no blocks yet.
        let known = |chunk: &Chunk| if starts.contains(&chunk.sequence) { &nobody } else { sequences };
        for chunk in plan.chunks.iter().filter(|chunk| !chunk.new_blocks.is_empty()) {
            let mut seen = HashSet::new();
            if let Some(block) = listed(chunk, known(chunk)).find(|block| !seen.insert(*block)) {
                return Err(PlanError::BlockTwice { sequence: chunk.sequence, block });
            }
            chunk.new_blocks.iter().for_each(|block| *change.entry(*block).or_default() += 1);
        }
        for chunk in &plan.chunks {
            let range = written(chunk);
            for block in listed(chunk, known(chunk)).skip(range.start).take(range.len()) {
                let before = self.holders.get(block.0 as usize).copied().unwrap_or(0);
                if i64::from(before) + change.get(&block).unwrap_or(&0) != 1 {
                    return Err(PlanError::BlockShared { sequence: chunk.sequence, block });
                }
            }
        }
        Ok(())
    }

    /// Books a checked plan, while `sequences` are still as they were before it.
    pub(crate) fn apply(&mut self, plan: &StepPlan, sequences: &Sequences) {
        self.step = Some(plan.step);
        for block in plan.end.iter().filter_map(|id| sequences.get(id)).flat_map(|sequence| &sequence.blocks) {
            if let Some(holders) = self.holders.get_mut(block.0 as usize) {
                *holders = holders.saturating_sub(1);
            }
        }
        for block in plan.chunks.iter().flat_map(|chunk| &chunk.new_blocks) {
            if let Some(holders) = self.holders.get_mut(block.0 as usize) {
                *holders += 1;
            }
        }
    }

    /// Books what the plan's chunks have written; `sequences` have their new blocks.
    pub(crate) fn settle(&mut self, plan: &StepPlan, sequences: &Sequences) {
        for chunk in &plan.chunks {
            let Some(sequence) = sequences.get(&chunk.sequence) else { continue };
            let end = chunk.start as usize + chunk.len as usize;
            for place in written(chunk) {
                let block = sequence.blocks.get(place).and_then(|block| self.filled.get_mut(block.0 as usize));
                if let Some(filled) = block {
                    *filled = (end - place * BLOCK_TOKENS).min(BLOCK_TOKENS);
                }
            }
        }
    }
}
