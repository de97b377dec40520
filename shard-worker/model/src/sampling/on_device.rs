//! Choices as a device that chooses for itself wants them.

use std::collections::BTreeMap;

use bytemuck::Zeroable;
use tessera_device::{Choosing, LogitEdit};
use tessera_types::TokenId;

use super::{Choice, fraction};

/// Rows that a device is to choose for.
#[derive(Debug, Default)]
pub(crate) struct OnDevice {
    /// One a row.
    pub(crate) choosing: Vec<Choosing>,
    /// Those of all rows, row after row.
    pub(crate) edits: Vec<LogitEdit>,
}

impl OnDevice {
    /// Adds a row. `described` is how many of the most probable tokens are told beside the chosen one, if any is.
    pub(crate) fn push(&mut self, choice: &Choice<'_>, described: Option<u32>) {
        let params = choice.params;
        let begin = self.edits.len() as u32;
        self.edits.extend(edits(choice).into_values());
        self.choosing.push(Choosing {
            uniform: fraction(params.seed, choice.position),
            temperature: params.temperature,
            top_p: params.top_p,
            min_p: params.min_p,
            repetition: params.repetition_penalty,
            frequency: params.frequency_penalty,
            presence: params.presence_penalty,
            top_k: params.top_k,
            edits_begin: begin,
            edits_end: self.edits.len() as u32,
            given: Choosing::NONE,
            described: described.unwrap_or(Choosing::NONE),
            padding: 0,
        });
    }

    /// Adds a row whose token is known.
    pub(crate) fn push_given(&mut self, token: TokenId, described: Option<u32>) {
        let edits = self.edits.len() as u32;
        self.choosing.push(Choosing {
            given: token.0,
            described: described.unwrap_or(Choosing::NONE),
            edits_begin: edits,
            edits_end: edits,
            ..Choosing::zeroed()
        });
    }
}

/// One a token, in the order that [`super::Sampler`] has: masks, biases, penalties.
fn edits(choice: &Choice<'_>) -> BTreeMap<TokenId, LogitEdit> {
    let mut edits = BTreeMap::new();
    let mut edit = |token: TokenId, change: &dyn Fn(&mut LogitEdit)| {
        change(edits.entry(token).or_insert(LogitEdit { token: token.0, bias: 0.0, count: 0, flags: 0 }));
    };
    if choice.generated < choice.params.min_new_tokens as usize {
        choice.params.stop_tokens.iter().for_each(|token| edit(*token, &|edit| edit.flags |= LogitEdit::MASK));
    }
    choice.params.logit_bias.iter().for_each(|(token, bias)| edit(*token, &|edit| edit.bias += bias));
    for (token, count) in choice.counts.iter().flat_map(|counts| counts.iter()) {
        edit(token, &|edit| {
            edit.flags |= LogitEdit::PENALISE;
            edit.count = i32::try_from(count).unwrap_or(i32::MAX);
        });
    }
    edits
}

#[cfg(test)]
mod tests {
    use tessera_types::SamplingParams;

    use super::*;
    use crate::sampling::TokenCounts;

    #[test]
    fn a_token_that_is_masked_biased_and_penalised_has_one_edit() {
        let params = SamplingParams {
            min_new_tokens: 3,
            stop_tokens: vec![TokenId(2)],
            logit_bias: vec![(TokenId(2), 1.0), (TokenId(5), -1.5), (TokenId(2), 0.25)],
            presence_penalty: 0.5,
            ..SamplingParams::default()
        };
        let counts = TokenCounts::new(&[TokenId(5), TokenId(2), TokenId(2)], 1);
        let mut told = OnDevice::default();
        let choice = Choice { params: &params, counts: Some(&counts), generated: 2, position: 3 };
        told.push(&choice, Some(5));
        told.push_given(TokenId(9), None);
        told.push(&Choice { generated: 3, counts: None, ..choice }, None);
        let seen: Vec<_> = told.edits.iter().map(|edit| (edit.token, edit.bias, edit.count, edit.flags)).collect();
        assert_eq!(seen, [(2, 1.25, 2, 3), (5, -1.5, 0, 2), (2, 1.25, 0, 0), (5, -1.5, 0, 0)]);
        let rows: Vec<_> = told.choosing.iter().map(|row| (row.edits_begin, row.edits_end, row.given, row.described)).collect();
        const NONE: u32 = Choosing::NONE;
        assert_eq!(rows, [(0, 2, NONE, 5), (2, 2, 9, NONE), (2, 4, NONE, NONE)]);
    }
}
