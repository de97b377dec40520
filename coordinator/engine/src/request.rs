//! What a client asks for, checked, and the life of it that its sequences share.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tessera_types::{ImageEncode, ImageKey, PlacedImage, SamplingParams, SequenceId, TokenId};

use crate::config::EngineConfig;
use crate::event::RequestTimings;

/// A request to run one prompt as one or more sequences.
#[derive(Clone, Debug)]
pub struct NewRequest {
    /// Prompt tokens, at least 1.
    pub prompt: Arc<[TokenId]>,
    /// Images in the prompt, in order of position, none overlapping.
    pub images: Vec<PlacedImage>,
    /// One for each distinct key of `images`.
    pub pixels: Vec<ImageEncode>,
    /// The sequences, at least 1.
    pub sequences: Vec<NewSequence>,
    /// Higher leaves the queue first.
    pub priority: i32,
    /// When to give up, on the engine's clock.
    pub deadline: Option<Duration>,
}

/// One sequence of a request.
#[derive(Clone, Debug, Default)]
pub struct NewSequence {
    /// How its tokens are chosen.
    pub sampling: SamplingParams,
    /// Tokens generated elsewhere before; they are not told again.
    pub generated: Vec<TokenId>,
}

/// Why a request was not taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// May pass after a while.
    #[error("the queue is full: {waiting} sequences wait")]
    QueueFull {
        /// Sequences that wait.
        waiting: usize,
        /// When there should be room, going by the queue's recent pace.
        retry_after: Duration,
    },
    /// The prompt leaves no room for a token.
    #[error("the prompt has {tokens} tokens and the context, with at least one generated, {context}")]
    PromptTooLong {
        /// Tokens in the prompt.
        tokens: usize,
        /// Tokens a sequence may have.
        context: usize,
    },
    /// The deadline is already past.
    #[error("the deadline had passed when the request came")]
    DeadlineExceeded,
    /// The image does not fit into the encoder cache.
    #[error("image[{index}] has {patches} patches, more than {limit}")]
    ImageTooLarge {
        /// The image's place in `images`.
        index: usize,
        /// Its patches.
        patches: usize,
        /// Feature rows that the ranks hold.
        limit: usize,
    },
    /// Something that no honest router sends.
    #[error("{field}: {problem}")]
    Malformed {
        /// The field at fault, with its index.
        field: String,
        /// What is wrong.
        problem: &'static str,
    },
}

impl NewRequest {
    /// Everything about the request that does not depend on what else is running.
    pub(crate) fn check(&self, now: Duration, config: &EngineConfig) -> Result<(), Refusal> {
        let malformed = |field: &str, problem| Refusal::Malformed { field: field.into(), problem };
        if self.prompt.is_empty() {
            return Err(malformed("prompt", "is empty"));
        }
        if self.sequences.is_empty() {
            return Err(malformed("sequences", "is empty"));
        }
        if self.deadline.is_some_and(|deadline| deadline <= now) {
            return Err(Refusal::DeadlineExceeded);
        }
        let (tokens, context) = (self.prompt.len(), config.context());
        if tokens >= context {
            return Err(Refusal::PromptTooLong { tokens, context });
        }
        self.check_images(config)
    }

    fn check_images(&self, config: &EngineConfig) -> Result<(), Refusal> {
        let pixels: HashMap<_, _> = self.pixels.iter().map(|image| (image.key, image.grid)).collect();
        let mut behind = 0;
        for (index, image) in self.images.iter().enumerate() {
            let malformed = |problem| Err(Refusal::Malformed { field: format!("images[{index}]"), problem });
            if (image.at as usize) < behind {
                return malformed("starts before the last image's end");
            }
            behind = image.end();
            if behind > self.prompt.len() {
                return malformed("ends behind the prompt's end");
            }
            if pixels.get(&image.key) != Some(&image.grid) {
                return malformed("has no pixels of its key and grid");
            }
            if image.grid.patches() == 0 {
                return malformed("has no patches");
            }
            let (patches, limit) = (image.grid.patches(), config.encoder_tokens);
            if patches > limit {
                return Err(Refusal::ImageTooLarge { index, patches, limit });
            }
        }
        Ok(())
    }
}

/// A request that was taken, for as long as one of its sequences lives.
#[derive(Debug)]
pub(crate) struct Request {
    pub(crate) images: Vec<PlacedImage>,
    /// Kept to the end: a loss of the group costs the ranks their encoder outputs.
    pub(crate) pixels: HashMap<ImageKey, ImageEncode>,
    pub(crate) deadline: Option<Duration>,
    /// Sequences that have not ended.
    pub(crate) live: Vec<SequenceId>,
    pub(crate) stamps: Stamps,
}

/// When a request came to each stage.
#[derive(Debug)]
pub(crate) struct Stamps {
    pub(crate) submitted: Duration,
    pub(crate) scheduled: Option<Duration>,
    pub(crate) first_token: Option<Duration>,
    pub(crate) encode: Duration,
    /// Prompt tokens that the cache had when the first sequence was admitted.
    pub(crate) cached: usize,
}

impl Stamps {
    pub(crate) fn new(now: Duration) -> Self {
        Self { submitted: now, scheduled: None, first_token: None, encode: Duration::ZERO, cached: 0 }
    }

    /// Notes an admission with `cached` prompt tokens in the cache; only the first counts.
    pub(crate) fn admit(&mut self, now: Duration, cached: usize) {
        if self.scheduled.is_none() {
            self.scheduled = Some(now);
            self.cached = cached;
        }
    }

    pub(crate) fn timings(&self, now: Duration) -> RequestTimings {
        let scheduled = self.scheduled.unwrap_or(now);
        let first_token = self.first_token.unwrap_or(now);
        let filling = first_token.saturating_sub(scheduled);
        let encode = self.encode.min(filling);
        RequestTimings {
            queue: scheduled.saturating_sub(self.submitted),
            encode,
            prefill: filling - encode,
            decode: now.saturating_sub(first_token),
        }
    }
}
