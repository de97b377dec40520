//! The tokens a sequence must get, whatever happens to it: a hash of everything before them.

use tessera_types::{ImageKey, PlacedImage, SamplingParams, TokenId};

pub(crate) const VOCABULARY: u64 = 40;

fn mix(a: u64, b: u64) -> u64 {
    let mut x = a.rotate_left(23) ^ b.wrapping_mul(0x9E37_79B9_7F4A_7C15);
    x = (x ^ (x >> 29)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    x ^ (x >> 32)
}

/// The state of a cache position: all tokens and image features up to it.
pub(crate) fn state(before: u64, position: usize, token: TokenId, images: &[PlacedImage]) -> u64 {
    let image = images.iter().find(|image| (image.at as usize..image.end()).contains(&position));
    let feature = image.map_or(0, |image| feature(image.key) + (position - image.at as usize) as u64);
    mix(mix(before, u64::from(token.0)), feature)
}

fn feature(key: ImageKey) -> u64 {
    1_000 + u64::from(key.0[0])
}

/// The token chosen behind a position in this state.
pub(crate) fn choose(state: u64, seed: u64) -> TokenId {
    TokenId((mix(state, seed) % VOCABULARY) as u32)
}

/// Up to `limit` generated tokens; ends behind a stop token.
pub(crate) fn generate(prompt: &[TokenId], images: &[PlacedImage], sampling: &SamplingParams, limit: usize) -> Vec<TokenId> {
    let mut at = prompt.iter().enumerate().fold(0, |before, (position, &token)| state(before, position, token, images));
    let mut tokens = Vec::new();
    while tokens.len() < limit {
        let token = choose(at, sampling.seed);
        at = state(at, prompt.len() + tokens.len(), token, images);
        tokens.push(token);
        if sampling.stop_tokens.contains(&token) {
            break;
        }
    }
    tokens
}
