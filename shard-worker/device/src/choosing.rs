//! What a device must know to choose tokens from rows of logits, laid out as its kernels read it.

use bytemuck::{Pod, Zeroable};

/// How a row's token is chosen: `tessera_types::SamplingParams`, the share drawn, and which edits come first.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub struct Choosing {
    /// A number of `[0, 1)`: where in the cumulative weight the token lies.
    pub uniform: f64,
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
    /// Nothing.
    pub padding: u32,
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
