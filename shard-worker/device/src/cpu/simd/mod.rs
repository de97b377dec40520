//! Sixteen-lane vectors on every instruction set.
//!
//! A kernel is written once, over [`Simd`], and compiled for AVX-512, AVX2 and plain Rust. Every method is one IEEE
//! operation a lane, so a kernel gives the same bits on all of them.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod lanes;
mod portable;

use half::bf16;

pub(super) use lanes::{map, stream, sum, zip_into, zip_map};

/// Lanes of a vector.
pub(super) const LANES: usize = 16;

/// One lane's worth of numbers each.
pub(super) type Lanes = [f32; LANES];

/// An instruction set. A value proves that the CPU has it, so the methods are safe.
pub(super) trait Simd: Copy {
    /// Sixteen f32.
    type V: Copy;

    /// Heights of the register tiles that fit the register file, descending to 1.
    const HEIGHTS: &'static [usize];

    /// Whether the register file holds a tile two vectors wide.
    const WIDE: bool;

    /// All lanes `x`.
    fn splat(self, x: f32) -> Self::V;
    /// Sixteen numbers.
    fn load(self, x: &Lanes) -> Self::V;
    /// Sixteen numbers, widened.
    fn load_bf16(self, x: &[bf16; LANES]) -> Self::V;
    /// Two vectors that lie interleaved: lane `i` of the first is `x[2 * i]`, of the second `x[2 * i + 1]`.
    fn load_bf16_pair(self, x: &[bf16; 2 * LANES]) -> [Self::V; 2];
    /// Writes all lanes.
    fn store(self, v: Self::V, to: &mut Lanes);
    /// Writes all lanes, past the caches where `to` is aligned to a vector; others see it after [`Simd::fence`].
    fn stream(self, v: Self::V, to: &mut Lanes);
    /// Orders streamed writes before what follows.
    fn fence(self);
    /// `a + b`
    fn add(self, a: Self::V, b: Self::V) -> Self::V;
    /// `a - b`
    fn sub(self, a: Self::V, b: Self::V) -> Self::V;
    /// `a * b`
    fn mul(self, a: Self::V, b: Self::V) -> Self::V;
    /// `a / b`
    fn div(self, a: Self::V, b: Self::V) -> Self::V;
    /// `a * b + c`, rounded once.
    fn fma(self, a: Self::V, b: Self::V, c: Self::V) -> Self::V;
    /// `a > b ? a : b`; `b` where either is NaN.
    fn max(self, a: Self::V, b: Self::V) -> Self::V;
    /// `a < b ? a : b`; `b` where either is NaN.
    fn min(self, a: Self::V, b: Self::V) -> Self::V;
    /// `2^n` where `t` is `n + 1.5 * 2^23`, for `n` in -126..=127.
    fn pow2(self, t: Self::V) -> Self::V;
    /// Asks for the cache line at an address, which need not be valid, to come to the second-level cache.
    fn prefetch<T>(self, address: *const T);
}

/// Work that is compiled for every instruction set.
///
/// `run` and all it calls must be `#[inline(always)]`: only then do they end up inside the function that may use the
/// instruction set.
pub(super) trait Kernel {
    /// What it gives.
    type Output;
    /// Does the work.
    fn run<S: Simd>(self, s: S) -> Self::Output;
}

/// The instruction set kernels run on. Values exist only for sets that this CPU has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Isa(Kind);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    #[cfg(target_arch = "x86_64")]
    Avx512,
    #[cfg(target_arch = "x86_64")]
    Avx2,
    Portable,
}

impl Isa {
    /// All that this CPU has, the fastest first. Results are the same on each.
    pub fn available() -> Vec<Self> {
        let mut all = Vec::new();
        #[cfg(target_arch = "x86_64")]
        {
            if is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
                all.push(Self(Kind::Avx512));
            }
            if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
                all.push(Self(Kind::Avx2));
            }
        }
        all.push(Self(Kind::Portable));
        all
    }

    /// The fastest that this CPU has.
    pub fn best() -> Self {
        Self::available()[0]
    }

    /// Its name.
    pub fn name(self) -> &'static str {
        match self.0 {
            #[cfg(target_arch = "x86_64")]
            Kind::Avx512 => "avx512",
            #[cfg(target_arch = "x86_64")]
            Kind::Avx2 => "avx2",
            Kind::Portable => "portable",
        }
    }

    /// See [`Simd::HEIGHTS`].
    pub(super) fn heights(self) -> &'static [usize] {
        match self.0 {
            #[cfg(target_arch = "x86_64")]
            Kind::Avx512 => avx512::Avx512::HEIGHTS,
            #[cfg(target_arch = "x86_64")]
            Kind::Avx2 => avx2::Avx2::HEIGHTS,
            Kind::Portable => portable::Portable::HEIGHTS,
        }
    }

    /// Runs a kernel on this instruction set.
    #[allow(unsafe_code)]
    pub(super) fn run<K: Kernel>(self, kernel: K) -> K::Output {
        match self.0 {
            #[cfg(target_arch = "x86_64")]
            // SAFETY: `available` made this value, so the CPU has the instruction set.
            Kind::Avx512 => unsafe { avx512::run(kernel) },
            #[cfg(target_arch = "x86_64")]
            // SAFETY: as above.
            Kind::Avx2 => unsafe { avx2::run(kernel) },
            Kind::Portable => portable::run(kernel),
        }
    }
}
