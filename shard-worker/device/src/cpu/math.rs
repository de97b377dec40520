//! Transcendental functions of vectors, the same on every instruction set.

#![allow(clippy::excessive_precision, reason = "coefficients as they were published")]

use super::simd::Simd;

/// `e^x` within two units in the last place; at least `e^-87` and at most `e^88`. NaN stays NaN.
///
/// `x = n ln 2 + r` with `|r| <= ln 2 / 2`, the polynomial is Cephes' `expf`.
#[inline(always)]
pub(super) fn exp<S: Simd>(s: S, x: S::V) -> S::V {
    /// Adding it leaves the nearest integer in a float's low bits.
    const ROUND: f32 = 12_582_912.0;
    const POLYNOMIAL: [f32; 6] = [1.987_569_1e-4, 1.398_2e-3, 8.333_452e-3, 4.166_579_6e-2, 0.166_666_66, 0.5];
    // The bounds come first, so that a NaN passes through.
    let x = s.min(s.splat(88.0), s.max(s.splat(-87.0), x));
    let t = s.fma(x, s.splat(std::f32::consts::LOG2_E), s.splat(ROUND));
    let n = s.sub(t, s.splat(ROUND));
    let r = s.fma(n, s.splat(-0.693_359_4), x);
    let r = s.fma(n, s.splat(2.121_944_4e-4), r);
    let p = polynomial(s, r, &POLYNOMIAL);
    let y = s.add(s.fma(p, s.mul(r, r), r), s.splat(1.0));
    s.mul(y, s.pow2(t))
}

/// `1 - erf(z)` for `z >= 0`, with a relative error of 1e-6 (Numerical Recipes in C, 2nd edition, section 6.2).
#[inline(always)]
pub(super) fn erfc<S: Simd>(s: S, z: S::V) -> S::V {
    const POLYNOMIAL: [f32; 10] = [
        0.170_872_77,
        -0.822_152_23,
        1.488_515_87,
        -1.135_203_98,
        0.278_868_07,
        -0.186_288_06,
        0.096_784_18,
        0.374_091_96,
        1.000_023_68,
        -1.265_512_23,
    ];
    let t = s.div(s.splat(1.0), s.fma(z, s.splat(0.5), s.splat(1.0)));
    let p = polynomial(s, t, &POLYNOMIAL);
    let minus_z = s.sub(s.splat(0.0), z);
    s.mul(t, exp(s, s.fma(minus_z, z, p)))
}

/// Coefficients from the highest power.
#[inline(always)]
fn polynomial<S: Simd>(s: S, x: S::V, coefficients: &[f32]) -> S::V {
    let mut y = s.splat(coefficients[0]);
    for c in &coefficients[1..] {
        y = s.fma(y, x, s.splat(*c));
    }
    y
}

#[cfg(test)]
mod tests {
    use super::super::simd::{Isa, Kernel, LANES, Lanes};
    use super::*;

    struct Exp(Lanes);
    struct Erfc(Lanes);

    impl Kernel for Exp {
        type Output = Lanes;
        #[inline(always)]
        fn run<S: Simd>(mut self, s: S) -> Lanes {
            let y = exp(s, s.load(&self.0));
            s.store(y, &mut self.0);
            self.0
        }
    }

    impl Kernel for Erfc {
        type Output = Lanes;
        #[inline(always)]
        fn run<S: Simd>(mut self, s: S) -> Lanes {
            let y = erfc(s, s.load(&self.0));
            s.store(y, &mut self.0);
            self.0
        }
    }

    fn on_all(kernel: impl Fn(Isa) -> Lanes) -> Lanes {
        let all: Vec<_> = Isa::available().into_iter().map(kernel).collect();
        for one in &all {
            assert_eq!(one.map(f32::to_bits), all[0].map(f32::to_bits));
        }
        all[0]
    }

    #[test]
    fn exp_is_within_two_ulps_and_equal_everywhere() {
        for step in 0..20_000 {
            let x: Lanes = std::array::from_fn(|i| -87.0 + (step * LANES + i) as f32 * (175.0 / 320_000.0));
            for (x, y) in x.iter().zip(on_all(|isa| isa.run(Exp(x)))) {
                let exact = f64::from(*x).exp();
                assert!((f64::from(y) - exact).abs() <= 2.4e-7 * exact, "exp({x}) = {y}, not {exact}");
            }
        }
    }

    #[test]
    fn exp_of_zero_is_one_and_of_the_ends_is_bounded() {
        let mut x = [0.0; LANES];
        x[1..5].copy_from_slice(&[f32::NEG_INFINITY, f32::INFINITY, f32::NAN, -0.0]);
        let y = on_all(|isa| isa.run(Exp(x)));
        assert_eq!([y[0], y[4]], [1.0, 1.0]);
        assert!(y[1] < 2e-38 && y[2] > 1e38 && y[2].is_finite() && y[3].is_nan());
    }

    #[test]
    fn erfc_matches_its_series() {
        for step in 0..200 {
            let z: Lanes = std::array::from_fn(|i| (step * LANES + i) as f32 / 1000.0);
            for (z, y) in z.iter().zip(on_all(|isa| isa.run(Erfc(z)))) {
                // erf(z) = 2/sqrt(pi) e^(-z^2) sum of 2^n z^(2n+1) / (2n+1)!!
                let z = f64::from(*z);
                let (mut term, mut sum) = (z, z);
                for n in 1..120 {
                    term *= 2.0 * z * z / f64::from(2 * n + 1);
                    sum += term;
                }
                let exact = 1.0 - std::f64::consts::FRAC_2_SQRT_PI * (-z * z).exp() * sum;
                assert!((f64::from(y) - exact).abs() < 4e-7, "erfc({z}) = {y}, not {exact}");
            }
        }
    }
}
