//! What a step's answer says of a row.

use tessera_types::{PromptLogprobs, SequenceId, StepOutput, TokenLogprob};

/// Says that a sequence's logits are no numbers to choose from.
pub(crate) fn broken(output: &mut StepOutput, sequence: SequenceId) {
    if !output.broken.contains(&sequence) {
        output.broken.push(sequence);
    }
}

/// Says how probable a prompt's token at `position` was. A sequence's come one behind the other.
pub(crate) fn prompt_logprob(output: &mut StepOutput, sequence: SequenceId, position: u32, logprob: TokenLogprob) {
    match output.prompt_logprobs.last_mut().filter(|last| last.sequence == sequence) {
        Some(last) => last.tokens.push(logprob),
        None => output.prompt_logprobs.push(PromptLogprobs { sequence, start: position, tokens: vec![logprob] }),
    }
}
