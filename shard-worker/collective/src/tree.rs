//! The order in which ranks' parts are added: a binary tree in rank order.

/// Numbers summed at a time, so that partial sums of wide trees stay in the nearest cache.
const RUN: usize = 1024;

/// `out[i] = ((p0 + p1) + (p2 + p3)) + …`; all parts are as long as `out`.
pub(crate) fn sum(parts: &[&[f32]], out: &mut [f32]) {
    match parts {
        [] => {}
        [only] => out.copy_from_slice(only),
        [a, b] => out.iter_mut().zip(*a).zip(*b).for_each(|((out, a), b)| *out = a + b),
        parts => {
            let (left, right) = parts.split_at(parts.len() / 2);
            let mut scratch = [0.0; RUN];
            for (run, out) in out.chunks_mut(RUN).enumerate() {
                let cut = |part: &&[f32]| -> (usize, usize) { (run * RUN, (run * RUN + RUN).min(part.len())) };
                let of = |parts: &[&[f32]], out: &mut [f32]| {
                    let mut runs: [&[f32]; 8] = [&[]; 8];
                    for (slot, part) in runs.iter_mut().zip(parts) {
                        let (start, end) = cut(part);
                        *slot = &part[start..end];
                    }
                    sum(&runs[..parts.len()], out);
                };
                let right_sum = &mut scratch[..out.len()];
                of(left, out);
                of(right, right_sum);
                out.iter_mut().zip(right_sum).for_each(|(out, right)| *out += *right);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tree_adds_neighbours_first() {
        // In f32 the order shows: 1e8 swallows a lone 3.
        let parts: Vec<Vec<f32>> = [1e8, 3.0, 3.0, -1e8].iter().map(|&v| vec![v; 2500]).collect();
        let parts: Vec<&[f32]> = parts.iter().map(Vec::as_slice).collect();
        let mut out = vec![0.0; 2500];
        sum(&parts, &mut out);
        let expected = (1e8_f32 + 3.0) + (3.0 + -1e8_f32);
        assert!(out.iter().all(|&v| v == expected));
    }

    #[test]
    fn eight_parts_are_three_levels() {
        let values = [1e7_f32, 0.3, -2.5, 1e-3, 7.7, -1e7, 0.25, 3.3];
        let parts: Vec<[f32; 1]> = values.iter().map(|&v| [v]).collect();
        let parts: Vec<&[f32]> = parts.iter().map(|p| p.as_slice()).collect();
        let mut out = [0.0];
        sum(&parts, &mut out);
        let [a, b, c, d, e, f, g, h] = values;
        assert_eq!(out[0], ((a + b) + (c + d)) + ((e + f) + (g + h)));
    }
}
