//! AVX-512F: a vector is one register, of which there are 32.
#![allow(unsafe_code)]

use std::arch::x86_64::*;

use half::bf16;

use super::{Kernel, LANES, Lanes, Simd};

/// Proof that the CPU has AVX-512F, AVX2 and FMA.
#[derive(Clone, Copy)]
pub(super) struct Avx512(());

/// Runs a kernel; to be called only where the CPU has the features.
#[target_feature(enable = "avx512f,avx2,fma")]
pub(super) fn run<K: Kernel>(kernel: K) -> K::Output {
    kernel.run(Avx512(()))
}

macro_rules! lanewise {
    ($($name:ident($($arg:ident),+) = $value:expr;)+) => {$(
        #[inline(always)]
        fn $name(self, $($arg: __m512),+) -> __m512 {
            // SAFETY: `self` proves the features; the intrinsics touch registers only.
            unsafe { $value }
        }
    )+};
}

impl Simd for Avx512 {
    type V = __m512;
    const HEIGHTS: &'static [usize] = &[12, 8, 6, 4, 2, 1];
    const WIDE: bool = true;

    lanewise! {
        add(a, b) = _mm512_add_ps(a, b);
        sub(a, b) = _mm512_sub_ps(a, b);
        mul(a, b) = _mm512_mul_ps(a, b);
        div(a, b) = _mm512_div_ps(a, b);
        fma(a, b, c) = _mm512_fmadd_ps(a, b, c);
        max(a, b) = _mm512_max_ps(a, b);
        min(a, b) = _mm512_min_ps(a, b);
        pow2(t) = _mm512_castsi512_ps(_mm512_add_epi32(
            _mm512_slli_epi32::<23>(_mm512_castps_si512(t)),
            _mm512_set1_epi32(0x3f80_0000),
        ));
    }

    #[inline(always)]
    fn splat(self, x: f32) -> __m512 {
        // SAFETY: `self` proves the features.
        unsafe { _mm512_set1_ps(x) }
    }

    #[inline(always)]
    fn load(self, x: &Lanes) -> __m512 {
        // SAFETY: `x` is 16 floats; the load needs no alignment.
        unsafe { _mm512_loadu_ps(x.as_ptr()) }
    }

    #[inline(always)]
    fn load_bf16(self, x: &[bf16; LANES]) -> __m512 {
        // SAFETY: `x` is 32 bytes; the load needs no alignment.
        unsafe {
            let narrow = _mm256_loadu_si256(x.as_ptr().cast());
            _mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(narrow)))
        }
    }

    #[inline(always)]
    fn load_bf16_pair(self, x: &[bf16; 2 * LANES]) -> [__m512; 2] {
        // SAFETY: `x` is 64 bytes; the load needs no alignment.
        unsafe {
            let both = _mm512_loadu_si512(x.as_ptr().cast());
            let even = _mm512_slli_epi32::<16>(both);
            let odd = _mm512_and_si512(both, _mm512_set1_epi32(0xffff_0000_u32 as i32));
            [_mm512_castsi512_ps(even), _mm512_castsi512_ps(odd)]
        }
    }

    #[inline(always)]
    fn store(self, v: __m512, to: &mut Lanes) {
        // SAFETY: `to` is 16 floats; the store needs no alignment.
        unsafe { _mm512_storeu_ps(to.as_mut_ptr(), v) }
    }

    #[inline(always)]
    fn stream(self, v: __m512, to: &mut Lanes) {
        if to.as_ptr().addr().is_multiple_of(align_of::<__m512>()) {
            // SAFETY: `to` is 16 floats, aligned; `self` proves the features.
            unsafe { _mm512_stream_ps(to.as_mut_ptr(), v) }
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
