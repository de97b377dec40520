//! What the machine allows: the limits that the device's speed is measured against.

use std::hint::black_box;
use std::sync::Barrier;
use std::time::Instant;

use half::bf16;

use super::buffer::Buffer;
use super::element::Element;
use super::simd::{Isa, Kernel, LANES, Simd, sum};
use crate::DeviceError;

/// Inner dimension of the bare product.
const INNER: usize = 2048;

/// GB/s of weights that a bare loop of bf16 -> f32 matrix-vector products reads on `threads` threads, four rows at a
/// time, each thread its share of `bytes` of weights (more than the caches hold).
pub fn gemv_bandwidth(threads: usize, bytes: usize) -> Result<f64, DeviceError> {
    let share = bytes / threads / (8 * INNER) * 4 * INNER;
    let mut weights = Buffer::<bf16>::zeroed(share * threads, "the weights of a bare product")?;
    let isa = Isa::best();
    let seconds = together(threads, weights.chunks_exact_mut(share), |weights, start| {
        weights.fill(bf16::ONE);
        let x = vec![1.0; INNER];
        start.wait();
        let begun = Instant::now();
        black_box(isa.run(Gemv { weights, x: &x }));
        begun.elapsed().as_secs_f64()
    });
    Ok(2.0 * (share * threads) as f64 / seconds / 1e9)
}

/// FLOP/s of independent f32 fused multiply-adds on `threads` threads, two operations each.
pub fn fma_peak(threads: usize) -> f64 {
    const STEPS: usize = 1 << 23;
    let isa = Isa::best();
    let mut flops = vec![0; threads];
    let seconds = together(threads, flops.iter_mut(), |flops, start| {
        start.wait();
        let begun = Instant::now();
        *flops = isa.run(Fma { steps: STEPS });
        begun.elapsed().as_secs_f64()
    });
    flops.iter().sum::<usize>() as f64 / seconds
}

/// Does `work` on a thread for each share, all starting at the barrier; gives the longest time.
fn together<T: Send>(threads: usize, shares: impl Iterator<Item = T>, work: impl Fn(T, &Barrier) -> f64 + Sync) -> f64 {
    let start = Barrier::new(threads);
    std::thread::scope(|scope| {
        let running: Vec<_> = shares.map(|share| scope.spawn(|| work(share, &start))).collect();
        running.into_iter().filter_map(|thread| thread.join().ok()).fold(0.0, f64::max)
    })
}

struct Gemv<'a> {
    weights: &'a [bf16],
    x: &'a [f32],
}

impl Kernel for Gemv<'_> {
    type Output = f32;

    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> f32 {
        let mut total = 0.0;
        for rows in self.weights.chunks_exact(4 * INNER) {
            let mut sums = [s.splat(0.0); 8];
            for (k, x) in self.x.as_chunks::<LANES>().0.iter().enumerate() {
                let x = s.load(x);
                for row in 0..4 {
                    let weights = &rows[row * INNER..][..INNER].as_chunks::<LANES>().0[k];
                    // The same place of the next four rows.
                    s.prefetch(weights.as_ptr().wrapping_add(4 * INNER));
                    let sum = &mut sums[row + 4 * (k % 2)];
                    *sum = s.fma(bf16::lanes(s, weights), x, *sum);
                }
            }
            for (i, v) in sums.into_iter().enumerate() {
                total += sum(s, v) * i as f32;
            }
        }
        total
    }
}

struct Fma {
    steps: usize,
}

impl Kernel for Fma {
    type Output = usize;

    /// Gives the operations done.
    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> usize {
        if S::WIDE { chains::<S, 12>(s, self.steps) } else { chains::<S, 6>(s, self.steps) }
    }
}

/// `N` chains of fused multiply-adds, enough to hide the latency of one.
#[inline(always)]
fn chains<S: Simd, const N: usize>(s: S, steps: usize) -> usize {
    let (x, y) = (s.splat(black_box(0.999)), s.splat(black_box(0.001)));
    let mut acc = [s.splat(1.0); N];
    for _ in 0..steps {
        for acc in &mut acc {
            *acc = s.fma(*acc, x, y);
        }
    }
    black_box(acc.map(|acc| sum(s, acc)));
    2 * LANES * N * steps
}
