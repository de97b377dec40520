//! Identifiers, each its own type so that one cannot be passed for another.

use std::fmt;

use serde::{Deserialize, Serialize};

macro_rules! id {
    ($(#[$doc:meta])* $name:ident($inner:ty)) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub $inner);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}", self.0)
            }
        }

        impl From<$inner> for $name {
            fn from(value: $inner) -> Self {
                Self(value)
            }
        }
    };
}

id!(
    /// An entry of the vocabulary.
    TokenId(u32)
);
id!(
    /// One stream of tokens that a request makes; unique within a coordinator's life.
    SequenceId(u64)
);
id!(
    /// A fixed run of [`crate::BLOCK_TOKENS`] tokens in the paged cache; the same number on every rank.
    BlockId(u32)
);
id!(
    /// The position `0..tp` of a shard worker in its group.
    Rank(u16)
);
id!(
    /// The fencing number of a group's life; a worker obeys only the newest.
    Epoch(u64)
);
id!(
    /// One forward pass within an epoch, counted from 1.
    StepId(u64)
);

/// A request's name, chosen by the client or made by the router.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct RequestId(pub String);

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The content hash of a prepared image; the same bytes make the same key.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ImageKey(pub [u8; 32]);

impl fmt::Display for ImageKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0[..8].iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for ImageKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ImageKey({self})")
    }
}

/// Control tokens of the tekken v3 vocabulary, the same in every Pixtral checkpoint.
pub mod special {
    use super::TokenId;

    /// `<unk>`
    pub const UNKNOWN: TokenId = TokenId(0);
    /// `<s>`
    pub const BEGIN: TokenId = TokenId(1);
    /// `</s>`
    pub const END: TokenId = TokenId(2);
    /// `[INST]`
    pub const BEGIN_INST: TokenId = TokenId(3);
    /// `[/INST]`
    pub const END_INST: TokenId = TokenId(4);
    /// `[IMG]`
    pub const IMAGE: TokenId = TokenId(10);
    /// `<pad>`
    pub const PAD: TokenId = TokenId(11);
    /// `[IMG_BREAK]`
    pub const IMAGE_BREAK: TokenId = TokenId(12);
    /// `[IMG_END]`
    pub const IMAGE_END: TokenId = TokenId(13);
    /// Ids below this are special; a rank of the vocabulary file is `id - 1000`.
    pub const COUNT: u32 = 1000;
}
