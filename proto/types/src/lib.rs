//! Domain types every room shares: ids, sampling parameters, step plans, model and shard shapes.
//!
//! Nothing here does I/O, reads a clock or is async. A type that cannot be wrong beats a check, so ids are
//! newtypes and parameters are validated once, where they enter.

mod device_slice;
mod encode;
mod fnv;
mod grid;
mod ids;
mod mix;
mod model;
mod model_config;
mod plan;
mod prefix;
mod sampling;
mod shard;

pub use device_slice::{DeviceDtype, DeviceSlice};
pub use encode::{EncodeCosts, EncodePlan, EncodeTime, GroupFigures, UnknownVisionParallel, VisionParallel};
pub use fnv::Fnv1a;
pub use grid::{Grid, PlacedImage};
pub use ids::{BlockId, Epoch, ImageKey, Rank, RequestId, SequenceId, StepId, TokenId, special};
pub use mix::mix;
pub use model::{DecoderSpec, ModelSpec, VisionSpec};
pub use model_config::ModelConfigError;
pub use plan::{Chunk, ImageEncode, PromptLogprobs, Sampled, SequenceStart, StepOutput, StepPlan, StepTimings, TokenLogprob};
pub use prefix::PrefixHash;
pub use sampling::{Logprobs, MAX_TOP_LOGPROBS, SamplingError, SamplingParams};
pub use shard::{SEGMENTS, ShardError, ShardPlan, VisionShard, segment_bounds};

/// Tokens whose keys and values one block of the paged cache holds.
pub const BLOCK_TOKENS: usize = 16;
