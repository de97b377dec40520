//! What a made-up token depends on.

use tessera_types::{PlacedImage, TokenId, mix};

/// A hash of everything before a position: images, then tokens. It grows with its sequence, a token at a time, and
/// does not know where a chunk, a replay or the prompt ended.
#[derive(Clone, Copy, Debug)]
pub(super) struct Context {
    images: u64,
    hash: u64,
    /// Tokens in `hash`.
    tokens: usize,
}

impl Context {
    pub(super) fn new(images: &[PlacedImage]) -> Self {
        let images = images.iter().fold(0, |hash, image| {
            let words = image.key.0.as_chunks::<8>().0.iter().map(|word| u64::from_le_bytes(*word));
            words.fold(mix(hash ^ u64::from(image.at)), |hash, word| mix(hash ^ word))
        });
        Self { images, hash: images, tokens: 0 }
    }

    /// The hash of a sequence's first `count` tokens.
    pub(super) fn of(&mut self, sequence: &[TokenId], count: usize) -> u64 {
        if count < self.tokens {
            (self.hash, self.tokens) = (self.images, 0);
        }
        self.hash = sequence[self.tokens..count].iter().fold(self.hash, |hash, token| mix(hash ^ u64::from(token.0)));
        self.tokens = count;
        self.hash
    }
}
