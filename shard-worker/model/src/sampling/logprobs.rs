//! Log-probabilities under the raw distribution.

use tessera_types::{TokenId, TokenLogprob};

/// Log-softmax of a row. The sum runs in order of id in f64, so equal logits give equal bits.
#[derive(Clone, Copy, Debug)]
pub struct LogSoftmax<'a> {
    logits: &'a [f32],
    log_sum: f64,
}

impl<'a> LogSoftmax<'a> {
    /// Of logits that [`super::is_finite`] accepts.
    pub fn new(logits: &'a [f32]) -> Self {
        let max = f64::from(logits.iter().copied().fold(f32::NEG_INFINITY, f32::max));
        let sum: f64 = logits.iter().map(|&logit| (f64::from(logit) - max).exp()).sum();
        Self { logits, log_sum: max + sum.ln() }
    }

    /// A token's log-probability.
    pub fn of(&self, token: TokenId) -> f32 {
        (f64::from(self.logits[token.0 as usize]) - self.log_sum) as f32
    }

    /// The `count` most probable tokens, most probable first, ties by id.
    pub fn top(&self, count: usize) -> Vec<(TokenId, f32)> {
        let mut best: Vec<usize> = Vec::with_capacity(count + 1);
        for (id, &logit) in self.logits.iter().enumerate() {
            if best.len() == count && best.last().is_none_or(|&last| logit <= self.logits[last]) {
                continue;
            }
            let place = best.partition_point(|&other| self.logits[other] >= logit);
            best.insert(place, id);
            best.truncate(count);
        }
        best.into_iter().map(|id| TokenId(id as u32)).map(|token| (token, self.of(token))).collect()
    }

    /// A token with the `top` most probable ones beside it.
    pub fn describe(&self, token: TokenId, top: u32) -> TokenLogprob {
        TokenLogprob { token, logprob: self.of(token), top: self.top(top as usize) }
    }
}
