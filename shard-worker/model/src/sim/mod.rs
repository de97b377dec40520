//! A rank that computes nothing: it checks plans as strictly as any, takes the time that its share of a step takes on
//! the accelerator it stands for, and answers tokens that its sequences' tokens alone decide.
//!
//! Ranks exchange nothing. That a rank is gone its coordinator sees by the stream that broke; no step is done before
//! every rank has answered it.

mod answers;
mod context;
mod model;

pub use model::{SimModel, SimSetup};
