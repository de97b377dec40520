//! Whole slices, sixteen numbers at a time. The last lanes are padded with zeros.

use super::{LANES, Lanes, Simd};

/// `out[i] = x[i]`, over the shorter of the two, past the caches; [`Simd::fence`] ends it.
#[inline(always)]
pub(in crate::cpu) fn stream<S: Simd>(s: S, x: &[f32], out: &mut [f32]) {
    let ((x, x_rest), (out, rest)) = (x.as_chunks::<LANES>(), out.as_chunks_mut::<LANES>());
    let whole = x.len().min(out.len());
    for (out, x) in out.iter_mut().zip(x) {
        s.stream(s.load(x), out);
    }
    let x_rest = x.get(whole).map_or(x_rest, |x| x);
    for (out, x) in rest.iter_mut().zip(x_rest) {
        *out = *x;
    }
}

/// `x[i] = f(x[i])`
#[inline(always)]
pub(in crate::cpu) fn map<S: Simd>(s: S, x: &mut [f32], f: impl Fn(S::V) -> S::V) {
    let (body, tail) = x.as_chunks_mut::<LANES>();
    for x in body {
        s.store(f(s.load(x)), x);
    }
    if !tail.is_empty() {
        let mut last = padded(tail);
        s.store(f(s.load(&last)), &mut last);
        tail.copy_from_slice(&last[..tail.len()]);
    }
}

/// `x[i] = f(x[i], y[i])`, over the shorter of the two.
#[inline(always)]
pub(in crate::cpu) fn zip_map<S: Simd>(s: S, x: &mut [f32], y: &[f32], f: impl Fn(S::V, S::V) -> S::V) {
    let len = x.len().min(y.len());
    let (body, tail) = x[..len].as_chunks_mut::<LANES>();
    let (other, rest) = y[..len].as_chunks::<LANES>();
    for (x, y) in body.iter_mut().zip(other) {
        s.store(f(s.load(x), s.load(y)), x);
    }
    if !tail.is_empty() {
        let mut last = padded(tail);
        s.store(f(s.load(&last), s.load(&padded(rest))), &mut last);
        tail.copy_from_slice(&last[..tail.len()]);
    }
}

/// `out[i] = f(x[i], y[i])`, over the shortest of the three.
#[inline(always)]
pub(in crate::cpu) fn zip_into<S: Simd>(s: S, x: &[f32], y: &[f32], out: &mut [f32], f: impl Fn(S::V, S::V) -> S::V) {
    let len = out.len().min(x.len()).min(y.len());
    let (body, tail) = out[..len].as_chunks_mut::<LANES>();
    let ((x, x_rest), (y, y_rest)) = (x[..len].as_chunks::<LANES>(), y[..len].as_chunks::<LANES>());
    for ((out, x), y) in body.iter_mut().zip(x).zip(y) {
        s.store(f(s.load(x), s.load(y)), out);
    }
    if !tail.is_empty() {
        let mut last = [0.0; LANES];
        s.store(f(s.load(&padded(x_rest)), s.load(&padded(y_rest))), &mut last);
        tail.copy_from_slice(&last[..tail.len()]);
    }
}

/// The lanes' sum as a binary tree.
#[inline(always)]
pub(in crate::cpu) fn sum<S: Simd>(s: S, v: S::V) -> f32 {
    let mut x = [0.0; LANES];
    s.store(v, &mut x);
    let mut half = LANES / 2;
    while half > 0 {
        for i in 0..half {
            x[i] += x[i + half];
        }
        half /= 2;
    }
    x[0]
}

#[inline(always)]
pub(super) fn padded(x: &[f32]) -> Lanes {
    let mut last = [0.0; LANES];
    last[..x.len()].copy_from_slice(x);
    last
}
