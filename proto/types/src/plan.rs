//! What one step does, and what comes of it.

use bytes::Bytes;

use crate::{BlockId, Epoch, Grid, ImageKey, PlacedImage, SamplingParams, SequenceId, StepId, TokenId};

/// One forward pass over a batch of sequence chunks. The coordinator sends the same bytes to every rank.
///
/// A plan may be sent before the last one's output is known: a decode chunk feeds whatever token the ranks
/// chose last, so it need not name it.
///
/// Order of effects: `end` and `forget_images`, then `start`, then `encode`, then `chunks`.
#[derive(Clone, Debug, PartialEq)]
pub struct StepPlan {
    /// The group's life this plan belongs to.
    pub epoch: Epoch,
    /// Counts up by one.
    pub step: StepId,
    /// Sequences to forget: finished, cancelled or pre-empted.
    pub end: Vec<SequenceId>,
    /// Encoder outputs to forget.
    pub forget_images: Vec<ImageKey>,
    /// Sequences the ranks have not seen, or have forgotten.
    pub start: Vec<SequenceStart>,
    /// Images to encode; a chunk of the same plan may already use them.
    pub encode: Vec<ImageEncode>,
    /// The batch, in order; at most one chunk a sequence.
    pub chunks: Vec<Chunk>,
}

/// A sequence with everything a rank must know to run it from nothing.
#[derive(Clone, Debug, PartialEq)]
pub struct SequenceStart {
    /// The sequence.
    pub sequence: SequenceId,
    /// The prompt, and behind it what was generated before a pre-emption or a loss.
    pub tokens: Vec<TokenId>,
    /// How many of `tokens` are the prompt.
    pub prompt_len: u32,
    /// Images in the prompt, in order of position.
    pub images: Vec<PlacedImage>,
    /// How its tokens are chosen.
    pub sampling: SamplingParams,
}

/// An image to run through the vision encoder and the adapter.
#[derive(Clone, Debug, PartialEq)]
pub struct ImageEncode {
    /// The name of the output.
    pub key: ImageKey,
    /// Patches.
    pub grid: Grid,
    /// Normalised pixels, little-endian f32, planar `[3, rows * patch, cols * patch]`.
    pub pixels: Bytes,
}

/// A run of one sequence's tokens in a step.
#[derive(Clone, Debug, PartialEq)]
pub struct Chunk {
    /// The sequence.
    pub sequence: SequenceId,
    /// Position of the first token; keys and values of all earlier positions are in the cache.
    pub start: u32,
    /// Tokens, at least 1.
    pub len: u32,
    /// Blocks that this chunk adds behind those the sequence has.
    pub new_blocks: Vec<BlockId>,
    /// Whether the last token's logits choose the sequence's next token.
    pub sample: bool,
}

/// What rank 0 says of a step.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct StepOutput {
    /// The plan's epoch.
    pub epoch: Epoch,
    /// The plan's number.
    pub step: StepId,
    /// One entry for each chunk with `sample`, in batch order.
    pub sampled: Vec<Sampled>,
    /// For chunks of sequences that ask for them.
    pub prompt_logprobs: Vec<PromptLogprobs>,
    /// Sequences whose logits were no numbers to choose from: weights are damaged, or overflow. Their tokens mean nothing.
    pub broken: Vec<SequenceId>,
    /// Where the time went.
    pub timings: StepTimings,
}

/// A sequence's next token.
#[derive(Clone, Debug, PartialEq)]
pub struct Sampled {
    /// The sequence.
    pub sequence: SequenceId,
    /// The token chosen.
    pub token: TokenId,
    /// Its log-probability, when asked for.
    pub logprob: Option<TokenLogprob>,
}

/// A token's log-probability under the raw distribution, with the most probable alternatives.
#[derive(Clone, Debug, PartialEq)]
pub struct TokenLogprob {
    /// The token.
    pub token: TokenId,
    /// Natural logarithm.
    pub logprob: f32,
    /// The most probable tokens, most probable first, ties by id.
    pub top: Vec<(TokenId, f32)>,
}

/// Log-probabilities of a chunk's prompt tokens.
#[derive(Clone, Debug, PartialEq)]
pub struct PromptLogprobs {
    /// The sequence.
    pub sequence: SequenceId,
    /// Position of the first token described; never 0, since nothing predicts the first token.
    pub start: u32,
    /// One entry a position.
    pub tokens: Vec<TokenLogprob>,
}

/// Microseconds a step spent, as rank 0 saw them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StepTimings {
    /// Vision encoder and adapter.
    pub encode_us: u64,
    /// Decoder.
    pub forward_us: u64,
    /// Logits to token ids.
    pub sample_us: u64,
    /// Of the above, waiting in collectives.
    pub collective_us: u64,
}
