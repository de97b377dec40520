//! The tokens a fake worker chooses: a hash of all tokens before.

const VOCABULARY: u32 = 1000;

/// The token behind these.
pub(crate) fn choose(tokens: &[u32], seed: u64) -> u32 {
    let hash = tokens.iter().fold(seed ^ 0x51_7C_C1, |hash, &token| {
        let mixed = (hash ^ u64::from(token)).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        mixed ^ (mixed >> 31)
    });
    (hash % u64::from(VOCABULARY)) as u32
}

/// What `count` steps behind a prompt must give.
pub(crate) fn expected(prompt: &[u32], seed: u64, count: usize) -> Vec<u32> {
    let mut tokens = prompt.to_vec();
    for _ in 0..count {
        tokens.push(choose(&tokens, seed));
    }
    tokens.split_off(prompt.len())
}
