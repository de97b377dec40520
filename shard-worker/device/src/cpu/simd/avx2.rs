//! AVX2 with FMA: a vector is two registers, of which there are 16.
#![allow(unsafe_code)]

use std::arch::x86_64::*;

use half::bf16;

use super::{Kernel, LANES, Lanes, Simd};

/// Proof that the CPU has AVX2 and FMA.
#[derive(Clone, Copy)]
pub(super) struct Avx2(());

/// Lanes 0..8 and 8..16.
#[derive(Clone, Copy)]
pub(super) struct Halves(__m256, __m256);

/// Runs a kernel; to be called only where the CPU has the features.
#[target_feature(enable = "avx2,fma")]
pub(super) fn run<K: Kernel>(kernel: K) -> K::Output {
    kernel.run(Avx2(()))
}

macro_rules! lanewise {
    ($($name:ident($($arg:ident),+) = $intrinsic:ident;)+) => {$(
        #[inline(always)]
        fn $name(self, $($arg: Halves),+) -> Halves {
            // SAFETY: `self` proves the features; the intrinsics touch registers only.
            unsafe { Halves($intrinsic($($arg.0),+), $intrinsic($($arg.1),+)) }
        }
    )+};
}

/// See [`Simd::pow2`].
///
/// # Safety
/// The CPU must have AVX2.
#[inline(always)]
unsafe fn pow2(t: __m256) -> __m256 {
    // SAFETY: the caller's promise; registers only.
    unsafe {
        let shifted = _mm256_slli_epi32::<23>(_mm256_castps_si256(t));
        _mm256_castsi256_ps(_mm256_add_epi32(shifted, _mm256_set1_epi32(0x3f80_0000)))
    }
}

impl Simd for Avx2 {
    type V = Halves;
    const HEIGHTS: &'static [usize] = &[6, 4, 2, 1];
    const WIDE: bool = false;

    lanewise! {
        add(a, b) = _mm256_add_ps;
        sub(a, b) = _mm256_sub_ps;
        mul(a, b) = _mm256_mul_ps;
        div(a, b) = _mm256_div_ps;
        fma(a, b, c) = _mm256_fmadd_ps;
        max(a, b) = _mm256_max_ps;
        min(a, b) = _mm256_min_ps;
        pow2(t) = pow2;
    }

    #[inline(always)]
    fn splat(self, x: f32) -> Halves {
        // SAFETY: `self` proves the features.
        unsafe { Halves(_mm256_set1_ps(x), _mm256_set1_ps(x)) }
    }

    #[inline(always)]
    fn load(self, x: &Lanes) -> Halves {
        let x = x.as_ptr();
        // SAFETY: 16 floats; the loads need no alignment.
        unsafe { Halves(_mm256_loadu_ps(x), _mm256_loadu_ps(x.add(8))) }
    }

    #[inline(always)]
    fn load_bf16(self, x: &[bf16; LANES]) -> Halves {
        let x = x.as_ptr();
        // SAFETY: 32 bytes; the loads need no alignment.
        unsafe {
            let low = _mm256_cvtepu16_epi32(_mm_loadu_si128(x.cast()));
            let high = _mm256_cvtepu16_epi32(_mm_loadu_si128(x.add(8).cast()));
            Halves(_mm256_castsi256_ps(_mm256_slli_epi32::<16>(low)), _mm256_castsi256_ps(_mm256_slli_epi32::<16>(high)))
        }
    }

    #[inline(always)]
    fn load_bf16_pair(self, x: &[bf16; 2 * LANES]) -> [Halves; 2] {
        let x = x.as_ptr();
        // SAFETY: 64 bytes; the loads need no alignment.
        unsafe {
            let (low, high) = (_mm256_loadu_si256(x.cast()), _mm256_loadu_si256(x.add(LANES).cast()));
            let odd = _mm256_set1_epi32(0xffff_0000_u32 as i32);
            [
                Halves(_mm256_castsi256_ps(_mm256_slli_epi32::<16>(low)), _mm256_castsi256_ps(_mm256_slli_epi32::<16>(high))),
                Halves(_mm256_castsi256_ps(_mm256_and_si256(low, odd)), _mm256_castsi256_ps(_mm256_and_si256(high, odd))),
            ]
        }
    }

    #[inline(always)]
    fn store(self, v: Halves, to: &mut Lanes) {
        let to = to.as_mut_ptr();
        // SAFETY: 16 floats; the stores need no alignment.
        unsafe {
            _mm256_storeu_ps(to, v.0);
            _mm256_storeu_ps(to.add(8), v.1);
        }
    }

    #[inline(always)]
    fn stream(self, v: Halves, to: &mut Lanes) {
        let start = to.as_mut_ptr();
        if start.addr().is_multiple_of(align_of::<__m256>()) {
            // SAFETY: 16 floats, aligned; `self` proves the features.
            unsafe {
                _mm256_stream_ps(start, v.0);
                _mm256_stream_ps(start.add(8), v.1);
            }
        } else {
            self.store(v, to);
        }
    }

    #[inline(always)]
    fn fence(self) {
        // SAFETY: every x86-64 has it.
        unsafe { _mm_sfence() }
    }

    #[inline(always)]
    fn prefetch<T>(self, address: *const T) {
        // SAFETY: a prefetch of an invalid address does nothing.
        unsafe { _mm_prefetch::<_MM_HINT_T1>(address.cast()) }
    }
}
