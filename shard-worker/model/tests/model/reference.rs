//! Pixtral in plain f64 loops: no shards, no cache, no batch. Slow, and written from the formulas, so that other shapes
//! than the golden checkpoint's can be checked.

use tessera_model::WeightSource;
use tessera_model::checkpoint::TensorSlice;
use tessera_types::{ImageEncode, PlacedImage, TokenId};

type Rows = Vec<Vec<f64>>;

/// Logits of every position.
pub(crate) fn logits(source: &WeightSource, ids: &[TokenId], placed: &[PlacedImage], images: &[ImageEncode]) -> Rows {
    let d = source.spec().decoder.clone();
    let weights = Weights(source);
    let embedding = weights.matrix("tok_embeddings.weight", d.vocab_size, d.dim);
    let mut x: Rows = ids.iter().map(|id| embedding[id.0 as usize].clone()).collect();
    for (place, image) in placed.iter().zip(images) {
        let features = image_features(&weights, image);
        for offset in 0..place.grid.tokens() {
            if let Some(feature) = place.grid.feature_of(offset) {
                x[place.at as usize + offset].clone_from(&features[feature]);
            }
        }
    }
    let frequency = |pair: usize| d.rope_theta.powf(-2.0 * pair as f64 / d.head_dim as f64);
    let angle = |row: usize, pair: usize| row as f64 * frequency(pair);
    let shape = Shape {
        heads: d.heads,
        kv_heads: d.kv_heads,
        head_dim: d.head_dim,
        ffn: d.ffn_dim,
        eps: d.norm_eps.into(),
        causal: true,
    };
    for n in 0..d.layers {
        layer(&weights, &format!("layers.{n}."), &shape, &angle, &mut x);
    }
    let normed = norm(&x, &weights.vector("norm.weight", d.dim), d.norm_eps.into());
    let output = if d.tied_embeddings { "tok_embeddings.weight" } else { "output.weight" };
    product(&normed, &weights.matrix(output, d.vocab_size, d.dim))
}

fn image_features(weights: &Weights<'_>, image: &ImageEncode) -> Rows {
    let v = weights.0.spec().vision.clone().unwrap();
    let dim = weights.0.spec().decoder.dim;
    let (grid, side, head_dim) = (image.grid, v.patch_size, v.head_dim());
    let (height, width) = (grid.rows as usize * side, grid.cols as usize * side);
    let at = |patch: usize| (patch / grid.cols as usize, patch % grid.cols as usize);
    let pixel = |channel: usize, y: usize, x: usize| {
        let start = 4 * ((channel * height + y) * width + x);
        f64::from(f32::from_le_bytes(image.pixels[start..start + 4].try_into().unwrap()))
    };
    let patch = |index: usize| {
        let (row, col) = at(index);
        let inside = move |i: usize| (i / (side * side), row * side + i / side % side, col * side + i % side);
        (0..3 * side * side).map(inside).map(|(channel, y, x)| pixel(channel, y, x)).collect()
    };
    let patches: Rows = (0..grid.patches()).map(patch).collect();
    let conv = weights.read(TensorSlice::matrix("vision_encoder.patch_conv.weight", &[v.dim, 3, side, side]), 3 * side * side);
    let mut x = norm(&product(&patches, &conv), &weights.vector("vision_encoder.ln_pre.weight", v.dim), v.norm_eps.into());
    // The first half of a head's pairs turns by the row with even frequencies, the second by the column with odd ones.
    let frequency = |index: usize| v.rope_theta.powf(-2.0 * index as f64 / head_dim as f64);
    let angle = |patch: usize, pair: usize| match pair.checked_sub(head_dim / 4) {
        None => at(patch).0 as f64 * frequency(2 * pair),
        Some(pair) => at(patch).1 as f64 * frequency(2 * pair + 1),
    };
    let shape = Shape { heads: v.heads, kv_heads: v.heads, head_dim, ffn: v.ffn_dim, eps: v.norm_eps.into(), causal: false };
    for n in 0..v.layers {
        layer(weights, &format!("vision_encoder.transformer.layers.{n}."), &shape, &angle, &mut x);
    }
    let bias = |name: &str| if v.adapter_bias { weights.vector(name, dim) } else { vec![0.0; dim] };
    let mut hidden = product(&x, &weights.matrix("vision_language_adapter.w_in.weight", dim, v.dim));
    add_bias(&mut hidden, &bias("vision_language_adapter.w_in.bias"));
    hidden.iter_mut().flatten().for_each(|value| *value *= 0.5 * (1.0 + erf(*value / 2f64.sqrt())));
    let mut out = product(&hidden, &weights.matrix("vision_language_adapter.w_out.weight", dim, dim));
    add_bias(&mut out, &bias("vision_language_adapter.w_out.bias"));
    out
}

struct Weights<'a>(&'a WeightSource);

impl Weights<'_> {
    fn matrix(&self, name: &str, rows: usize, columns: usize) -> Rows {
        self.read(TensorSlice::matrix(name, &[rows, columns]), columns)
    }

    fn vector(&self, name: &str, len: usize) -> Vec<f64> {
        self.read(TensorSlice::vector(name, len), len).remove(0)
    }

    fn read(&self, slice: TensorSlice, columns: usize) -> Rows {
        let read = self.0.read(&slice).unwrap();
        let values = read.bytes.chunks_exact(2).map(|b| f64::from(half::bf16::from_le_bytes([b[0], b[1]])));
        values.collect::<Vec<_>>().chunks(columns).map(<[f64]>::to_vec).collect()
    }
}

struct Shape {
    heads: usize,
    kv_heads: usize,
    head_dim: usize,
    ffn: usize,
    eps: f64,
    causal: bool,
}

fn layer(weights: &Weights<'_>, prefix: &str, shape: &Shape, angle: &dyn Fn(usize, usize) -> f64, x: &mut Rows) {
    let dim = x[0].len();
    let (queries, keys) = (shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim);
    let matrix = |name: &str, out, inner| weights.matrix(&format!("{prefix}{name}.weight"), out, inner);
    let scale = |name: &str| weights.vector(&format!("{prefix}{name}.weight"), dim);

    let normed = norm(x, &scale("attention_norm"), shape.eps);
    let mut q = product(&normed, &matrix("attention.wq", queries, dim));
    let mut k = product(&normed, &matrix("attention.wk", keys, dim));
    let v = product(&normed, &matrix("attention.wv", keys, dim));
    rotate(&mut q, shape.head_dim, angle);
    rotate(&mut k, shape.head_dim, angle);
    let attended = attention(&q, &k, &v, shape);
    add(x, &product(&attended, &matrix("attention.wo", dim, queries)));

    let normed = norm(x, &scale("ffn_norm"), shape.eps);
    let mut gate = product(&normed, &matrix("feed_forward.w1", shape.ffn, dim));
    let up = product(&normed, &matrix("feed_forward.w3", shape.ffn, dim));
    for (gate, up) in gate.iter_mut().flatten().zip(up.iter().flatten()) {
        *gate = *gate / (1.0 + (-*gate).exp()) * up;
    }
    add(x, &product(&gate, &matrix("feed_forward.w2", dim, shape.ffn)));
}

fn attention(q: &Rows, k: &Rows, v: &Rows, shape: &Shape) -> Rows {
    let mut out = vec![vec![0.0; shape.heads * shape.head_dim]; q.len()];
    for (row, out) in out.iter_mut().enumerate() {
        let seen = if shape.causal { row + 1 } else { q.len() };
        for head in 0..shape.heads {
            let own = head * shape.head_dim..(head + 1) * shape.head_dim;
            let group = head * shape.kv_heads / shape.heads;
            let shared = group * shape.head_dim..(group + 1) * shape.head_dim;
            let score = |other: usize| dot(&q[row][own.clone()], &k[other][shared.clone()]) / (shape.head_dim as f64).sqrt();
            let weights: Vec<f64> = (0..seen).map(score).map(f64::exp).collect();
            let total: f64 = weights.iter().sum();
            for (other, weight) in weights.iter().enumerate() {
                let values = &v[other][shared.clone()];
                out[own.clone()].iter_mut().zip(values).for_each(|(out, value)| *out += weight / total * value);
            }
        }
    }
    out
}

/// Turns the pairs `(2i, 2i + 1)` of every head.
fn rotate(rows: &mut Rows, head_dim: usize, angle: &dyn Fn(usize, usize) -> f64) {
    for (row, values) in rows.iter_mut().enumerate() {
        for head in values.chunks_exact_mut(head_dim) {
            for (pair, xy) in head.chunks_exact_mut(2).enumerate() {
                let (sin, cos) = angle(row, pair).sin_cos();
                (xy[0], xy[1]) = (xy[0] * cos - xy[1] * sin, xy[0] * sin + xy[1] * cos);
            }
        }
    }
}

fn norm(x: &Rows, scale: &[f64], eps: f64) -> Rows {
    let row = |row: &Vec<f64>| {
        let root = (dot(row, row) / row.len() as f64 + eps).sqrt();
        row.iter().zip(scale).map(|(value, scale)| value / root * scale).collect()
    };
    x.iter().map(row).collect()
}

fn product(x: &Rows, weight: &Rows) -> Rows {
    x.iter().map(|row| weight.iter().map(|column| dot(row, column)).collect()).collect()
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

fn add(x: &mut Rows, y: &Rows) {
    x.iter_mut().flatten().zip(y.iter().flatten()).for_each(|(x, y)| *x += y);
}

fn add_bias(x: &mut Rows, bias: &[f64]) {
    x.iter_mut().for_each(|row| row.iter_mut().zip(bias).for_each(|(x, bias)| *x += bias));
}

/// The error function by its Taylor series. Beyond 4 the series cancels, and the function is 1 but for 2e-8.
fn erf(x: f64) -> f64 {
    if x.abs() > 4.0 {
        return x.signum();
    }
    let (mut term, mut sum) = (x, x);
    for n in 1..100 {
        term *= -x * x / f64::from(n);
        sum += term / f64::from(2 * n + 1);
    }
    sum * 2.0 / std::f64::consts::PI.sqrt()
}
