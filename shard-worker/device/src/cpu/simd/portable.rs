//! Plain Rust: what every other instruction set must equal bit for bit.

use std::array::from_fn;

use half::bf16;

use super::{Kernel, LANES, Lanes, Simd};

/// No instruction set in particular.
#[derive(Clone, Copy)]
pub(super) struct Portable;

/// Runs a kernel.
pub(super) fn run<K: Kernel>(kernel: K) -> K::Output {
    kernel.run(Portable)
}

macro_rules! lanewise {
    ($($name:ident($($arg:ident),+) = $value:expr;)+) => {$(
        #[inline(always)]
        fn $name(self, $($arg: Lanes),+) -> Lanes {
            from_fn(|i| { $(let $arg = $arg[i];)+ $value })
        }
    )+};
}

impl Simd for Portable {
    type V = Lanes;
    const HEIGHTS: &'static [usize] = &[4, 2, 1];
    const WIDE: bool = false;

    lanewise! {
        add(a, b) = a + b;
        sub(a, b) = a - b;
        mul(a, b) = a * b;
        div(a, b) = a / b;
        fma(a, b, c) = a.mul_add(b, c);
        max(a, b) = if a > b { a } else { b };
        min(a, b) = if a < b { a } else { b };
        pow2(t) = f32::from_bits((t.to_bits() << 23).wrapping_add(1.0_f32.to_bits()));
    }

    #[inline(always)]
    fn splat(self, x: f32) -> Lanes {
        [x; LANES]
    }

    #[inline(always)]
    fn load(self, x: &Lanes) -> Lanes {
        *x
    }

    #[inline(always)]
    fn load_bf16(self, x: &[bf16; LANES]) -> Lanes {
        from_fn(|i| x[i].to_f32())
    }

    #[inline(always)]
    fn load_bf16_pair(self, x: &[bf16; 2 * LANES]) -> [Lanes; 2] {
        [from_fn(|i| x[2 * i].to_f32()), from_fn(|i| x[2 * i + 1].to_f32())]
    }

    #[inline(always)]
    fn store(self, v: Lanes, to: &mut Lanes) {
        *to = v;
    }

    #[inline(always)]
    fn stream(self, v: Lanes, to: &mut Lanes) {
        *to = v;
    }

    #[inline(always)]
    fn fence(self) {}

    #[inline(always)]
    fn prefetch<T>(self, _: *const T) {}
}
