//! From a request as it was read to one that a replica can run.
//!
//! What is cheap comes first: names, ranges and counts, then image headers, from which the whole prompt's length
//! follows; images are decoded only for a prompt that fits.

use std::{sync::Arc, time::Duration};

use tessera_types::{ImageEncode, PlacedImage, TokenId};
use tokio::time::Instant;

use crate::{
    Limits, RequestError,
    admission::{Admission, Permit},
    event::{Timings, Usage},
    layout::{self, Layout},
    media::{Image, Media},
    model::Model,
    request::{Input, Request},
    resolve::{Resolved, resolve},
    session::Sequence,
    trace::Trace,
    vocabulary::Vocabulary,
};

/// A request that a replica can run.
pub(crate) struct Prepared {
    /// Its name.
    pub(crate) id: String,
    /// The prompt.
    pub(crate) tokens: Vec<TokenId>,
    /// Where its images stand.
    pub(crate) images: Vec<PlacedImage>,
    /// Their pixels, one for each distinct image.
    pub(crate) pixels: Vec<ImageEncode>,
    /// Tokens of the prompt that are images'.
    pub(crate) image_tokens: u32,
    /// How its sequences are sampled and ended.
    pub(crate) resolved: Resolved,
    /// Its rank in the queue.
    pub(crate) priority: i32,
    /// Whether token ids are to be told.
    pub(crate) return_token_ids: bool,
    /// When it must be over.
    pub(crate) deadline: Instant,
    /// What was spent on it already.
    pub(crate) timings: Timings,
    /// The trace it is part of.
    pub(crate) trace: Trace,
    /// What its tokens mean.
    pub(crate) vocabulary: Arc<Vocabulary>,
    arrived: Instant,
    _permit: Permit,
}

/// What a dry run finds.
pub(crate) struct Count {
    /// Tokens of the prompt, images included.
    pub(crate) prompt_tokens: usize,
    /// Every image's cost.
    pub(crate) images: Vec<ImageCost>,
    /// Tokens of prompt and answer at most.
    pub(crate) max_context: usize,
}

/// What an image costs.
pub(crate) struct ImageCost {
    /// As given, in pixels.
    pub(crate) width: u32,
    /// As given, in pixels.
    pub(crate) height: u32,
    /// As encoded.
    pub(crate) grid: tessera_types::Grid,
}

/// Prepares requests.
pub(crate) struct Pipeline {
    model: Arc<Model>,
    limits: Limits,
    media: Media,
}
