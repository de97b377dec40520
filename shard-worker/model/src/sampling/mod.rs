//! Choosing tokens: pure functions of a row of logits on the host.
//!
//! The order is vLLM's: raw log-probabilities first; then stop tokens are masked, biases added, penalties taken off;
//! then, unless greedy, temperature, min-p, top-k and top-p.

mod filter;
mod logprobs;
mod on_device;
mod penalties;
mod random;
#[cfg(test)]
mod tests;

use tessera_types::{SamplingParams, TokenId};

pub use logprobs::LogSoftmax;
pub(crate) use on_device::OnDevice;
pub use penalties::TokenCounts;
pub(crate) use random::fraction;
pub use random::uniform;

/// What is known of a sequence when its next token is chosen.
#[derive(Clone, Copy, Debug)]
pub struct Choice<'a> {
    /// How to choose.
    pub params: &'a SamplingParams,
    /// Tokens so far; needed where [`TokenCounts::needed`] says so.
    pub counts: Option<&'a TokenCounts>,
    /// Tokens chosen so far.
    pub generated: usize,
    /// Position the token will have. With the seed the only source of randomness.
    pub position: u32,
}

/// Chooses tokens; keeps its buffers from row to row.
#[derive(Debug, Default)]
pub struct Sampler {
    logits: Vec<f32>,
    weights: Vec<f64>,
}

impl Sampler {
    /// Chooses a token from logits that [`is_finite`] accepts.
    pub fn choose(&mut self, logits: &[f32], choice: &Choice<'_>) -> TokenId {
        let params = choice.params;
        self.logits.clear();
        self.logits.extend_from_slice(logits);
        if choice.generated < params.min_new_tokens as usize {
            for token in &params.stop_tokens {
                self.logits[token.0 as usize] = f32::NEG_INFINITY;
            }
        }
        for (token, bias) in &params.logit_bias {
            self.logits[token.0 as usize] += bias;
        }
        if let Some(counts) = choice.counts {
            counts.penalise(&mut self.logits, params);
        }
        let best = argmax(&self.logits);
        if params.temperature == 0.0 || self.logits[best] == f32::NEG_INFINITY {
            return TokenId(best as u32);
        }
        self.weigh(best, params.temperature);
        let uniform = uniform(params.seed, choice.position);
        match filter::keep(&self.weights, params) {
            None => draw(uniform, (0..self.weights.len()).map(|id| (id, self.weights[id])), best),
            Some(kept) => draw(uniform, kept.iter().map(|&id| (id as usize, self.weights[id as usize])), best),
        }
    }

    /// Probabilities relative to the best token's.
    fn weigh(&mut self, best: usize, temperature: f32) {
        let (max, temperature) = (f64::from(self.logits[best]), f64::from(temperature));
        self.weights.clear();
        self.weights.extend(self.logits.iter().map(|&logit| ((f64::from(logit) - max) / temperature).exp()));
    }
}

/// Whether logits can be chosen from: no NaN, none infinitely high, not all infinitely low.
pub fn is_finite(logits: &[f32]) -> bool {
    let mut max = f32::NEG_INFINITY;
    let mut numbers = true;
    for &logit in logits {
        numbers &= !logit.is_nan();
        max = max.max(logit);
    }
    numbers && max.is_finite()
}

/// The highest logit; the lowest id among equals.
fn argmax(logits: &[f32]) -> usize {
    let mut best = 0;
    for (id, &logit) in logits.iter().enumerate() {
        if logit > logits[best] {
            best = id;
        }
    }
    best
}

/// The token at which the cumulative weight, taken in order of id, passes the share `uniform` of the whole.
fn draw(uniform: f64, weights: impl Iterator<Item = (usize, f64)> + Clone, best: usize) -> TokenId {
    let target = uniform * weights.clone().map(|(_, weight)| weight).sum::<f64>();
    let mut sum = 0.0;
    let passed = |&(_, weight): &(usize, f64)| {
        sum += weight;
        sum > target
    };
    // Rounding may leave the sum just at the target; the most probable token then stands in.
    TokenId(weights.into_iter().find(passed).map_or(best, |(id, _)| id) as u32)
}
