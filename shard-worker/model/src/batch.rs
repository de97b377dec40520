//! A plan's chunks as the rows of one batch.

use std::ops::Range;

use tessera_types::{Chunk, ImageKey, SequenceId, TokenId};

use crate::error::PlanError;
use crate::sequences::{Sequence, Sequences};

/// Rows of a batch, chunk after chunk.
#[derive(Debug, Default)]
pub(crate) struct Batch {
    /// The token of each row; `None` where an image feature goes.
    pub(crate) tokens: Vec<Option<TokenId>>,
    /// Its position in its sequence.
    pub(crate) positions: Vec<u32>,
    /// Rows of each chunk.
    pub(crate) spans: Vec<Range<usize>>,
    /// Where image features go.
    pub(crate) features: Vec<FeatureRun>,
    /// Rows whose logits are needed, in batch order.
    pub(crate) logits: Vec<LogitsRow>,
}

/// Features of one image for one chunk.
#[derive(Debug)]
pub(crate) struct FeatureRun {
    pub(crate) sequence: SequenceId,
    pub(crate) image: ImageKey,
    pub(crate) patches: usize,
    /// Rows of the image's features.
    pub(crate) from: Vec<usize>,
    /// Rows of the batch.
    pub(crate) to: Vec<usize>,
}

/// A row whose logits are needed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LogitsRow {
    pub(crate) row: usize,
    pub(crate) sequence: SequenceId,
    pub(crate) position: u32,
    pub(crate) purpose: Purpose,
}

/// What logits are needed for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// To choose the next token.
    Sample,
    /// To say how probable the prompt's next token was.
    Prompt,
}

impl LogitsRow {
    /// Where the token goes that the row is for.
    pub(crate) fn next(&self) -> u32 {
        self.position + 1
    }

    /// How many of the most probable tokens are told beside the row's own, if any is.
    pub(crate) fn described(&self, sequence: &Sequence) -> Option<u32> {
        match self.purpose {
            Purpose::Sample => sequence.sampling.logprobs.generated,
            Purpose::Prompt => sequence.sampling.logprobs.prompt,
        }
    }
}

impl Batch {
    /// Lays out chunks that were checked.
    pub(crate) fn new(chunks: &[Chunk], sequences: &Sequences) -> Result<Self, PlanError> {
        let mut batch = Self::default();
        for chunk in chunks {
            let sequence = sequences.get(&chunk.sequence).ok_or(PlanError::UnknownSequence(chunk.sequence))?;
            batch.push(chunk, sequence);
        }
        Ok(batch)
    }

    fn push(&mut self, chunk: &Chunk, sequence: &Sequence) {
        let first = self.tokens.len();
        let positions = chunk.start as usize..chunk.start as usize + chunk.len as usize;
        self.tokens.extend(sequence.tokens[positions.clone()].iter().copied().map(Some));
        self.positions.extend(positions.clone().map(|position| position as u32));
        self.spans.push(first..self.tokens.len());
        self.place_images(chunk, sequence, first, &positions);
        self.need_logits(chunk, sequence, first, &positions);
    }

    fn place_images(&mut self, chunk: &Chunk, sequence: &Sequence, first: usize, positions: &Range<usize>) {
        for image in sequence.images.iter().filter(|image| image.overlaps(positions.start, positions.end)) {
            let at = image.at as usize;
            let part = at.max(positions.start)..image.end().min(positions.end);
            let (from, to): (Vec<_>, Vec<_>) = part
                .filter_map(|position| Some((image.grid.feature_of(position - at)?, first + position - positions.start)))
                .unzip();
            to.iter().for_each(|&row| self.tokens[row] = None);
            let patches = image.grid.patches();
            self.features.push(FeatureRun { sequence: chunk.sequence, image: image.key, patches, from, to });
        }
    }

    fn need_logits(&mut self, chunk: &Chunk, sequence: &Sequence, first: usize, positions: &Range<usize>) {
        let mut need = |position: usize, purpose| {
            let row = first + position - positions.start;
            self.logits.push(LogitsRow { row, sequence: chunk.sequence, position: position as u32, purpose });
        };
        if sequence.sampling.logprobs.prompt.is_some() {
            let end = positions.end.min(sequence.prompt_len - 1);
            (positions.start..end).for_each(|position| need(position, Purpose::Prompt));
        }
        if chunk.sample {
            need(positions.end - 1, Purpose::Sample);
        }
    }
}
