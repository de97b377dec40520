//! Penalties for tokens that were there before.

use std::collections::HashMap;

use tessera_types::{SamplingParams, TokenId};

/// How often each token of a sequence was generated; tokens only in the prompt count 0.
#[derive(Clone, Debug, Default)]
pub struct TokenCounts {
    generated: HashMap<TokenId, u32>,
}

impl TokenCounts {
    /// Whether these parameters look at earlier tokens.
    pub fn needed(params: &SamplingParams) -> bool {
        params.repetition_penalty != 1.0 || params.presence_penalty != 0.0 || params.frequency_penalty != 0.0
    }

    /// Counts a sequence whose first `prompt_len` tokens are its prompt.
    pub fn new(tokens: &[TokenId], prompt_len: usize) -> Self {
        let mut counts = Self::default();
        let (prompt, output) = tokens.split_at(prompt_len.min(tokens.len()));
        for &token in prompt {
            counts.generated.entry(token).or_default();
        }
        output.iter().for_each(|&token| counts.push(token));
        counts
    }

    /// Counts one more generated token.
    pub fn push(&mut self, token: TokenId) {
        *self.generated.entry(token).or_default() += 1;
    }

    /// Every token seen, and how often it was generated.
    pub fn iter(&self) -> impl Iterator<Item = (TokenId, u32)> {
        self.generated.iter().map(|(token, count)| (*token, *count))
    }

    /// Repetition over prompt and output, then frequency and presence over the output.
    pub fn penalise(&self, logits: &mut [f32], params: &SamplingParams) {
        for (token, &count) in &self.generated {
            let logit = &mut logits[token.0 as usize];
            *logit = if *logit > 0.0 { *logit / params.repetition_penalty } else { *logit * params.repetition_penalty };
            if count > 0 {
                *logit -= params.frequency_penalty * count as f32;
                *logit -= params.presence_penalty;
            }
        }
    }
}
