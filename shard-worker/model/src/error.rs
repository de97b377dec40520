//! What loading and running a model can fail with.

use tessera_collective::CollectiveError;
use tessera_device::DeviceError;
use tessera_types::{BlockId, ImageKey, Rank, SamplingError, SequenceId, StepId, TokenId};

use crate::CheckpointError;

/// A model's failure. After any but [`ModelError::Plan`] the sequences are lost and must be replayed.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum ModelError {
    /// The weights cannot be read.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// The device failed.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// The ranks came apart.
    #[error(transparent)]
    Collective(#[from] CollectiveError),
    /// The plan cannot be run; nothing of it was done.
    #[error("step plan refused: {0}")]
    Plan(#[from] PlanError),
    /// The shard and the collective disagree about the group.
    #[error("the shard is rank {shard_rank} of {shard_size}, the collective rank {rank} of {size}")]
    Group {
        /// The shard's rank.
        shard_rank: Rank,
        /// The shard's degree.
        shard_size: usize,
        /// The collective's rank.
        rank: Rank,
        /// Ranks in the collective.
        size: usize,
    },
}

/// What is wrong with a step plan.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum PlanError {
    /// A step that does not follow on the last one.
    #[error("step {got} came where step {expected} was due")]
    Step {
        /// The step that was due.
        expected: StepId,
        /// The plan's.
        got: StepId,
    },
    /// A chunk, or the end, of a sequence that was not started.
    #[error("sequence {0} was not started")]
    UnknownSequence(SequenceId),
    /// A start of a sequence that runs, or two starts.
    #[error("sequence {0} is started twice")]
    StartedTwice(SequenceId),
    /// More than one chunk of a sequence.
    #[error("sequence {0} has two chunks in one step")]
    TwoChunks(SequenceId),
    /// A chunk that does not follow on the last one.
    #[error("sequence {sequence}: a chunk starts at {got}, the cache ends at {expected}")]
    Start {
        /// The sequence.
        sequence: SequenceId,
        /// Positions in the cache.
        expected: usize,
        /// The chunk's start.
        got: u32,
    },
    /// An empty chunk, or one that reaches beyond the tokens known.
    #[error("sequence {sequence}: a chunk of {len} tokens at {start}, but {known} are known")]
    Length {
        /// The sequence.
        sequence: SequenceId,
        /// The chunk's start.
        start: u32,
        /// The chunk's length.
        len: u32,
        /// Tokens known.
        known: usize,
    },
    /// A chunk that is to choose a token though it does not end with the last one known.
    #[error("sequence {sequence}: a chunk that ends at {end} of {known} tokens cannot sample")]
    SampledEarly {
        /// The sequence.
        sequence: SequenceId,
        /// Position behind the chunk.
        end: usize,
        /// Tokens known.
        known: usize,
    },
    /// Positions that the model has no rotary frequencies for.
    #[error("sequence {sequence}: {tokens} tokens are more than the {limit} this model can hold")]
    TooLong {
        /// The sequence.
        sequence: SequenceId,
        /// Tokens.
        tokens: usize,
        /// The most there can be.
        limit: usize,
    },
    /// Fewer blocks than the chunk's tokens need.
    #[error("sequence {sequence}: {needed} blocks are needed, the plan gives {given}")]
    Blocks {
        /// The sequence.
        sequence: SequenceId,
        /// Blocks for all tokens up to the chunk's end.
        needed: usize,
        /// Blocks the sequence has with the chunk's.
        given: usize,
    },
    /// A block outside the cache.
    #[error("sequence {sequence}: block {block} is outside a cache of {blocks}")]
    Block {
        /// The sequence.
        sequence: SequenceId,
        /// The block.
        block: BlockId,
        /// Blocks in the cache.
        blocks: usize,
    },
    /// A block that one sequence lists at two places.
    #[error("sequence {sequence}: block {block} is listed twice")]
    BlockTwice {
        /// The sequence.
        sequence: SequenceId,
        /// The block.
        block: BlockId,
    },
    /// A block to be written into that another sequence lists, too.
    #[error("sequence {sequence}: block {block} would be written into, but another sequence holds it")]
    BlockShared {
        /// The sequence that would write.
        sequence: SequenceId,
        /// The block.
        block: BlockId,
    },
    /// An image that is used but was not encoded, or with another grid.
    #[error("sequence {sequence}: image {image} with {patches} patches was not encoded")]
    UnknownImage {
        /// The sequence.
        sequence: SequenceId,
        /// The image.
        image: ImageKey,
        /// Patches of the place it has in the prompt.
        patches: usize,
    },
    /// Images that overlap, are out of order, or reach beyond the prompt.
    #[error("sequence {sequence}: image {image} at {at} does not fit its prompt")]
    Placement {
        /// The sequence.
        sequence: SequenceId,
        /// The image.
        image: ImageKey,
        /// Where it was to lie.
        at: u32,
    },
    /// A prompt that is empty or longer than the sequence.
    #[error("sequence {sequence}: a prompt of {prompt_len} among {tokens} tokens")]
    Prompt {
        /// The sequence.
        sequence: SequenceId,
        /// Tokens of the prompt.
        prompt_len: u32,
        /// Tokens in all.
        tokens: usize,
    },
    /// A token outside the vocabulary.
    #[error("sequence {sequence}: token {token} is outside a vocabulary of {vocab_size}")]
    Token {
        /// The sequence.
        sequence: SequenceId,
        /// The token.
        token: TokenId,
        /// Tokens there are.
        vocab_size: usize,
    },
    /// Sampling parameters out of range.
    #[error("sequence {sequence}: {error}")]
    Sampling {
        /// The sequence.
        sequence: SequenceId,
        /// The parameter.
        error: SamplingError,
    },
    /// An image for a model without a vision encoder.
    #[error("image {0}: the model has no vision encoder")]
    NoVision(ImageKey),
    /// A grid that is empty or larger than the vision encoder's.
    #[error("image {image}: {rows} by {cols} patches; each side must have 1 to {limit}")]
    Grid {
        /// The image.
        image: ImageKey,
        /// Patches from top to bottom.
        rows: u32,
        /// Patches from left to right.
        cols: u32,
        /// Patches a side can have.
        limit: usize,
    },
    /// Pixels that do not fill the grid.
    #[error("image {image}: {got} bytes of pixels, its grid needs {expected}")]
    Pixels {
        /// The image.
        image: ImageKey,
        /// Bytes given.
        got: usize,
        /// Bytes needed.
        expected: usize,
    },
}
