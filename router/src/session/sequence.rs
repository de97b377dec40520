//! One sequence of a request as its client sees it: tokens in, text and an end out. Pure.

use std::sync::Arc;

use tessera_prompt::Tokenizer;
use tessera_types::{SamplingParams, TokenId};

use crate::{
    event::{FinishReason, Finished},
    resolve::Resolved,
    stops::StopScanner,
    text::TextStream,
};

/// A sequence's tokens so far and what they say.
pub(crate) struct Sequence {
    index: u32,
    params: SamplingParams,
    include_stop: bool,
    generated: Vec<TokenId>,
    text: TextStream,
    scanner: StopScanner,
    deltas: u64,
    finished: bool,
}

/// What a token, or the end of tokens, brings.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Progress {
    /// Text that became certain.
    pub(crate) text: String,
    /// The end, if this is it.
    pub(crate) finished: Option<Finished>,
}

impl Progress {
    /// Whether a stop string ended the sequence: the replica does not know that yet.
    pub(crate) fn stopped_by_text(&self) -> bool {
        matches!(&self.finished, Some(Finished { reason: FinishReason::StopString(_), .. }))
    }
}

impl Sequence {
    /// The sequence `index` of a resolved request.
    pub(crate) fn new(index: u32, params: SamplingParams, resolved: &Resolved, tokenizer: &Arc<Tokenizer>) -> Self {
        Self {
            index,
            params,
            include_stop: resolved.include_stop,
            generated: Vec::new(),
            text: TextStream::new(tokenizer.clone()),
            scanner: StopScanner::new(resolved.stops.clone()),
            deltas: 0,
            finished: false,
        }
    }

    /// Takes the next token. The sequence ends here by itself at a stop string, at a stop token and at its length.
    pub(crate) fn token(&mut self, token: TokenId) -> Progress {
        self.generated.push(token);
        let mut text = String::new();
        let is_stop = self.params.stop_tokens.contains(&token);
        if !is_stop || self.include_stop {
            let piece = self.text.push(token);
            if let Some(stop) = self.scan(&piece, &mut text) {
                let reason = FinishReason::StopString(self.scanner.stops().text(stop).to_owned());
                return Progress { text, finished: Some(self.finish(reason)) };
            }
        }
        let full = self.generated.len() >= self.params.max_new_tokens as usize;
        let reason = if is_stop { FinishReason::StopToken(token) } else { FinishReason::Length };
        let finished = (is_stop || full).then(|| self.end(reason, &mut text));
        Progress { text, finished }
    }

    /// No more tokens come though the sequence did not expect it: the context is full.
    pub(crate) fn cut(&mut self) -> Progress {
        let mut text = String::new();
        let finished = Some(self.end(FinishReason::Length, &mut text));
        Progress { text, finished }
    }

    /// Whether its end was told.
    pub(crate) fn is_finished(&self) -> bool {
        self.finished
    }

    /// Every token so far: what a replica that takes over is told.
    pub(crate) fn generated(&self) -> &[TokenId] {
        &self.generated
    }

    /// How its tokens are chosen.
    pub(crate) fn params(&self) -> &SamplingParams {
        &self.params
    }

    /// The number of its next delta.
    pub(crate) fn next_delta(&mut self) -> u64 {
        self.deltas += 1;
        self.deltas - 1
    }

    /// Text of the tokens that were a minimum cannot end a sequence.
    fn scan(&mut self, piece: &str, text: &mut String) -> Option<usize> {
        if self.generated.len() <= self.params.min_new_tokens as usize {
            self.scanner.pass(piece, text);
            return None;
        }
        self.scanner.push(piece, text)
    }

    /// Releases what was held back: an incomplete character, the beginning of a stop string.
    fn end(&mut self, reason: FinishReason, text: &mut String) -> Finished {
        let rest = self.text.finish();
        self.scanner.pass(&rest, text);
        self.finish(reason)
    }

    fn finish(&mut self, reason: FinishReason) -> Finished {
        self.finished = true;
        Finished { index: self.index, reason, seed: self.params.seed, generated_tokens: 0 }
    }
}

#[cfg(test)]
#[path = "sequence_tests.rs"]
mod tests;
