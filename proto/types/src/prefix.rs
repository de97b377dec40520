//! Names of a prompt's beginnings, one a full block: what a prefix cache finds blocks by, and routers replicas.

use sha2::{Digest, Sha256};

use crate::{BLOCK_TOKENS, ImageKey, PlacedImage, TokenId};

/// The name of a full block of a sequence: a SHA-256 over all that its keys and values come from, which is every token
/// and every image up to its end. Whoever trusts the name gets another's block where two names collide, so it is long
/// enough that nobody can make two.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PrefixHash([u8; 32]);

impl PrefixHash {
    /// Names the block of `tokens`, [`BLOCK_TOKENS`] of them from position `start` on, behind the block `before`;
    /// `None` for the first. `images` are those of the whole prompt.
    pub fn next(before: Option<Self>, start: usize, tokens: impl IntoIterator<Item = TokenId>, images: &[PlacedImage]) -> Self {
        let mut hasher = Sha256::new();
        hasher.update(before.map_or([0; 32], |before| before.0));
        for token in tokens {
            hasher.update(token.0.to_le_bytes());
        }
        for image in images.iter().filter(|image| image.overlaps(start, start + BLOCK_TOKENS)) {
            hasher.update(image.key.0);
            [image.at, image.grid.rows, image.grid.cols].iter().for_each(|number| hasher.update(number.to_le_bytes()));
        }
        Self(hasher.finalize().into())
    }

    /// Names every full block of a prompt, in order.
    pub fn of_prompt(prompt: &[TokenId], images: &[PlacedImage]) -> Vec<Self> {
        let mut names = Vec::with_capacity(prompt.len() / BLOCK_TOKENS);
        for (index, tokens) in prompt.chunks_exact(BLOCK_TOKENS).enumerate() {
            names.push(Self::next(names.last().copied(), index * BLOCK_TOKENS, tokens.iter().copied(), images));
        }
        names
    }
}

impl std::fmt::Debug for PrefixHash {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "PrefixHash({})", ImageKey(self.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Grid;

    fn tokens(count: u32) -> Vec<TokenId> {
        (0..count).map(TokenId).collect()
    }

    fn image(key: u8, at: u32, grid: Grid) -> PlacedImage {
        PlacedImage { key: ImageKey([key; 32]), at, grid }
    }

    #[test]
    fn a_name_stands_for_everything_up_to_its_block() {
        let names = PrefixHash::of_prompt(&tokens(50), &[]);
        assert_eq!(names.len(), 3, "only full blocks have names");
        assert_eq!(names[..2], PrefixHash::of_prompt(&tokens(40), &[]));
        let mut other = tokens(50);
        other[3] = TokenId(77);
        let others = PrefixHash::of_prompt(&other, &[]);
        assert!(names.iter().zip(&others).all(|(one, other)| one != other));
    }

    #[test]
    fn the_same_tokens_elsewhere_have_another_name() {
        let twice: Vec<_> = tokens(16).into_iter().chain(tokens(16)).collect();
        let names = PrefixHash::of_prompt(&twice, &[]);
        assert_ne!(names[0], names[1]);
    }

    #[test]
    fn another_image_gives_other_names_from_its_first_token_on() {
        let (flat, tall) = (Grid { rows: 2, cols: 5 }, Grid { rows: 4, cols: 2 });
        let of = |key, at, grid| PrefixHash::of_prompt(&tokens(48), &[image(key, at, grid)]);
        let names = of(1, 20, flat);
        for others in [of(2, 20, flat), of(1, 21, flat), of(1, 20, tall)] {
            assert_eq!(names[0], others[0]);
            assert!(names[1] != others[1] && names[2] != others[2]);
        }
    }
}
