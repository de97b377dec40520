//! Reading a step's output: tokens become events, ends are noticed, timings are shared out.

use std::time::Duration;

use tessera_types::{PromptLogprobs, Sampled, SequenceId, StepId, StepOutput};

use super::Engine;
use crate::event::{Event, FinishReason, RequestNumber};

/// A plan whose output has not come.
#[derive(Debug)]
pub(super) struct InFlight {
    pub(super) step: StepId,
    /// Sequences whose next token it chooses, in batch order.
    pub(super) samples: Vec<SequenceId>,
    /// Whose images it encodes, with their patches.
    pub(super) encodes: Vec<(RequestNumber, usize)>,
}

/// An output that does not answer the oldest plan under way. The group cannot be trusted further.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OutputError {
    /// Answers another plan.
    #[error("output of step {got}, expected {expected:?}")]
    Step {
        /// The oldest plan under way.
        expected: Option<StepId>,
        /// What came.
        got: StepId,
    },
    /// Has tokens of other sequences than the plan chose for.
    #[error("output of step {0} has tokens of other sequences than planned")]
    Sequences(StepId),
}

impl Engine {
    /// Reads the output of the oldest plan under way. One of another epoch is let be: a group that was given up may
    /// still speak.
    pub fn apply(&mut self, now: Duration, output: StepOutput) -> Result<(), OutputError> {
        if output.epoch != self.epoch {
            return Ok(());
        }
        let plan = match self.in_flight.front() {
            Some(plan) if plan.step == output.step => plan,
            front => return Err(OutputError::Step { expected: front.map(|plan| plan.step), got: output.step }),
        };
        if !output.sampled.iter().map(|sampled| sampled.sequence).eq(plan.samples.iter().copied()) {
            return Err(OutputError::Sequences(output.step));
        }
        self.share_encode_time(output.timings.encode_us);
        self.in_flight.pop_front();
        // What is known of a broken prompt has gaps.
        let whole = output.prompt_logprobs.into_iter().filter(|entry| !output.broken.contains(&entry.sequence));
        whole.for_each(|entry| self.tell_prompt_logprobs(entry));
        output.broken.into_iter().for_each(|sequence| self.finish(now, sequence, FinishReason::Broken));
        // A sequence that has ended, as by this, takes no more tokens.
        output.sampled.into_iter().for_each(|sampled| self.take_token(now, sampled));
        Ok(())
    }

    /// Gives every image of the plan its part of the time by its patches.
    fn share_encode_time(&mut self, encode_us: u64) {
        let Some(plan) = self.in_flight.front() else { return };
        let whole: usize = plan.encodes.iter().map(|(_, patches)| patches).sum();
        for (request, patches) in &plan.encodes {
            if let Some(request) = self.requests.get_mut(request) {
                request.stamps.encode += Duration::from_micros(encode_us * *patches as u64 / whole as u64);
            }
        }
    }

    /// Tells what was not told before: a prompt that is computed again is described again.
    fn tell_prompt_logprobs(&mut self, mut entry: PromptLogprobs) {
        let Some(sequence) = self.sequences.get_mut(&entry.sequence) else { return };
        let told = sequence.next_prompt_logprob.saturating_sub(entry.start) as usize;
        if told >= entry.tokens.len() {
            return;
        }
        entry.tokens.drain(..told);
        entry.start += told as u32;
        sequence.next_prompt_logprob = entry.start + entry.tokens.len() as u32;
        self.events.push(Event::PromptLogprobs(entry));
    }

    /// Adds a token to its sequence, which may have ended since the plan was made: the token is then dropped.
    fn take_token(&mut self, now: Duration, sampled: Sampled) {
        let Sampled { sequence: id, token, logprob } = sampled;
        let Some(sequence) = self.sequences.get_mut(&id) else { return };
        sequence.in_flight -= 1;
        let position = sequence.generated.len();
        sequence.generated.push(token);
        if let Some(request) = self.requests.get_mut(&sequence.request) {
            request.stamps.first_token.get_or_insert(now);
            sequence.name_blocks(&request.images);
        }
        sequence.take_full().for_each(|(id, name)| self.pool.name(id, name));
        self.events.push(Event::Token { sequence: id, position, token, logprob });
        if let Some(reason) = sequence.end() {
            self.finish(now, id, reason);
        }
    }
}
