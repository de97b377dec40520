//! What one request, and all of them together, may take.

use std::time::Duration;

/// Bounds on a single request, checked before anything is spent on it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of an HTTP body or a gRPC message.
    pub max_body_bytes: usize,
    /// Images.
    pub max_images: usize,
    /// Bytes of an encoded image.
    pub max_image_bytes: usize,
    /// Pixels of an image, read from its header before it is decoded.
    pub max_image_pixels: u64,
    /// Tokens to generate for each sequence.
    pub max_new_tokens: u32,
    /// Sequences.
    pub max_sequences: u32,
    /// Stop strings.
    pub max_stop_strings: usize,
    /// Bytes of a stop string.
    pub max_stop_bytes: usize,
    /// Stop tokens, and entries of the logit bias.
    pub max_listed_tokens: usize,
    /// How long a request may take when the client sets no deadline.
    pub max_duration: Duration,
    /// How long a client may leave its stream unread.
    pub max_unread: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_body_bytes: 64 << 20,
            max_images: 64,
            max_image_bytes: 20 << 20,
            max_image_pixels: 64 << 20,
            max_new_tokens: 131_072,
            max_sequences: 16,
            max_stop_strings: 16,
            max_stop_bytes: 1024,
            max_listed_tokens: 1024,
            max_duration: Duration::from_secs(3600),
            max_unread: Duration::from_secs(60),
        }
    }
}
