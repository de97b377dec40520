//! Runs a step plan.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tessera_device::{ChunkSpan, Device};
use tessera_types::{ImageEncode, SequenceId, StepOutput, StepPlan, StepTimings};

use crate::batch::Batch;
use crate::choose::Observer;
use crate::decoder::State;
use crate::error::{ModelError, PlanError};
use crate::model::Model;
use crate::sequences;

impl<D: Device> Model<D> {
    /// Runs a step. All ranks run the same plans in the same order; each answers with the tokens chosen, and rank 0
    /// with the log-probabilities asked for too.
    pub fn step(&mut self, plan: &StepPlan) -> Result<StepOutput, ModelError> {
        self.run(plan, None)
    }

    /// Runs a step and shows every row of logits it computes, on every rank alike.
    pub fn step_observed(
        &mut self,
        plan: &StepPlan,
        observe: &mut dyn FnMut(SequenceId, u32, &[f32]),
    ) -> Result<StepOutput, ModelError> {
        self.run(plan, Some(observe))
    }

    fn run(&mut self, plan: &StepPlan, observe: Option<Observer<'_>>) -> Result<StepOutput, ModelError> {
        self.checker().check(plan)?;
        self.apply(plan);
        let began = Instant::now();
        self.encode(&plan.encode)?;
        let encoded = Instant::now();
        let batch = Batch::new(&plan.chunks, &self.sequences)?;
        let hidden = self.forward(plan, &batch)?;
        let forwarded = Instant::now();
        let mut output = StepOutput { epoch: plan.epoch, step: plan.step, ..StepOutput::default() };
        let output_matmul = self.choose(&batch, hidden.as_deref(), &mut output, observe)?;
        self.ledger.settle(plan, &self.sequences);
        sequences::settle(&mut self.sequences, plan, &output.sampled);
        output.timings = StepTimings {
            encode_us: micros(encoded - began),
            forward_us: micros(forwarded - encoded + output_matmul),
            sample_us: micros(forwarded.elapsed().saturating_sub(output_matmul)),
            collective_us: micros(self.ranks.take_waited()),
        };
        Ok(output)
    }

    fn apply(&mut self, plan: &StepPlan) {
        self.ledger.apply(plan, &self.sequences);
        for key in &plan.forget_images {
            self.features.remove(key);
        }
        sequences::apply(&mut self.sequences, plan);
    }

    fn encode(&mut self, images: &[ImageEncode]) -> Result<(), ModelError> {
        let Some(encoder) = self.encoder.as_ref().filter(|_| !images.is_empty()) else { return Ok(()) };
        self.features.extend(encoder.features(&self.device, &mut self.ranks, images)?);
        Ok(())
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
        let hidden = self.decoder.forward(&self.device, &mut self.ranks, state, batch, &chunks)?;
        Ok(Some(hidden))
    }
}

pub(crate) fn micros(duration: Duration) -> u64 {
    duration.as_micros() as u64
}
