//! What a request's session says to whichever front serves it.

use tessera_types::{TokenId, TokenLogprob};

/// The request passed every check and has a place in a replica's queue.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Accepted {
    /// The request's name.
    pub(crate) request_id: String,
    /// Image tokens included.
    pub(crate) prompt_tokens: u32,
    /// Of these, images'.
    pub(crate) image_tokens: u32,
    /// Requests ahead.
    pub(crate) queue_position: u32,
}

/// What follows `Accepted`, `Usage` last.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Event {
    /// More of a sequence.
    Delta(Delta),
    /// A sequence is over.
    Finished(Finished),
    /// What ran the request was lost, and another goes on with it; so many tokens of all sequences came before.
    Resumed(u32),
    /// The request is over.
    Usage(Usage),
}

/// More of a sequence: the text that became certain, and the tokens that arrived.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Delta {
    /// Which of the n sequences.
    pub(crate) index: u32,
    /// Counts a sequence's deltas from 0, without gaps.
    pub(crate) seq: u64,
    /// Whole characters; empty while one is incomplete or may be the beginning of a stop string.
    pub(crate) text: String,
    /// Tokens that arrived, in order; never one behind a stop string's match.
    pub(crate) tokens: Vec<TokenId>,
    /// One for each of `tokens`, when asked for.
    pub(crate) logprobs: Vec<TokenLogprob>,
    /// Once, with the first sequence's first delta, when asked for.
    pub(crate) prompt_logprobs: Vec<TokenLogprob>,
    /// Tokens of all sequences so far.
    pub(crate) generated_tokens: u32,
}

/// How a sequence ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Finished {
    /// Which of the n sequences.
    pub(crate) index: u32,
    /// Why.
    pub(crate) reason: FinishReason,
    /// The seed that was used.
    pub(crate) seed: u64,
    /// Tokens of all sequences so far.
    pub(crate) generated_tokens: u32,
}

/// Why a sequence ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum FinishReason {
    /// Its text met this stop string.
    StopString(String),
    /// It chose this stop token.
    StopToken(TokenId),
    /// It has as many tokens as were asked for, or the context is full.
    Length,
}

/// What a request took.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Usage {
    /// Image tokens included.
    pub(crate) prompt_tokens: u32,
    /// Of the prompt's tokens, those that the replica did not have to compute.
    pub(crate) cached_prompt_tokens: u32,
    /// Of all sequences, stop tokens included.
    pub(crate) generated_tokens: u32,
    /// Of the prompt's tokens, images'.
    pub(crate) image_tokens: u32,
    /// Images in the prompt.
    pub(crate) images: u32,
    /// Where the time went.
    pub(crate) timings: Timings,
}

/// Where a request's time went, in microseconds; `tessera.v1.Timings` says what each one covers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Timings {
    /// Fetching images.
    pub(crate) image_fetch_us: u64,
    /// Decoding and preparing images.
    pub(crate) image_decode_us: u64,
    /// In the coordinator's queue.
    pub(crate) queue_us: u64,
    /// In the vision encoder.
    pub(crate) encode_us: u64,
    /// From leaving the queue to the first token.
    pub(crate) prefill_us: u64,
    /// From the first token to the last.
    pub(crate) decode_us: u64,
    /// From the request's arrival to its first token.
    pub(crate) time_to_first_token_us: u64,
    /// From the request's arrival to its end.
    pub(crate) total_us: u64,
}
