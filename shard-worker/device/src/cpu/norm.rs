//! RMS normalisation.

use super::pool::Pool;
use super::simd::{Isa, Kernel, LANES, Simd, sum, zip_into};
use crate::DeviceError;

/// Independent sums, to hide the latency of an addition; a fixed number, since it decides the rounding.
const SUMS: usize = 4;

/// `out = x / sqrt(mean(x^2) + eps) * scale`, row by row of `[_, scale.len()]`.
pub(super) fn rms_norm(pool: &Pool, isa: Isa, x: &[f32], scale: &[f32], eps: f32, out: &mut [f32]) -> Result<(), DeviceError> {
    let cols = scale.len();
    pool.rows(1, out, cols, |row, out| isa.run(RmsNorm { x: &x[row * cols..(row + 1) * cols], scale, eps, out }))
}

struct RmsNorm<'a> {
    x: &'a [f32],
    scale: &'a [f32],
    eps: f32,
    out: &'a mut [f32],
}

impl Kernel for RmsNorm<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let mean = sum_of_squares(s, self.x) / self.x.len() as f32;
        let factor = s.splat(1.0 / (mean + self.eps).sqrt());
        zip_into(
            s,
            self.x,
            self.scale,
            self.out,
            #[inline(always)]
            |x, scale| s.mul(s.mul(x, factor), scale),
        );
    }
}

#[inline(always)]
fn sum_of_squares<S: Simd>(s: S, x: &[f32]) -> f32 {
    let mut sums = [s.splat(0.0); SUMS];
    let (body, tail) = x.as_chunks::<{ SUMS * LANES }>();
    for x in body {
        for (x, sum) in x.as_chunks::<LANES>().0.iter().zip(&mut sums) {
            let x = s.load(x);
            *sum = s.fma(x, x, *sum);
        }
    }
    let mut last = [0.0; SUMS * LANES];
    last[..tail.len()].copy_from_slice(tail);
    for (x, sum) in last.as_chunks::<LANES>().0.iter().zip(&mut sums) {
        let x = s.load(x);
        *sum = s.fma(x, x, *sum);
    }
    sum(s, s.add(s.add(sums[0], sums[1]), s.add(sums[2], sums[3])))
}
