//! Accelerators and their figures.

use std::str::FromStr;

use tessera_types::GroupFigures;

use super::SimConfigError;

/// An accelerator whose time can be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Accelerator {
    /// NVIDIA A100 SXM, 80 GB.
    A100,
    /// NVIDIA H100 SXM, 80 GB.
    H100,
    /// NVIDIA H200 SXM, 141 GB.
    H200,
}

/// What an accelerator can do at best; plain SI units.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Figures {
    /// Bytes of memory.
    pub memory: f64,
    /// Bytes a second that its memory gives.
    pub bandwidth: f64,
    /// Floating-point operations a second on dense bf16 matrices.
    pub flops: f64,
    /// Seconds of an all-reduce of a few rows.
    pub all_reduce: f64,
    /// Bytes a second to the other ranks, in one direction.
    pub link: f64,
}

impl Figures {
    /// Operations a second on numbers of so many bytes: 32-bit ones are multiplied at half the rate of 16-bit ones, as TF32.
    pub(super) fn flops_with(&self, bytes: f64) -> f64 {
        self.flops * 2.0 / bytes
    }
}

/// Measured on an H100: of the data sheet's 3.35 TB/s and 989 TFLOP/s.
const H100_BANDWIDTH: f64 = 3.0e12;
const H100_FLOPS: f64 = 798e12;
/// The shares of their data sheets that the others are taken to reach too, for want of a measurement.
const BANDWIDTH_SHARE: f64 = H100_BANDWIDTH / 3.35e12;
const FLOPS_SHARE: f64 = H100_FLOPS / 989e12;
/// Reported for NVLink at the sizes of decoding: 6 to 7 µs.
const ALL_REDUCE: f64 = 6.5e-6;
/// Memory that weights and cache may fill; the rest is for activations and libraries.
const USABLE: f64 = 0.9;

impl Accelerator {
    /// All there are.
    pub const ALL: [Self; 3] = [Self::A100, Self::H100, Self::H200];

    /// The name by which it is asked for.
    pub fn name(self) -> &'static str {
        match self {
            Self::A100 => "a100",
            Self::H100 => "h100",
            Self::H200 => "h200",
        }
    }

    /// Bytes that are left for the cache beside so many bytes of weights.
    pub fn cache_memory(self, weights: u64) -> u64 {
        ((self.figures().memory * USABLE) as u64).saturating_sub(weights)
    }

    /// Bytes of memory.
    pub fn memory(self) -> u64 {
        self.figures().memory as u64
    }

    /// What ranks on such accelerators can do at best with numbers of so many bytes. The bits of their sums depend on
    /// how many they are.
    pub fn group_figures(self, bytes: usize) -> GroupFigures {
        let (figures, bytes) = (self.figures(), bytes as f64);
        GroupFigures {
            weights: figures.bandwidth / bytes,
            flops: figures.flops_with(bytes),
            exchange: figures.all_reduce,
            link: figures.link / bytes,
            exact: false,
        }
    }

    /// What it can do at best.
    pub fn figures(self) -> Figures {
        let h100 = Figures { memory: 80e9, bandwidth: H100_BANDWIDTH, flops: H100_FLOPS, all_reduce: ALL_REDUCE, link: 450e9 };
        match self {
            Self::H100 => h100,
            Self::H200 => Figures { memory: 141e9, bandwidth: 4.8e12 * BANDWIDTH_SHARE, ..h100 },
            Self::A100 => Figures { bandwidth: 2.039e12 * BANDWIDTH_SHARE, flops: 312e12 * FLOPS_SHARE, link: 300e9, ..h100 },
        }
    }
}

impl FromStr for Accelerator {
    type Err = SimConfigError;

    fn from_str(name: &str) -> Result<Self, SimConfigError> {
        let found = Self::ALL.into_iter().find(|accelerator| accelerator.name() == name);
        found.ok_or_else(|| SimConfigError::Unknown(name.into()))
    }
}
