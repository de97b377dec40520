//! Checks a step plan against what a rank knows, before any of it is done. All ranks get the same plan and know the
//! same, so they refuse alike and none is left waiting in a collective.

use std::collections::{HashMap, HashSet};

use tessera_types::{BLOCK_TOKENS, Chunk, ImageEncode, ImageKey, ModelSpec, PlacedImage, SequenceId, SequenceStart, StepPlan};

use crate::error::PlanError;
use crate::ledger::Ledger;
use crate::sequences::Sequences;

/// What a rank knows and has room for.
pub(crate) struct Checker<'a> {
    pub(crate) spec: &'a ModelSpec,
    /// Blocks in the cache.
    pub(crate) blocks: usize,
    /// Positions there are rotary frequencies for.
    pub(crate) positions: usize,
    pub(crate) sequences: &'a Sequences,
    pub(crate) ledger: &'a Ledger,
    /// Patches of each image that was encoded.
    pub(crate) images: HashMap<ImageKey, usize>,
}

/// The state of a sequence that a chunk is checked against.
struct Known<'a> {
    tokens: usize,
    blocks: usize,
    /// `None` where nothing has run: the first chunk may start behind a prefix that the cache already holds.
    cached: Option<usize>,
    images: &'a [PlacedImage],
}

impl<'a> Checker<'a> {
    /// Finds the first thing wrong with a plan.
    pub(crate) fn check(mut self, plan: &'a StepPlan) -> Result<(), PlanError> {
        self.ledger.check_step(plan.step)?;
        let mut ended = HashSet::new();
        for &id in &plan.end {
            if !self.sequences.contains_key(&id) || !ended.insert(id) {
                return Err(PlanError::UnknownSequence(id));
            }
        }
        let mut started = HashMap::new();
        for start in &plan.start {
            let id = start.sequence;
            let runs = self.sequences.contains_key(&id) && !ended.contains(&id);
            if runs || started.insert(id, start).is_some() {
                return Err(PlanError::StartedTwice(id));
            }
            self.start(start)?;
        }
        for key in &plan.forget_images {
            self.images.remove(key);
        }
        for image in &plan.encode {
            self.image(image)?;
            self.images.insert(image.key, image.grid.patches());
        }
        let mut seen = HashSet::new();
        for chunk in &plan.chunks {
            let id = chunk.sequence;
            if !seen.insert(id) {
                return Err(PlanError::TwoChunks(id));
            }
            let known = match started.get(&id) {
                Some(start) => Known { tokens: start.tokens.len(), blocks: 0, cached: None, images: &start.images },
                None => self.running(id).filter(|_| !ended.contains(&id)).ok_or(PlanError::UnknownSequence(id))?,
            };
            self.chunk(chunk, &known)?;
        }
        self.ledger.check_writes(plan, self.sequences)
    }

    fn running(&self, id: SequenceId) -> Option<Known<'a>> {
        self.sequences.get(&id).map(|sequence| Known {
            tokens: sequence.tokens.len(),
            blocks: sequence.blocks.len(),
            cached: (!sequence.blocks.is_empty()).then_some(sequence.cached),
            images: &sequence.images,
        })
    }

    fn start(&self, start: &SequenceStart) -> Result<(), PlanError> {
        let sequence = start.sequence;
        let (tokens, vocab_size) = (start.tokens.len(), self.spec.decoder.vocab_size);
        if start.prompt_len == 0 || start.prompt_len as usize > tokens {
            return Err(PlanError::Prompt { sequence, prompt_len: start.prompt_len, tokens });
        }
        if tokens > self.positions {
            return Err(PlanError::TooLong { sequence, tokens, limit: self.positions });
        }
        if let Some(&token) = start.tokens.iter().find(|token| token.0 as usize >= vocab_size) {
            return Err(PlanError::Token { sequence, token, vocab_size });
        }
        start.sampling.validate(vocab_size).map_err(|error| PlanError::Sampling { sequence, error })?;
        let mut end = 0;
        for image in &start.images {
            if (image.at as usize) < end || image.end() > start.prompt_len as usize || image.grid.patches() == 0 {
                return Err(PlanError::Placement { sequence, image: image.key, at: image.at });
            }
            end = image.end();
        }
        Ok(())
    }

    fn image(&self, encode: &ImageEncode) -> Result<(), PlanError> {
        let image = encode.key;
        let vision = self.spec.vision.as_ref().ok_or(PlanError::NoVision(image))?;
        let (rows, cols, limit) = (encode.grid.rows, encode.grid.cols, vision.max_patches_per_side());
        if [rows, cols].into_iter().any(|side| side == 0 || side as usize > limit) {
            return Err(PlanError::Grid { image, rows, cols, limit });
        }
        let expected = encode.grid.patches() * vision.channels * vision.patch_size * vision.patch_size * size_of::<f32>();
        if encode.pixels.len() != expected {
            return Err(PlanError::Pixels { image, got: encode.pixels.len(), expected });
        }
        Ok(())
    }

    fn chunk(&self, chunk: &Chunk, known: &Known<'_>) -> Result<(), PlanError> {
        let sequence = chunk.sequence;
        let (start, end) = (chunk.start as usize, chunk.start as usize + chunk.len as usize);
        // What other sequences left in the blocks may be built on, up to where it ends.
        let found = || self.ledger.filled(&chunk.new_blocks).min(start);
        let expected = known.cached.unwrap_or_else(found);
        if expected != start {
            return Err(PlanError::Start { sequence, expected, got: chunk.start });
        }
        if chunk.len == 0 || end > known.tokens {
            return Err(PlanError::Length { sequence, start: chunk.start, len: chunk.len, known: known.tokens });
        }
        if end > self.positions {
            return Err(PlanError::TooLong { sequence, tokens: end, limit: self.positions });
        }
        if chunk.sample && end < known.tokens {
            return Err(PlanError::SampledEarly { sequence, end, known: known.tokens });
        }
        let (needed, given) = (end.div_ceil(BLOCK_TOKENS), known.blocks + chunk.new_blocks.len());
        if given < needed {
            return Err(PlanError::Blocks { sequence, needed, given });
        }
        if let Some(&block) = chunk.new_blocks.iter().find(|block| block.0 as usize >= self.blocks) {
            return Err(PlanError::Block { sequence, block, blocks: self.blocks });
        }
        for image in known.images.iter().filter(|image| image.overlaps(start, end)) {
            let patches = image.grid.patches();
            if self.images.get(&image.key) != Some(&patches) {
                return Err(PlanError::UnknownImage { sequence, image: image.key, patches });
            }
        }
        Ok(())
    }
}
