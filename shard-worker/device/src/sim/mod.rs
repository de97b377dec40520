//! A calibrated clock instead of arithmetic: what a step costs on an accelerator that nobody here has.
//!
//! [`Roofline`] tells how long a rank's share of a step takes at least, [`Clock`] when a device that does one step after
//! the other is done with it. Both are pure; who waits is the caller.

mod accelerator;
mod clock;
mod config;
mod roofline;
#[cfg(test)]
mod tests;

pub use accelerator::{Accelerator, Figures};
pub use clock::Clock;
pub use config::{SimConfig, SimConfigError};
pub use roofline::{Bound, ChunkWork, Roofline, StepTime, Work};
