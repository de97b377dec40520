//! Steps that were begun and not ended: the device works on them, and their tokens are still there.
//!
//! The step behind may be begun all the same, since it feeds whatever token was chosen: so a device goes from step to step
//! without the host between them.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use tessera_device::{ChosenToken, Device, DeviceError};
use tessera_types::{Chunk, Sampled, SequenceId, StepOutput, special};

use crate::answer;
use crate::batch::{Batch, LogitsRow, Purpose};
use crate::choose::LOGITS_ROWS;
use crate::error::ModelError;
use crate::sequences::Sequences;

/// A step whose tokens are still on the device.
pub(crate) struct Open<D: Device> {
    /// All that is known of it.
    pub(crate) output: StepOutput,
    pub(crate) began: Instant,
    /// Its images, if it encodes some.
    encoding: Option<Encoding<D>>,
    /// Tokens of [`LOGITS_ROWS`] rows each.
    pub(crate) groups: Vec<D::Chosen>,
    rows: Vec<OpenRow>,
}

/// Images that the device encodes: choices for no rows behind them come when they are done.
pub(crate) struct Encoding<D: Device> {
    behind: D::Chosen,
    /// When the host saw that they are done.
    done: Option<Instant>,
}

impl<D: Device> Encoding<D> {
    /// Of the images that the device was asked for last.
    pub(crate) fn begun(device: &D) -> Result<Self, DeviceError> {
        Ok(Self { behind: device.nothing_chosen()?, done: None })
    }

    fn look(&mut self, device: &D) -> Result<(), DeviceError> {
        if self.done.is_none() && device.is_fetched(&self.behind)? {
            self.done = Some(Instant::now());
        }
        Ok(())
    }
}

/// Rows of a batch that get tokens which are still on the device: pairs of a row and whose choice it gets.
pub(crate) struct Feed<'a, D: Device> {
    pub(crate) chosen: &'a D::Chosen,
    pub(crate) rows: Vec<(usize, usize)>,
}

/// A row whose token is still on the device.
struct OpenRow {
    wanted: LogitsRow,
    /// Where among its sequence's tokens it goes, while the sequence is there.
    place: Option<usize>,
}

impl<D: Device> Open<D> {
    /// The tokens of `rows`, chosen in `groups`. Their sequences get a place for each that is new.
    pub(crate) fn new(
        output: StepOutput,
        began: Instant,
        encoding: Option<Encoding<D>>,
        groups: Vec<D::Chosen>,
        rows: &[LogitsRow],
        sequences: &mut Sequences,
    ) -> Self {
        let row = |wanted: &LogitsRow| {
            let sequence = sequences.get_mut(&wanted.sequence).filter(|_| wanted.purpose == Purpose::Sample);
            OpenRow { wanted: *wanted, place: sequence.map(|sequence| sequence.expect()) }
        };
        Self { rows: rows.iter().map(row).collect(), output, began, encoding, groups }
    }

    /// Notes that sequences end: their tokens go nowhere.
    pub(crate) fn end(&mut self, ended: &[SequenceId]) {
        for row in self.rows.iter_mut().filter(|row| ended.contains(&row.wanted.sequence)) {
            row.place = None;
        }
    }

    /// Which rows of a batch get tokens of this step.
    pub(crate) fn feeds(&self, chunks: &[Chunk], batch: &Batch) -> Vec<Feed<'_, D>> {
        let chunk_of: HashMap<SequenceId, usize> = chunks.iter().enumerate().map(|(n, chunk)| (chunk.sequence, n)).collect();
        let batch_row = |open: &OpenRow| {
            let n = *chunk_of.get(&open.wanted.sequence)?;
            let (ahead, span) = (open.place?.checked_sub(chunks[n].start as usize)?, &batch.spans[n]);
            (ahead < span.len()).then_some(span.start + ahead)
        };
        let groups = self.groups.iter().zip(self.rows.chunks(LOGITS_ROWS));
        let pairs = |rows: &[OpenRow]| -> Vec<_> {
            let fed = rows.iter().enumerate().filter_map(|(choice, open)| Some((batch_row(open)?, choice)));
            fed.collect()
        };
        groups.map(|(chosen, rows)| Feed { chosen, rows: pairs(rows) }).filter(|feed| !feed.rows.is_empty()).collect()
    }

    /// Whether all tokens are on the host. Notes when the images are done, so that it must be asked again and again.
    pub(crate) fn is_done(&mut self, device: &D) -> Result<bool, DeviceError> {
        // They come in order, and the images before them: once they are here, those are seen to be done.
        let is_done = self.groups.last().map_or(Ok(true), |last| device.is_fetched(last))?;
        if let Some(encoding) = &mut self.encoding {
            encoding.look(device)?;
        }
        Ok(is_done)
    }

    /// What encoding its images took, on a device that began with them then.
    pub(crate) fn encoded_in(&self, began: Instant) -> Duration {
        let done = self.encoding.as_ref().and_then(|encoding| encoding.done);
        done.map_or(Duration::ZERO, |done| done.saturating_duration_since(began))
    }

    /// Gives each sequence its token, and the answer what was asked of each row.
    pub(crate) fn end_step(mut self, device: &D, sequences: &mut Sequences) -> Result<StepOutput, ModelError> {
        let mut chosen = Vec::with_capacity(self.rows.len());
        for group in &mut self.groups {
            chosen.extend(device.fetched(group)?);
        }
        for (OpenRow { wanted, place }, chosen) in self.rows.into_iter().zip(chosen) {
            let sequence = wanted.sequence;
            if chosen.is_none() {
                answer::broken(&mut self.output, sequence);
            }
            let ChosenToken { token, logprob } = chosen.unwrap_or(ChosenToken { token: special::UNKNOWN, logprob: None });
            match wanted.purpose {
                Purpose::Sample => {
                    if let Some((known, place)) = sequences.get_mut(&sequence).zip(place) {
                        known.fill(place, token);
                    }
                    self.output.sampled.push(Sampled { sequence, token, logprob });
                }
                Purpose::Prompt => {
                    let said = logprob.into_iter();
                    said.for_each(|said| answer::prompt_logprob(&mut self.output, sequence, wanted.next(), said));
                }
            }
        }
        Ok(self.output)
    }
}
