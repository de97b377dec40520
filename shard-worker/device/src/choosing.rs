//! What a device must know to choose tokens from rows of logits, laid out as its kernels read it.

use bytemuck::{Pod, Zeroable};
use tessera_types::{TokenId, TokenLogprob};

/// How a row's token is chosen: `tessera_types::SamplingParams`, the share drawn, and which edits come first.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub struct Choosing {
    /// Where in the cumulative weight the token lies: a share of it, in units of 2^-64.
    pub uniform: u64,
    /// 0 is greedy.
    pub temperature: f32,
    /// 1 keeps all.
    pub top_p: f32,
    /// 0 keeps all.
    pub min_p: f32,
    /// Divides positive and multiplies negative logits.
    pub repetition: f32,
    /// Taken off for each time a token was generated.
    pub frequency: f32,
    /// Taken off where a token was generated.
    pub presence: f32,
    /// 0 keeps all.
    pub top_k: u32,
    /// The row's first edit.
    pub edits_begin: u32,
    /// Behind the row's last edit.
    pub edits_end: u32,
    /// The row's token where it is known; [`Choosing::NONE`] where it is to be chosen.
    pub given: u32,
    /// How many of the most probable tokens are told beside the row's; [`Choosing::NONE`] where no log-probability is.
    pub described: u32,
    /// Nothing.
    pub padding: u32,
}

impl Choosing {
    /// No token, no number.
    pub const NONE: u32 = u32::MAX;
}

/// What a device says of a row.
#[derive(Clone, Debug, PartialEq)]
pub struct ChosenToken {
    /// The token chosen, or given.
    pub token: TokenId,
    /// Its log-probability under the logits before any edit, where it was asked for.
    pub logprob: Option<TokenLogprob>,
}

/// A change of one logit; at most one a token of a row.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub struct LogitEdit {
    /// Whose logit.
    pub token: u32,
    /// Added.
    pub bias: f32,
    /// How often the token was generated.
    pub count: i32,
    /// [`LogitEdit::MASK`], [`LogitEdit::PENALISE`].
    pub flags: u32,
}

impl LogitEdit {
    /// The token may not be chosen.
    pub const MASK: u32 = 1;
    /// The row's penalties apply.
    pub const PENALISE: u32 = 2;
}
