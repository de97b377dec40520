//! From what a client says to what a replica runs: token ids, and pixels ready for the encoder.
//!
//! Pure: no clock, no network. mistral-common is the reference for all of it.

pub mod image;
mod layout;
mod tokenizer;

pub use image::{Header, ImageError, ImageLimits, PreparedImage, grid_of, prepare, probe};
pub use layout::{Layout, LayoutError, Message, Part, Role, image_tokens, lay_out};
pub use tokenizer::{Tokenizer, TokenizerError};
