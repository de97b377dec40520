//! Made-up distributions: a few tokens with falling probabilities, which ones the context decides.

use std::ops::Range;

use tessera_types::{SamplingParams, TokenId, TokenLogprob, mix, special};

use crate::sampling::{Choice, LogSoftmax, Sampler};

/// Tokens that can come next; more than any request may ask log-probabilities of.
const CANDIDATES: u32 = 32;
/// Between the logits of neighbours, at least and at most.
const STEP: Range<f32> = 0.2..0.4;
/// Logits of tokens that are none of the candidates.
const OTHERS: f32 = -14.0;
/// Control tokens of a vocabulary that is too small to have all that are reserved.
const FEW: u32 = 17;

/// What can come next, the most probable first.
#[derive(Clone, Debug)]
pub(super) struct Candidates {
    tokens: Vec<TokenId>,
    logits: Vec<f32>,
}

impl Candidates {
    /// Behind a context. No control token is among them, and none of `never`, unless there are no others.
    pub(super) fn new(context: u64, vocab_size: usize, never: &[TokenId]) -> Self {
        let ordinary = ordinary(vocab_size as u32);
        let span = ordinary.len() as u32;
        let at = |i: u32| TokenId(ordinary.start + ((mix(context) % u64::from(span)) as u32 + i) % span);
        let mut tokens: Vec<_> = (0..span.min(CANDIDATES)).map(at).filter(|token| !never.contains(token)).collect();
        if tokens.is_empty() {
            tokens.push(at(0));
        }
        let mut logit = 0.0;
        let logits = (0..tokens.len() as u64).map(|i| {
            let share = (mix(context ^ i) >> 40) as f32 / (1 << 24) as f32;
            logit -= STEP.start + share * (STEP.end - STEP.start);
            logit
        });
        Self { logits: logits.collect(), tokens }
    }

    /// The next token. `params` name no tokens: candidates have places instead of ids.
    pub(super) fn choose(&self, sampler: &mut Sampler, params: &SamplingParams, position: u32) -> TokenId {
        let choice = Choice { params, counts: None, generated: 0, position };
        self.tokens[sampler.choose(&self.logits, &choice).0 as usize]
    }

    /// A token with the `top` most probable ones beside it.
    pub(super) fn describe(mut self, token: TokenId, top: u32) -> TokenLogprob {
        let place = self.tokens.iter().position(|candidate| *candidate == token).unwrap_or_else(|| {
            self.tokens.push(token);
            self.logits.push(OTHERS);
            self.tokens.len() - 1
        });
        let described = LogSoftmax::new(&self.logits).describe(TokenId(place as u32), top);
        let named = |(place, logprob): (TokenId, f32)| (self.tokens[place.0 as usize], logprob);
        TokenLogprob { token, logprob: described.logprob, top: described.top.into_iter().map(named).collect() }
    }
}

/// Ids that are text.
fn ordinary(vocab_size: u32) -> Range<u32> {
    let first = [special::COUNT, FEW, 0].into_iter().find(|first| *first < vocab_size).unwrap_or(0);
    first..vocab_size.max(first + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_distribution_is_one_and_falls() {
        for context in 0..200 {
            let candidates = Candidates::new(context, 131_072, &[]);
            let all = candidates.clone().describe(candidates.tokens[0], CANDIDATES);
            let sum: f32 = all.top.iter().map(|(_, logprob)| logprob.exp()).sum();
            assert!((sum - 1.0).abs() < 1e-4, "{sum}");
            assert!(all.top.is_sorted_by(|a, b| a.1 > b.1));
            assert!(all.top.iter().all(|(token, _)| (1000..131_072).contains(&token.0)));
        }
    }

    #[test]
    fn a_token_that_could_not_come_is_improbable_but_possible() {
        let described = Candidates::new(1, 131_072, &[]).describe(TokenId(2), 3);
        assert!(described.logprob.is_finite() && described.logprob < -10.0);
        assert_eq!((described.token, described.top.len()), (TokenId(2), 3));
    }

    #[test]
    fn what_must_never_come_does_not_come_where_there_is_anything_else() {
        for vocab_size in [1, 2, 16, 17, 20, 1000, 1001, 1040] {
            for context in 0..200 {
                let ends = [TokenId(vocab_size as u32 - 1)];
                let token = Candidates::new(context, vocab_size, &ends).tokens[0];
                assert!((token.0 as usize) < vocab_size);
                assert!(token != ends[0] || ordinary(vocab_size as u32).len() == 1, "{token} of {vocab_size}");
            }
        }
    }

    #[test]
    fn sampling_draws_by_seed_and_position_and_greedy_does_not() {
        let candidates = Candidates::new(9, 131_072, &[]);
        let mut sampler = Sampler::default();
        let mut drawn = |temperature, top_k| {
            let params = |seed| SamplingParams { temperature, top_k, seed, ..Default::default() };
            let tokens: std::collections::HashSet<_> =
                (0..400).map(|seed| candidates.choose(&mut sampler, &params(seed), 5)).collect();
            tokens.len()
        };
        assert_eq!(drawn(0.0, 0), 1);
        assert_eq!(drawn(1.0, 3), 3);
        assert!(drawn(1.0, 0) > 8);
    }
}
