//! Runs a step plan.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tessera_collective::CollectiveError;
use tessera_device::{ChunkSpan, Device};
use tessera_types::{Chunk, ImageEncode, SequenceId, StepOutput, StepPlan, StepTimings};

use crate::batch::Batch;
use crate::choose::{Chosen, Observer};
use crate::decoder::State;
use crate::error::{ModelError, PlanError};
use crate::model::Model;
use crate::open::{Encoding, Open};
use crate::sequences;

impl<D: Device> Model<D> {
    /// Runs a step, when none is open. All ranks run the same plans in the same order; each answers with the tokens chosen,
    /// and rank 0 with the log-probabilities asked for too.
    pub fn step(&mut self, plan: &StepPlan) -> Result<StepOutput, ModelError> {
        match self.begin(plan)? {
            Some(output) => Ok(output),
            None => self.end(),
        }
    }

    /// Runs a step and shows every row of logits it computes, on every rank alike.
    pub fn step_observed(
        &mut self,
        plan: &StepPlan,
        observe: &mut dyn FnMut(SequenceId, u32, &[f32]),
    ) -> Result<StepOutput, ModelError> {
        match self.run(plan, Some(observe))? {
            Some(output) => Ok(output),
            None => self.end(),
        }
    }

    /// Whether a step can be begun while those begun before are open: penalties need their tokens on the host.
    pub fn is_followed_by(&self, plan: &StepPlan) -> bool {
        let penalises = |chunk: &Chunk| self.sequences.get(&chunk.sequence).is_some_and(|sequence| sequence.counts.is_some());
        self.open.is_empty() || !plan.chunks.iter().any(penalises)
    }

    /// Begins a step, which [`Model::is_followed_by`]. `None` while its tokens are still to come from the device: the step is
    /// open then, and steps are ended in the order in which they were begun.
    pub fn begin(&mut self, plan: &StepPlan) -> Result<Option<StepOutput>, ModelError> {
        self.run(plan, None)
    }

    /// Steps that are open.
    pub fn open_steps(&self) -> usize {
        self.open.len()
    }

    /// Waits until the first open step can be ended, which is true, or until `tired` says true. Looks after the group.
    pub fn wait(&mut self, tired: &mut dyn FnMut() -> bool) -> Result<bool, ModelError> {
        let Some(open) = self.open.front_mut() else { return Ok(true) };
        let device = &self.device;
        let mut is_done = false;
        self.ranks.wait(device, &mut || {
            is_done = open.is_done(device)?;
            Ok(is_done || tired())
        })?;
        Ok(is_done)
    }

    /// Ends the first open step, once its tokens are here.
    pub fn end(&mut self) -> Result<StepOutput, ModelError> {
        self.wait(&mut || false)?;
        // Open steps end with their group.
        let open = self.open.pop_front().ok_or(CollectiveError::Aborted)?;
        // A step that waited for the one before took no time meanwhile.
        let began = open.began.max(self.ended);
        let encoded = open.encoded_in(began);
        let mut output = open.end_step(&self.device, &mut self.sequences)?;
        self.ended = Instant::now();
        output.timings.encode_us = micros(encoded);
        output.timings.forward_us = micros((self.ended - began).saturating_sub(encoded));
        Ok(output)
    }

    fn run(&mut self, plan: &StepPlan, observe: Option<Observer<'_>>) -> Result<Option<StepOutput>, ModelError> {
        self.checker().check(plan)?;
        self.apply(plan);
        let began = Instant::now();
        let encoding = self.encode(&plan.encode)?;
        let encoded = Instant::now();
        let batch = Batch::new(&plan.chunks, &self.sequences)?;
        let hidden = self.forward(plan, &batch)?;
        let forwarded = Instant::now();
        let mut output = StepOutput { epoch: plan.epoch, step: plan.step, ..StepOutput::default() };
        let Chosen { open, matmul } = self.choose(&batch, hidden.as_deref(), &mut output, observe)?;
        self.ledger.settle(plan, &self.sequences);
        sequences::advance(&mut self.sequences, plan);
        output.timings = StepTimings {
            encode_us: micros(encoded - began),
            forward_us: micros(forwarded - encoded + matmul),
            sample_us: micros(forwarded.elapsed().saturating_sub(matmul)),
            collective_us: micros(self.ranks.take_waited()),
        };
        if !open.is_empty() {
            output.timings.sample_us = 0;
            let open = Open::new(output, began, encoding, open, &batch.logits, &mut self.sequences);
            self.open.push_back(open);
            return Ok(None);
        }
        sequences::push(&mut self.sequences, &output.sampled);
        Ok(Some(output))
    }

    fn apply(&mut self, plan: &StepPlan) {
        self.open.iter_mut().for_each(|open| open.end(&plan.end));
        self.ledger.apply(plan, &self.sequences);
        for key in &plan.forget_images {
            self.features.remove(key);
        }
        sequences::apply(&mut self.sequences, plan);
    }

    /// Encodes images; the device may still be at it.
    fn encode(&mut self, images: &[ImageEncode]) -> Result<Option<Encoding<D>>, ModelError> {
        let Some(encoder) = self.encoder.as_ref().filter(|_| !images.is_empty()) else { return Ok(None) };
        self.features.extend(encoder.features(&self.device, &mut self.ranks, images)?);
        if self.device.chooses() { Ok(Some(Encoding::begun(&self.device)?)) } else { Ok(None) }
    }

    fn forward(&mut self, plan: &StepPlan, batch: &Batch) -> Result<Option<Arc<D::Tensor>>, ModelError> {
        if batch.tokens.is_empty() {
            return Ok(None);
        }
        let mut chunks = Vec::with_capacity(plan.chunks.len());
        for (chunk, rows) in plan.chunks.iter().zip(&batch.spans) {
            let sequence = self.sequences.get(&chunk.sequence).ok_or(PlanError::UnknownSequence(chunk.sequence))?;
            chunks.push(ChunkSpan { rows: rows.clone(), start: chunk.start as usize, blocks: &sequence.blocks });
        }
        let state = State { cache: &mut self.cache, features: &self.features, passes: &mut self.passes };
        let feeds: Vec<_> = self.open.iter().flat_map(|open| open.feeds(&plan.chunks, batch)).collect();
        let hidden = self.decoder.forward(&self.device, &mut self.ranks, state, batch, &chunks, &feeds)?;
        Ok(Some(hidden))
    }
}

pub(crate) fn micros(duration: Duration) -> u64 {
    duration.as_micros() as u64
}
