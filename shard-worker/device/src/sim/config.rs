//! Which accelerator is simulated, and how fast: `h100`, `h200*2.5`.

use std::{fmt, str::FromStr};

use super::Accelerator;

/// A simulated accelerator.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SimConfig {
    /// Whose roofline counts.
    pub accelerator: Accelerator,
    /// Every time is multiplied by this: 10 is ten times slower; 0 takes no time at all.
    pub factor: f64,
}

/// A text that names no simulated accelerator.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SimConfigError {
    /// An accelerator without figures.
    #[error("`{0}` is none of the accelerators that can be simulated: a100, h100, h200")]
    Unknown(String),
    /// A factor that is no number of time.
    #[error("`{0}` is no factor; it must be a number from 0 to 1000000")]
    Factor(String),
}

impl SimConfig {
    /// Slower than this is waiting for nothing.
    const MOST: f64 = 1e6;
}

impl FromStr for SimConfig {
    type Err = SimConfigError;

    fn from_str(text: &str) -> Result<Self, SimConfigError> {
        let (name, factor) = text.split_once('*').unwrap_or((text, "1"));
        let accelerator = name.parse()?;
        let number = factor.parse::<f64>().ok().filter(|number| (0.0..=Self::MOST).contains(number));
        Ok(Self { accelerator, factor: number.ok_or_else(|| SimConfigError::Factor(factor.into()))? })
    }
}

impl fmt::Display for SimConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.accelerator.name())?;
        if self.factor == 1.0 { Ok(()) } else { write!(f, "*{}", self.factor) }
    }
}
