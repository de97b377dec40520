//! Products with packed weights.

#![allow(clippy::unwrap_used, reason = "a test may panic and say why")]

mod common;

use common::*;
use proptest::prelude::*;
use tessera_device::cpu::CpuDevice;
use tessera_device::{Device, DeviceError, Dtype, MatrixSource, Origin, SourceDtype};

fn multiply(device: &mut CpuDevice, x: &[f32], w: &[f32], inner: usize, segments: &[usize]) -> Vec<f32> {
    let matrix = weight(device, w, inner, segments);
    let x = tensor(device, x, inner);
    let mut out = device.tensor(device.shape(&x).0, w.len() / inner).unwrap();
    device.matmul(&x, &matrix, &mut out).unwrap();
    device.read(&out).unwrap()
}

/// The same product in f64.
fn exact(x: &[f32], w: &[f32], inner: usize, dtype: Dtype) -> Vec<f64> {
    let dot = |x: &[f32], w: &[f32]| x.iter().zip(w).map(|(x, w)| f64::from(*x) * f64::from(kept(*w, dtype))).sum();
    x.chunks(inner).flat_map(|x| w.chunks(inner).map(move |w| dot(x, w))).collect()
}

/// The sum as it is promised: a chain of fused multiply-adds a segment, joined as a binary tree.
fn promised(x: &[f32], w: &[f32], segments: &[usize], dtype: Dtype) -> f32 {
    let chain = |a: usize, b: usize| (a..b).fold(0.0_f32, |sum, k| x[k].mul_add(kept(w[k], dtype), sum));
    let mut sums: Vec<f32> = segments.windows(2).map(|s| chain(s[0], s[1])).collect();
    while sums.len() > 1 {
        sums = sums.chunks(2).map(|pair| pair[0] + pair[1]).collect();
    }
    sums[0]
}

fn even_segments(inner: usize, count: usize) -> Vec<usize> {
    (0..=count).map(|i| i * inner / count).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn every_instruction_set_thread_count_and_dtype_gives_the_promised_bits(
        seed: u64, rows in 1..60_usize, inner in 1..300_usize, out in 1..140_usize, log_segments in 0..4_u32, bf16: bool,
    ) {
        let mut random = Random(seed);
        let dtype = if bf16 { Dtype::Bf16 } else { Dtype::F32 };
        let (x, w) = (random.numbers(rows * inner), random.numbers(out * inner));
        let segments = even_segments(inner, 1 << log_segments);
        let wanted: Vec<f32> = x
            .chunks(inner)
            .flat_map(|x| w.chunks(inner).map(|w| promised(x, w, &segments, dtype)).collect::<Vec<_>>())
            .collect();
        for mut device in devices(dtype) {
            let got = multiply(&mut device, &x, &w, inner, &segments);
            assert_same(&got, &wanted, &name(&device));
        }
        assert_close(&wanted, &exact(&x, &w, inner, dtype), 1e-5, "the promise itself");
    }
}

#[test]
fn a_row_is_the_same_alone_and_in_any_batch() {
    let mut random = Random(7);
    let (inner, out) = (777, 321);
    let (x, w) = (random.numbers(900 * inner), random.numbers(out * inner));
    for dtype in [Dtype::F32, Dtype::Bf16] {
        let mut device = device(2, dtype);
        let all = multiply(&mut device, &x, &w, inner, &even_segments(inner, 8));
        for rows in [1, 2, 3, 5, 7, 9, 13, 31, 47, 385, 400] {
            let first = random.below(900 - rows);
            let some = multiply(&mut device, &x[first * inner..(first + rows) * inner], &w, inner, &even_segments(inner, 8));
            assert_same(&some, &all[first * out..(first + rows) * out], &format!("{rows} rows from {first}"));
        }
    }
}

#[test]
fn parts_of_two_and_four_ranks_join_to_the_whole() {
    let mut random = Random(8);
    let (inner, out, rows) = (8 * 24, 50, 6);
    let (x, w) = (random.numbers(rows * inner), random.numbers(out * inner));
    let whole = multiply(&mut device(1, Dtype::Bf16), &x, &w, inner, &even_segments(inner, 8));
    for tp in [2, 4, 8] {
        let width = inner / tp;
        let part = |values: &[f32], rank: usize| -> Vec<f32> {
            values.chunks(inner).flat_map(|row| row[rank * width..(rank + 1) * width].to_vec()).collect()
        };
        let mut parts: Vec<Vec<f32>> = (0..tp)
            .map(|rank| {
                let segments = even_segments(width, 8 / tp);
                multiply(&mut device(1, Dtype::Bf16), &part(&x, rank), &part(&w, rank), width, &segments)
            })
            .collect();
        while parts.len() > 1 {
            parts = parts.chunks(2).map(|pair| pair[0].iter().zip(&pair[1]).map(|(a, b)| a + b).collect()).collect();
        }
        assert_same(&parts[0], &whole, &format!("{tp} ranks"));
    }
}

#[test]
fn nan_and_infinity_stay_in_their_row() {
    let mut random = Random(9);
    let (inner, out) = (64, 40);
    let (mut x, w) = (random.numbers(5 * inner), random.numbers(out * inner));
    let clean = multiply(&mut device(1, Dtype::F32), &x, &w, inner, &[0, inner]);
    x[2 * inner + 3] = f32::NAN;
    for mut device in devices(Dtype::F32) {
        let got = multiply(&mut device, &x, &w, inner, &[0, inner]);
        assert!(got[2 * out..3 * out].iter().all(|x| x.is_nan()));
        assert_same(&got[..2 * out], &clean[..2 * out], "rows before");
        assert_same(&got[3 * out..], &clean[3 * out..], "rows after");
    }
}

#[test]
fn sources_are_stacked_sliced_and_reordered() {
    let mut random = Random(10);
    let values = random.numbers(20 * 30);
    for dtype in [SourceDtype::F32, SourceDtype::Bf16, SourceDtype::F16] {
        let bytes = bytes(&values, dtype);
        let source =
            |rows: Vec<u32>| MatrixSource { origin: Origin::Stored { bytes: &bytes, dtype }, stride: 30, rows, columns: 7..19 };
        let (first, second) = (source(vec![3, 1, 19]), source((0..20).rev().collect()));
        let mut device = device(2, Dtype::F32);
        let matrix = device.load_matrix(&[first, second], &[0, 12]).unwrap();
        let identity: Vec<f32> = (0..144).map(|i| f32::from(i % 13 == 0)).collect();
        let x = tensor(&device, &identity, 12);
        let mut out = device.tensor(12, 23).unwrap();
        device.matmul(&x, &matrix, &mut out).unwrap();
        let got = device.read(&out).unwrap();
        for (i, row) in [3, 1, 19].into_iter().chain((0..20).rev()).enumerate() {
            for column in 0..12 {
                let value = values[row * 30 + 7 + column];
                let wanted = match dtype {
                    SourceDtype::F32 => value,
                    SourceDtype::Bf16 => half::bf16::from_f32(value).to_f32(),
                    SourceDtype::F16 => half::f16::from_f32(value).to_f32(),
                };
                assert_eq!(got[column * 23 + i], wanted);
            }
        }
    }
}

#[test]
fn only_the_bytes_of_the_slice_are_needed() {
    // Rows 2 and 3 of a tensor whose bytes end with the slice: reading beyond would fail.
    let values: Vec<f32> = (0..14).map(|x| x as f32).collect();
    let bytes = bytes(&values, SourceDtype::F32);
    let source = MatrixSource {
        origin: Origin::Stored { bytes: &bytes, dtype: SourceDtype::F32 },
        stride: 4,
        rows: vec![2, 3],
        columns: 0..2,
    };
    let mut device = device(1, Dtype::F32);
    let matrix = device.load_matrix(&[source], &[0, 2]).unwrap();
    let x = tensor(&device, &[1.0, 0.0, 0.0, 1.0], 2);
    let mut out = device.tensor(2, 2).unwrap();
    device.matmul(&x, &matrix, &mut out).unwrap();
    assert_eq!(device.read(&out).unwrap(), [8.0, 12.0, 9.0, 13.0]);
}

#[test]
fn empty_products_are_empty() {
    let mut device = device(2, Dtype::Bf16);
    let matrix = weight(&mut device, &[], 5, &[0, 5]);
    let x = tensor(&device, &[1.0; 10], 5);
    let mut out = device.tensor(2, 0).unwrap();
    device.matmul(&x, &matrix, &mut out).unwrap();

    let matrix = weight(&mut device, &[1.0; 10], 5, &[0, 5]);
    let mut out = device.tensor(0, 2).unwrap();
    device.matmul(&device.tensor(0, 5).unwrap(), &matrix, &mut out).unwrap();
    assert!(device.read(&out).unwrap().is_empty());
}

#[test]
fn shapes_that_do_not_fit_are_refused() {
    let mut device = device(1, Dtype::F32);
    let matrix = weight(&mut device, &[1.0; 6], 3, &[0, 3]);
    let x = tensor(&device, &[1.0; 4], 4);
    let mut out = device.tensor(1, 2).unwrap();
    let error = device.matmul(&x, &matrix, &mut out).unwrap_err();
    assert_eq!(error.to_string(), "matmul: inner dimension: 4 where 3 is wanted");

    let bytes = bytes(&[1.0; 6], SourceDtype::F32);
    let refused = |source: MatrixSource<'_>, segments: &[usize]| {
        let error = common::device(1, Dtype::F32).load_matrix(&[source], segments).err();
        assert!(matches!(error, Some(DeviceError::Shape { operation: "load_matrix", .. })), "{error:?}");
    };
    refused(whole(&bytes, 3), &[0, 2]);
    refused(whole(&bytes, 3), &[0, 1, 2, 3]);
    refused(whole(&bytes, 3), &[0, 2, 1, 2, 3]);
    refused(whole(&bytes, 3), &[]);
    refused(MatrixSource { rows: vec![2], ..whole(&bytes, 3) }, &[0, 3]);
    refused(MatrixSource { columns: 2..4, ..whole(&bytes, 3) }, &[0, 2]);
}
