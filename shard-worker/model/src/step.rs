//! Runs a step plan.

use std::time::{Duration, Instant};

use tessera_device::{ChunkSpan, Device};
use tessera_types::{ImageEncode, PromptLogprobs, Sampled, SequenceId, StepOutput, StepPlan, StepTimings, TokenId, special};

use crate::batch::{Batch, LogitsRow, Purpose};
use crate::error::{ModelError, PlanError};
use crate::model::Model;
use crate::sampling::{LogSoftmax, Sampler, is_finite};
use crate::sequences;

/// Rows whose logits are in memory at once; a prompt's log-probabilities may need thousands.
const LOGITS_ROWS: usize = 64;

/// Told of every row of logits that a step computes: its sequence, its position, one number a token.
type Observer<'a> = &'a mut dyn FnMut(SequenceId, u32, &[f32]);

impl<D: Device> Model<D> {
    /// Runs a step. All ranks run the same plans in the same order; each answers with the tokens chosen, and rank 0
    /// with the log-probabilities asked for too.
    pub fn step(&mut self, plan: &StepPlan) -> Result<StepOutput, ModelError> {
        self.step_observed(plan, &mut |_, _, _| {})
    }

    /// Runs a step and shows every row of logits it computes, on every rank alike.
    pub fn step_observed(&mut self, plan: &StepPlan, observe: Observer<'_>) -> Result<StepOutput, ModelError> {
        self.checker().check(plan)?;
        self.apply(plan);
        let began = Instant::now();
        self.encode(&plan.encode)?;
        let encoded = Instant::now();
        let batch = Batch::new(&plan.chunks, &self.sequences)?;
        let hidden = self.forward(plan, &batch)?;
        let forwarded = Instant::now();
        let mut output = StepOutput { epoch: plan.epoch, step: plan.step, ..StepOutput::default() };
        let output_matmul = self.choose(&batch, hidden.as_ref(), &mut output, observe)?;
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
        let Some(vision) = &self.vision else { return Ok(()) };
        for group in vision.groups(images) {
            let features = vision.features(&self.device, &mut self.ranks, group)?;
            self.features.extend(group.iter().map(|image| image.key).zip(features));
        }
        Ok(())
    }

    fn forward(&mut self, plan: &StepPlan, batch: &Batch) -> Result<Option<D::Tensor>, ModelError> {
        if batch.tokens.is_empty() {
            return Ok(None);
        }
        let mut chunks = Vec::with_capacity(plan.chunks.len());
        for (chunk, rows) in plan.chunks.iter().zip(&batch.spans) {
            let sequence = self.sequences.get(&chunk.sequence).ok_or(PlanError::UnknownSequence(chunk.sequence))?;
            chunks.push(ChunkSpan { rows: rows.clone(), start: chunk.start as usize, blocks: &sequence.blocks });
        }
        let hidden = self.decoder.forward(&self.device, &mut self.ranks, &mut self.cache, &self.features, batch, &chunks)?;
        Ok(Some(hidden))
    }

    /// Computes the logits needed, a few rows at a time, and on rank 0 what they are needed for; then shares the
    /// tokens chosen. Returns the time the output matrix took.
    fn choose(
        &mut self,
        batch: &Batch,
        hidden: Option<&D::Tensor>,
        output: &mut StepOutput,
        observe: Observer<'_>,
    ) -> Result<Duration, ModelError> {
        let Some(hidden) = hidden else { return Ok(Duration::ZERO) };
        let mut sampler = Sampler::default();
        let (mut row, mut matmul) = (Vec::new(), Duration::ZERO);
        for group in batch.logits.chunks(LOGITS_ROWS) {
            let began = Instant::now();
            let rows: Vec<usize> = group.iter().map(|wanted| wanted.row).collect();
            let logits = self.decoder.logits(&self.device, &mut self.ranks, hidden, &rows)?;
            matmul += began.elapsed();
            for (i, wanted) in group.iter().enumerate() {
                logits.row(i, &mut row);
                observe(wanted.sequence, wanted.position, &row);
                self.use_logits(wanted, &row, &mut sampler, output)?;
            }
        }
        let mut tokens: Vec<TokenId> = output.sampled.iter().map(|sampled| sampled.token).collect();
        self.ranks.share(&mut tokens)?;
        output.sampled.iter_mut().zip(tokens).for_each(|(sampled, token)| sampled.token = token);
        Ok(matmul)
    }

    fn use_logits(
        &self,
        wanted: &LogitsRow,
        logits: &[f32],
        sampler: &mut Sampler,
        output: &mut StepOutput,
    ) -> Result<(), ModelError> {
        let LogitsRow { sequence: id, position, .. } = *wanted;
        // Every rank has these logits, so all of them see this together. It ends one sequence and no other.
        if !is_finite(logits) {
            if !output.broken.contains(&id) {
                output.broken.push(id);
            }
            if wanted.purpose == Purpose::Sample {
                output.sampled.push(Sampled { sequence: id, token: special::UNKNOWN, logprob: None });
            }
            return Ok(());
        }
        let sequence = self.sequences.get(&id).ok_or(PlanError::UnknownSequence(id))?;
        match wanted.purpose {
            // A token's place; rank 0's choice comes by the collective.
            Purpose::Sample if !self.ranks.is_first() => {
                output.sampled.push(Sampled { sequence: id, token: special::UNKNOWN, logprob: None });
            }
            Purpose::Sample => {
                let choice = sequence.choice(position + 1);
                let token = sampler.choose(logits, &choice);
                let top = sequence.sampling.logprobs.generated;
                let logprob = top.map(|top| LogSoftmax::new(logits).describe(token, top));
                output.sampled.push(Sampled { sequence: id, token, logprob });
            }
            Purpose::Prompt if !self.ranks.is_first() => {}
            Purpose::Prompt => {
                let start = position + 1;
                let top = sequence.sampling.logprobs.prompt.unwrap_or(0);
                let described = LogSoftmax::new(logits).describe(sequence.tokens[start as usize], top);
                match output.prompt_logprobs.last_mut().filter(|last| last.sequence == id) {
                    Some(last) => last.tokens.push(described),
                    None => output.prompt_logprobs.push(PromptLogprobs { sequence: id, start, tokens: vec![described] }),
                }
            }
        }
        Ok(())
    }
}

pub(crate) fn micros(duration: Duration) -> u64 {
    duration.as_micros() as u64
}
