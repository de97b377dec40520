//! How the next token is chosen.

use serde::{Deserialize, Serialize};

use crate::TokenId;

/// Sampling parameters with every default resolved. Built by the router, obeyed by rank 0.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SamplingParams {
    /// 0 is greedy; otherwise logits are divided by it.
    pub temperature: f32,
    /// Keep the smallest set of most probable tokens that reaches this mass; 1 keeps all.
    pub top_p: f32,
    /// Keep this many most probable tokens; 0 keeps all.
    pub top_k: u32,
    /// Drop tokens less probable than this share of the most probable one; 0 keeps all.
    pub min_p: f32,
    /// Taken off the logit of every token already generated.
    pub presence_penalty: f32,
    /// Taken off the logit of a generated token, once for each time it was generated.
    pub frequency_penalty: f32,
    /// Divides positive and multiplies negative logits of every token in prompt or output; 1 is off.
    pub repetition_penalty: f32,
    /// With the position, the only source of randomness.
    pub seed: u64,
    /// Added to the logits named.
    pub logit_bias: Vec<(TokenId, f32)>,
    /// Tokens to generate at most.
    pub max_new_tokens: u32,
    /// Stop tokens are not chosen before this many tokens were generated.
    pub min_new_tokens: u32,
    /// Tokens that end the sequence: the end token unless it is ignored, and the client's own.
    pub stop_tokens: Vec<TokenId>,
    /// Log-probabilities to report.
    pub logprobs: Logprobs,
}

/// Which log-probabilities a request asks for; all are of the raw distribution, before temperature and penalties.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Logprobs {
    /// Of each generated token and so many most probable ones beside it.
    pub generated: Option<u32>,
    /// Of each prompt token after the first and so many most probable ones beside it.
    pub prompt: Option<u32>,
}

impl Default for SamplingParams {
    fn default() -> Self {
        Self {
            temperature: 1.0,
            top_p: 1.0,
            top_k: 0,
            min_p: 0.0,
            presence_penalty: 0.0,
            frequency_penalty: 0.0,
            repetition_penalty: 1.0,
            seed: 0,
            logit_bias: Vec::new(),
            max_new_tokens: 256,
            min_new_tokens: 0,
            stop_tokens: vec![crate::special::END],
            logprobs: Logprobs::default(),
        }
    }
}

/// A parameter outside its range.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("{field} must be {expected}, got {got}")]
pub struct SamplingError {
    /// The parameter, as the API names it.
    pub field: &'static str,
    /// What is allowed.
    pub expected: &'static str,
    /// What was given.
    pub got: String,
}

/// The most alternatives a request may ask log-probabilities of.
pub const MAX_TOP_LOGPROBS: u32 = 20;

impl SamplingParams {
    /// Checks every range against a vocabulary of `vocab_size` tokens; the first parameter out of range is named.
    pub fn validate(&self, vocab_size: usize) -> Result<(), SamplingError> {
        let range = |field, value: f32, expected, ok: bool| {
            if ok && value.is_finite() { Ok(()) } else { Err(SamplingError { field, expected, got: value.to_string() }) }
        };
        range("temperature", self.temperature, "between 0 and 100", (0.0..=100.0).contains(&self.temperature))?;
        range("top_p", self.top_p, "above 0 and at most 1", self.top_p > 0.0 && self.top_p <= 1.0)?;
        range("min_p", self.min_p, "between 0 and 1", (0.0..=1.0).contains(&self.min_p))?;
        range("presence_penalty", self.presence_penalty, "between -2 and 2", (-2.0..=2.0).contains(&self.presence_penalty))?;
        range("frequency_penalty", self.frequency_penalty, "between -2 and 2", (-2.0..=2.0).contains(&self.frequency_penalty))?;
        range(
            "repetition_penalty",
            self.repetition_penalty,
            "above 0 and at most 100",
            self.repetition_penalty > 0.0 && self.repetition_penalty <= 100.0,
        )?;
        for (token, bias) in &self.logit_bias {
            range("logit_bias", *bias, "between -100 and 100", (-100.0..=100.0).contains(bias))?;
            in_vocabulary("logit_bias", *token, vocab_size)?;
        }
        for token in &self.stop_tokens {
            in_vocabulary("stop_token_ids", *token, vocab_size)?;
        }
        if self.max_new_tokens == 0 {
            return Err(SamplingError { field: "max_new_tokens", expected: "at least 1", got: "0".into() });
        }
        if self.min_new_tokens > self.max_new_tokens {
            let got = format!("{} with max_new_tokens {}", self.min_new_tokens, self.max_new_tokens);
            return Err(SamplingError { field: "min_new_tokens", expected: "at most max_new_tokens", got });
        }
        for (field, count) in [("logprobs", self.logprobs.generated), ("prompt_logprobs", self.logprobs.prompt)] {
            if let Some(count) = count.filter(|&count| count > MAX_TOP_LOGPROBS) {
                return Err(SamplingError { field, expected: "at most 20", got: count.to_string() });
            }
        }
        Ok(())
    }
}

fn in_vocabulary(field: &'static str, token: TokenId, vocab_size: usize) -> Result<(), SamplingError> {
    if (token.0 as usize) < vocab_size {
        return Ok(());
    }
    Err(SamplingError { field, expected: "ids inside the vocabulary", got: format!("{token} of {vocab_size}") })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nan_and_negative_parameters_are_refused_by_name() {
        let cases: [(&str, SamplingParams); 4] = [
            ("temperature", SamplingParams { temperature: f32::NAN, ..Default::default() }),
            ("temperature", SamplingParams { temperature: -1.0, ..Default::default() }),
            ("top_p", SamplingParams { top_p: 0.0, ..Default::default() }),
            ("min_new_tokens", SamplingParams { min_new_tokens: 300, ..Default::default() }),
        ];
        for (field, params) in cases {
            assert_eq!(params.validate(4096).unwrap_err().field, field);
        }
        assert_eq!(SamplingParams::default().validate(4096), Ok(()));
    }
}
