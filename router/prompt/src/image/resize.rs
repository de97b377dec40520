//! Bicubic scaling as OpenCV's INTER_CUBIC does it on 32-bit floats: A = -0.75, half-pixel centres, the edge repeated, no
//! antialiasing and no clipping.

const A: f32 = -0.75;

/// Where an output position reads, and how much of each.
struct Taps {
    at: [usize; 4],
    weight: [f32; 4],
}

fn taps(from: usize, to: usize) -> Vec<Taps> {
    let scale = from as f64 / to as f64;
    (0..to)
        .map(|position| {
            let centre = ((position as f64 + 0.5) * scale - 0.5) as f32;
            let first = centre.floor();
            let x = centre - first;
            let near = |x: f32| ((A + 2.0) * x - (A + 3.0)) * x * x + 1.0;
            let far = ((A * (x + 1.0) - 5.0 * A) * (x + 1.0) + 8.0 * A) * (x + 1.0) - 4.0 * A;
            let (before, after) = (near(x), near(1.0 - x));
            let at = std::array::from_fn(|tap| (first as i64 - 1 + tap as i64).clamp(0, from as i64 - 1) as usize);
            Taps { at, weight: [far, before, after, 1.0 - far - before - after] }
        })
        .collect()
}

/// Scales interleaved RGB of `from` (width, height) to `to`; hands on each row, from the top, as it is done.
pub(super) fn cubic(pixels: &[u8], from: (usize, usize), to: (usize, usize), mut take: impl FnMut(&[f32])) {
    let mut line = vec![0.0; 3 * to.0];
    if from == to {
        for row in pixels.chunks_exact(line.len()) {
            line.iter_mut().zip(row).for_each(|(out, &value)| *out = f32::from(value));
            take(&line);
        }
        return;
    }
    let (columns, rows) = (taps(from.0, to.0), taps(from.1, to.1));
    // Rows scaled in width, kept for as long as output rows read them: which source row lies in which of four places.
    let mut scaled: [(usize, Vec<f32>); 4] = std::array::from_fn(|_| (usize::MAX, vec![0.0; 3 * to.0]));
    for row in &rows {
        for source in row.at {
            let (held, wide) = &mut scaled[source % 4];
            if *held != source {
                *held = source;
                widen(&pixels[3 * from.0 * source..][..3 * from.0], &columns, wide);
            }
        }
        let [a, b, c, d] = row.at.map(|source| scaled[source % 4].1.as_slice());
        let w = row.weight;
        for (((out, (a, b)), c), d) in line.iter_mut().zip(a.iter().zip(b)).zip(c).zip(d) {
            *out = a * w[0] + b * w[1] + c * w[2] + d * w[3];
        }
        take(&line);
    }
}

/// Scales one row in width.
fn widen(row: &[u8], columns: &[Taps], out: &mut [f32]) {
    let pixels = row.as_chunks::<3>().0;
    for (out, taps) in out.as_chunks_mut::<3>().0.iter_mut().zip(columns) {
        let [a, b, c, d] = taps.at.map(|at| pixels[at].map(f32::from));
        let w = taps.weight;
        *out = std::array::from_fn(|channel| a[channel] * w[0] + b[channel] * w[1] + c[channel] * w[2] + d[channel] * w[3]);
    }
}
