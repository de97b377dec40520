//! What is done to activations number by number.

use super::math::{erfc, exp};
use super::pool::Pool;
use super::simd::{Isa, Kernel, Simd, map, zip_into, zip_map};
use crate::DeviceError;

/// `out = silu(gate) * up` of rows `[gate | up]`, `out` being `[_, cols]`.
pub(super) fn swiglu(pool: &Pool, isa: Isa, gate_up: &[f32], out: &mut [f32], cols: usize) -> Result<(), DeviceError> {
    pool.rows(2, out, cols, |row, out| {
        let (gate, up) = gate_up[2 * row * cols..2 * (row + 1) * cols].split_at(cols);
        isa.run(Swiglu { gate, up, out });
    })
}

/// `x = gelu(x + bias)` of rows `[_, cols]`.
pub(super) fn gelu(pool: &Pool, isa: Isa, x: &mut [f32], cols: usize, bias: Option<&[f32]>) -> Result<(), DeviceError> {
    pool.rows(4, x, cols, |_, x| {
        if let Some(bias) = bias {
            isa.run(Add { x, y: bias });
        }
        isa.run(Gelu { x });
    })
}

/// `x[r] += bias` of rows `[_, bias.len()]`.
pub(super) fn add_bias(pool: &Pool, isa: Isa, x: &mut [f32], bias: &[f32]) -> Result<(), DeviceError> {
    pool.rows(1, x, bias.len(), |_, x| isa.run(Add { x, y: bias }))
}

/// `x += y`, both `[_, cols]`.
pub(super) fn add(pool: &Pool, isa: Isa, x: &mut [f32], y: &[f32], cols: usize) -> Result<(), DeviceError> {
    pool.rows(1, x, cols, |row, x| isa.run(Add { x, y: &y[row * cols..(row + 1) * cols] }))
}

struct Swiglu<'a> {
    gate: &'a [f32],
    up: &'a [f32],
    out: &'a mut [f32],
}

impl Kernel for Swiglu<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let one = s.splat(1.0);
        zip_into(
            s,
            self.gate,
            self.up,
            self.out,
            #[inline(always)]
            |gate, up| {
                let minus = s.sub(s.splat(0.0), gate);
                s.mul(s.div(gate, s.add(one, exp(s, minus))), up)
            },
        );
    }
}

struct Gelu<'a> {
    x: &'a mut [f32],
}

impl Kernel for Gelu<'_> {
    type Output = ();

    // gelu(x) = x Phi(x) = max(x, 0) - |x| erfc(|x| / sqrt(2)) / 2
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let zero = s.splat(0.0);
        map(
            s,
            self.x,
            #[inline(always)]
            |x| {
                let size = s.max(s.sub(zero, x), x);
                let tail = s.mul(s.splat(-0.5), erfc(s, s.mul(size, s.splat(std::f32::consts::FRAC_1_SQRT_2))));
                s.fma(size, tail, s.max(x, zero))
            },
        );
    }
}

struct Add<'a> {
    x: &'a mut [f32],
    y: &'a [f32],
}

impl Kernel for Add<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        zip_map(
            s,
            self.x,
            self.y,
            #[inline(always)]
            |x, y| s.add(x, y),
        );
    }
}
