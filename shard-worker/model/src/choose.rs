//! From the last layer's rows to tokens and log-probabilities: on the device where it can choose, else on rank 0's host.

use std::time::{Duration, Instant};

use tessera_device::{Device, DeviceError};
use tessera_types::{Sampled, SequenceId, StepOutput, TokenId, special};

use crate::answer;
use crate::batch::{Batch, LogitsRow, Purpose};
use crate::decoder::Logits;
use crate::error::{ModelError, PlanError};
use crate::model::Model;
use crate::ranks::Gathered;
use crate::sampling::{LogSoftmax, OnDevice, Sampler, is_finite};
use crate::sequences::Sequence;

/// Rows whose logits are in memory at once; a prompt's log-probabilities may need thousands.
pub(crate) const LOGITS_ROWS: usize = 64;

/// Groups of so many rows that a device is given at once. Calls may wait for it beyond that, and a rank that is gone may leave
/// it waiting for ever: the host waits where it looks after the group.
const GROUPS_AT_ONCE: usize = 8;

/// Told of every row of logits that a step computes: its sequence, its position, one number a token.
pub(crate) type Observer<'a> = &'a mut dyn FnMut(SequenceId, u32, &[f32]);

/// What became of a step's logits.
pub(crate) struct Chosen<D: Device> {
    /// Tokens of [`LOGITS_ROWS`] rows each, still on the device; then they are all that is needed.
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
        observe: Option<Observer<'_>>,
    ) -> Result<Chosen<D>, ModelError> {
        if self.device.chooses() && self.ranks.gather_on_devices() && observe.is_none() {
            return Ok(Chosen { open: self.choose_on_device(batch, hidden)?, matmul: Duration::ZERO });
        }
        let matmul = hidden.map_or(Ok(Duration::ZERO), |hidden| self.choose_on_host(batch, hidden, output, observe))?;
        Ok(Chosen { open: Vec::new(), matmul })
    }

    fn logits(&mut self, hidden: &D::Tensor, group: &[LogitsRow]) -> Result<Logits<D>, ModelError> {
        let rows: Vec<usize> = group.iter().map(|wanted| wanted.row).collect();
        self.decoder.logits(&self.device, &mut self.ranks, hidden, &rows)
    }

    fn sequence_of(&self, wanted: &LogitsRow) -> Result<&Sequence, PlanError> {
        self.sequences.get(&wanted.sequence).ok_or(PlanError::UnknownSequence(wanted.sequence))
    }

    /// Rank 0's choices, on their way to every rank's host.
    fn choose_on_device(&mut self, batch: &Batch, hidden: Option<&D::Tensor>) -> Result<Vec<D::Chosen>, ModelError> {
        let Some(hidden) = hidden.filter(|_| !batch.logits.is_empty()) else {
            return Ok(vec![self.device.nothing_chosen()?]);
        };
        let mut open = Vec::new();
        for group in batch.logits.chunks(LOGITS_ROWS) {
            if open.len() % GROUPS_AT_ONCE == GROUPS_AT_ONCE - 1 {
                self.ranks.settle(&self.device)?;
            }
            let logits = self.logits(hidden, group)?;
            open.push(self.choose_group(group, logits)?);
        }
        Ok(open)
    }

    fn choose_group(&mut self, group: &[LogitsRow], logits: Logits<D>) -> Result<D::Chosen, ModelError> {
        let vocab_size = logits.vocab_size;
        let Gathered::OnDevice { mut whole, parts } = logits.gathered else {
            let detail = "logits that were gathered on the host".into();
            return Err(DeviceError::Shape { operation: "choose", detail }.into());
        };
        let mut told = OnDevice::default();
        for wanted in group {
            let sequence = self.sequence_of(wanted)?;
            // Rank 0 alone answers.
            let described = wanted.described(sequence).filter(|_| self.ranks.is_first());
            match wanted.purpose {
                Purpose::Sample => told.push(&sequence.choice(wanted.next()), described),
                Purpose::Prompt => told.push_given(sequence.tokens[wanted.next() as usize], described),
            }
        }
        let mut chosen = self.device.choose(&mut whole, parts, vocab_size, &told.choosing, &told.edits)?;
        self.ranks.share_chosen(&self.device, &chosen)?;
        self.device.fetch(&mut chosen)?;
        Ok(chosen)
    }

    /// The same on the host; what the output matrix took.
    fn choose_on_host(
        &mut self,
        batch: &Batch,
        hidden: &D::Tensor,
        output: &mut StepOutput,
        mut observe: Option<Observer<'_>>,
    ) -> Result<Duration, ModelError> {
        let (mut sampler, mut row, mut matmul) = (Sampler::default(), Vec::new(), Duration::ZERO);
        for group in batch.logits.chunks(LOGITS_ROWS) {
            let began = Instant::now();
            let logits = self.logits(hidden, group)?;
            self.ranks.settle(&self.device)?;
            matmul += began.elapsed();
            let logits = logits.into_host(&self.device)?;
            for (i, wanted) in group.iter().enumerate() {
                logits.row(i, &mut row);
                if let Some(observe) = &mut observe {
                    observe(wanted.sequence, wanted.position, &row);
                }
                self.use_logits(wanted, &row, &mut sampler, output)?;
            }
        }
        let mut tokens: Vec<TokenId> = output.sampled.iter().map(|sampled| sampled.token).collect();
        self.ranks.share(&self.device, &mut tokens)?;
        for (sampled, token) in output.sampled.iter_mut().zip(tokens) {
            sampled.token = token;
        }
        Ok(matmul)
    }

    fn use_logits(
        &self,
        wanted: &LogitsRow,
        logits: &[f32],
        sampler: &mut Sampler,
        output: &mut StepOutput,
    ) -> Result<(), ModelError> {
        let (id, sequence) = (wanted.sequence, self.sequence_of(wanted)?);
        // A place for a token: rank 0's choice comes by the collective, and what is broken gets none.
        let unknown = Sampled { sequence: id, token: special::UNKNOWN, logprob: None };
        // Every rank has these logits, so all of them see this together. It ends one sequence and no other.
        let numbers = is_finite(logits);
        if !numbers {
            answer::broken(output, id);
        }
        let described = wanted.described(sequence);
        let logprob = |token| described.map(|top| LogSoftmax::new(logits).describe(token, top));
        match wanted.purpose {
            Purpose::Sample if !numbers || !self.ranks.is_first() => output.sampled.push(unknown),
            Purpose::Sample => {
                let token = sampler.choose(logits, &sequence.choice(wanted.next()));
                output.sampled.push(Sampled { token, logprob: logprob(token), ..unknown });
            }
            Purpose::Prompt if !numbers || !self.ranks.is_first() => {}
            Purpose::Prompt => {
                let token = sequence.tokens[wanted.next() as usize];
                logprob(token).into_iter().for_each(|said| answer::prompt_logprob(output, id, wanted.next(), said));
            }
        }
        Ok(())
    }
}
