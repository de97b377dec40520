//! From the last layer's rows to tokens: on the device where it can choose them itself, else on rank 0's host.

use std::mem::take;
use std::time::{Duration, Instant};

use tessera_device::{Device, DeviceError};
use tessera_types::{PromptLogprobs, Sampled, SequenceId, StepOutput, TokenId, special};

use crate::batch::{Batch, LogitsRow, Purpose};
use crate::decoder::Logits;
use crate::error::{ModelError, PlanError};
use crate::model::Model;
use crate::ranks::Gathered;
use crate::sampling::{LogSoftmax, OnDevice, Sampler, is_finite};

/// Rows whose logits are in memory at once; a prompt's log-probabilities may need thousands.
pub(crate) const LOGITS_ROWS: usize = 64;

/// Told of every row of logits that a step computes: its sequence, its position, one number a token.
pub(crate) type Observer<'a> = &'a mut dyn FnMut(SequenceId, u32, &[f32]);

/// What became of a step's logits.
pub(crate) struct Chosen<D: Device> {
    /// Tokens of [`LOGITS_ROWS`] rows each, still on the device; then they are all that is needed, if anything is.
    pub(crate) open: Vec<D::Chosen>,
    /// What the output matrix took, where the host waited for it.
    pub(crate) matmul: Duration,
}

impl<D: Device> Model<D> {
    /// Computes the logits needed, a few rows at a time, and what they are needed for; then shares rank 0's tokens.
    pub(crate) fn choose(
        &mut self,
        batch: &Batch,
        hidden: Option<&D::Tensor>,
        output: &mut StepOutput,
        mut observe: Option<Observer<'_>>,
    ) -> Result<Chosen<D>, ModelError> {
        let mut made = Chosen { open: Vec::new(), matmul: Duration::ZERO };
        let by_device = self.device.chooses() && self.ranks.gather_on_devices() && observe.is_none();
        if by_device && batch.logits.is_empty() {
            made.open.push(self.device.nothing_chosen()?);
        }
        let Some(hidden) = hidden else { return Ok(made) };
        let (device, host): (Vec<_>, Vec<_>) = batch.logits.iter().partition(|row| by_device && self.is_a_token_alone(row));
        for group in device.chunks(LOGITS_ROWS) {
            let logits = self.logits(hidden, group)?;
            made.open.push(self.choose_on_device(group, logits)?);
        }
        if host.is_empty() {
            return Ok(made);
        }
        let mut chosen = Vec::with_capacity(batch.logits.len());
        for group in host.chunks(LOGITS_ROWS) {
            let began = Instant::now();
            let logits = self.logits(hidden, group)?;
            self.ranks.settle(&self.device)?;
            made.matmul += began.elapsed();
            self.choose_on_host(group, logits, &mut chosen, output, &mut observe)?;
        }
        let mut tokens: Vec<TokenId> = chosen.iter().map(|(_, sampled)| sampled.token).collect();
        self.ranks.share(&self.device, &mut tokens)?;
        for ((_, sampled), token) in chosen.iter_mut().zip(tokens) {
            sampled.token = token;
        }
        // The host waited for its rows, so these are there as well.
        for (group, mut by_device) in device.chunks(LOGITS_ROWS).zip(take(&mut made.open)) {
            for (wanted, token) in group.iter().zip(self.device.fetched(&mut by_device)?) {
                if token.is_none() {
                    output.broken.push(wanted.sequence);
                }
                let token = token.unwrap_or(special::UNKNOWN);
                chosen.push((wanted.row, Sampled { sequence: wanted.sequence, token, logprob: None }));
            }
        }
        chosen.sort_by_key(|(row, _)| *row);
        output.sampled.extend(chosen.into_iter().map(|(_, sampled)| sampled));
        Ok(made)
    }

    /// Whether a row is for a token and nothing else.
    fn is_a_token_alone(&self, row: &LogitsRow) -> bool {
        let sequence = self.sequences.get(&row.sequence);
        row.purpose == Purpose::Sample && sequence.is_some_and(|sequence| sequence.sampling.logprobs.generated.is_none())
    }

    fn logits(&mut self, hidden: &D::Tensor, group: &[&LogitsRow]) -> Result<Logits<D>, ModelError> {
        let rows: Vec<usize> = group.iter().map(|wanted| wanted.row).collect();
        self.decoder.logits(&self.device, &mut self.ranks, hidden, &rows)
    }

    /// Rank 0's choices, on their way to every rank's host.
    fn choose_on_device(&mut self, group: &[&LogitsRow], logits: Logits<D>) -> Result<D::Chosen, ModelError> {
        let vocab_size = logits.vocab_size;
        let Gathered::OnDevice { mut whole, parts } = logits.gathered else {
            let detail = "logits that were gathered on the host".into();
            return Err(DeviceError::Shape { operation: "choose", detail }.into());
        };
        let mut told = OnDevice::default();
        for wanted in group {
            let sequence = self.sequences.get(&wanted.sequence).ok_or(PlanError::UnknownSequence(wanted.sequence))?;
            told.push(&sequence.choice(wanted.position + 1));
        }
        let mut chosen = self.device.choose(&mut whole, parts, vocab_size, &told.choosing, &told.edits)?;
        self.ranks.share_chosen(&self.device, &chosen)?;
        self.device.fetch(&mut chosen)?;
        Ok(chosen)
    }

    fn choose_on_host(
        &self,
        group: &[&LogitsRow],
        logits: Logits<D>,
        chosen: &mut Vec<(usize, Sampled)>,
        output: &mut StepOutput,
        observe: &mut Option<Observer<'_>>,
    ) -> Result<(), ModelError> {
        let (mut sampler, mut row) = (Sampler::default(), Vec::new());
        let logits = logits.into_host(&self.device)?;
        for (i, wanted) in group.iter().enumerate() {
            logits.row(i, &mut row);
            if let Some(observe) = observe {
                observe(wanted.sequence, wanted.position, &row);
            }
            self.use_logits(wanted, &row, &mut sampler, chosen, output)?;
        }
        Ok(())
    }

    fn use_logits(
        &self,
        wanted: &LogitsRow,
        logits: &[f32],
        sampler: &mut Sampler,
        chosen: &mut Vec<(usize, Sampled)>,
        output: &mut StepOutput,
    ) -> Result<(), ModelError> {
        let LogitsRow { row, sequence: id, position, .. } = *wanted;
        // Every rank has these logits, so all of them see this together. It ends one sequence and no other.
        if !is_finite(logits) {
            if !output.broken.contains(&id) {
                output.broken.push(id);
            }
            if wanted.purpose == Purpose::Sample {
                chosen.push((row, Sampled { sequence: id, token: special::UNKNOWN, logprob: None }));
            }
            return Ok(());
        }
        let sequence = self.sequences.get(&id).ok_or(PlanError::UnknownSequence(id))?;
        match wanted.purpose {
            // A token's place; rank 0's choice comes by the collective.
            Purpose::Sample if !self.ranks.is_first() => {
                chosen.push((row, Sampled { sequence: id, token: special::UNKNOWN, logprob: None }));
            }
            Purpose::Sample => {
                let choice = sequence.choice(position + 1);
                let token = sampler.choose(logits, &choice);
                let top = sequence.sampling.logprobs.generated;
                let logprob = top.map(|top| LogSoftmax::new(logits).describe(token, top));
                chosen.push((row, Sampled { sequence: id, token, logprob }));
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
