//! What the engine tells of its requests.

use std::time::Duration;

use tessera_types::{PromptLogprobs, SequenceId, TokenId, TokenLogprob};

/// A request within an engine's life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestNumber(pub u64);

/// News of a sequence or a request. A sequence's events come in order and end with [`Event::Finished`].
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// A generated token; each position comes exactly once, whatever was pre-empted or replayed. A stop token comes,
    /// too, before the end it causes.
    Token {
        /// The sequence.
        sequence: SequenceId,
        /// Generated tokens before this one, counting those a resumed request brought.
        position: usize,
        /// The token.
        token: TokenId,
        /// When asked for.
        logprob: Option<TokenLogprob>,
    },
    /// Prompt log-probabilities, a run of positions; each position comes exactly once.
    PromptLogprobs(PromptLogprobs),
    /// The sequence's last event.
    Finished {
        /// The sequence.
        sequence: SequenceId,
        /// Why.
        reason: FinishReason,
    },
    /// The request's last event, behind its last sequence's.
    RequestFinished {
        /// The request.
        request: RequestNumber,
        /// Where its time went.
        timings: RequestTimings,
        /// Prompt tokens whose keys and values its first sequence found in the cache.
        cached_prompt_tokens: usize,
    },
}

/// Why a sequence ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FinishReason {
    /// This stop token was chosen.
    Stop(TokenId),
    /// It has all the tokens it asked for, or all the context holds.
    Length,
    /// It was cancelled.
    Cancelled,
    /// Its request's deadline passed.
    DeadlineExceeded,
    /// The group was re-formed with a smaller cache, which the sequence has filled before it was done.
    CacheTooSmall,
    /// The model gave no numbers to choose a token from.
    Broken,
}

/// Where a request's time went; the parts add up to its whole time in the engine.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RequestTimings {
    /// From submission to the first chunk planned.
    pub queue: Duration,
    /// Its share of the time spent in the vision encoder.
    pub encode: Duration,
    /// From the first chunk planned to the first token, encoding left out.
    pub prefill: Duration,
    /// From the first token to the end.
    pub decode: Duration,
}
