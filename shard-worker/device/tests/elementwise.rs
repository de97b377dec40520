//! Operations on rows and numbers.

#![allow(clippy::unwrap_used, reason = "a test may panic and say why")]

mod common;

use common::*;
use proptest::prelude::*;
use tessera_device::cpu::CpuDevice;
use tessera_device::{Device, Dtype, Heads, SourceDtype};
use tessera_types::TokenId;

/// Runs an operation on every device, checks that all give the same bits, and gives them.
fn on_all(operation: impl Fn(&mut CpuDevice) -> Vec<f32>) -> Vec<f32> {
    let mut first: Option<Vec<f32>> = None;
    for mut device in devices(Dtype::F32) {
        let got = operation(&mut device);
        assert_same(&got, first.get_or_insert_with(|| got.clone()), &name(&device));
    }
    first.unwrap()
}

/// erf by its series, in f64.
fn erf(x: f64) -> f64 {
    if x.abs() > 6.0 {
        return x.signum();
    }
    let (mut term, mut sum) = (x, x);
    for n in 1..200 {
        term *= 2.0 * x * x / f64::from(2 * n + 1);
        sum += term;
    }
    std::f64::consts::FRAC_2_SQRT_PI * (-x * x).exp() * sum
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]

    #[test]
    fn rms_norm_is_right_and_the_same_everywhere(seed: u64, rows in 1..9_usize, cols in 1..400_usize) {
        let mut random = Random(seed);
        let (x, scale) = (random.numbers(rows * cols), random.numbers(cols));
        let got = on_all(|device| {
            let (x, scale) = (tensor(device, &x, cols), vector(device, &scale));
            let mut out = device.tensor(rows, cols).unwrap();
            device.rms_norm(&x, &scale, 1e-5, &mut out).unwrap();
            device.read(&out).unwrap()
        });
        let wanted: Vec<f64> = x
            .chunks(cols)
            .flat_map(|x| {
                let mean = x.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>() / cols as f64;
                x.iter().zip(&scale).map(move |(x, scale)| f64::from(*x) / (mean + 1e-5).sqrt() * f64::from(*scale))
            })
            .collect();
        assert_close(&got, &wanted, 1e-6, "rms_norm");
    }

    #[test]
    fn swiglu_is_right_and_the_same_everywhere(seed: u64, rows in 1..5_usize, cols in 1..300_usize, scale in 0.1..60_f32) {
        let mut random = Random(seed);
        let x: Vec<f32> = random.numbers(rows * 2 * cols).iter().map(|x| x * scale).collect();
        let got = on_all(|device| {
            let mut out = device.tensor(rows, cols).unwrap();
            device.swiglu(&tensor(device, &x, 2 * cols), &mut out).unwrap();
            device.read(&out).unwrap()
        });
        let silu = |x: f64| x / (1.0 + (-x).exp());
        let wanted: Vec<f64> = x
            .chunks(2 * cols)
            .flat_map(|row| (0..cols).map(move |i| silu(f64::from(row[i])) * f64::from(row[cols + i])))
            .collect();
        assert_close(&got, &wanted, 3e-7, "swiglu");
    }

    #[test]
    fn gelu_is_the_exact_one_and_the_same_everywhere(seed: u64, rows in 1..5_usize, cols in 1..300_usize, scale in 0.1..8_f32) {
        let mut random = Random(seed);
        let x: Vec<f32> = random.numbers(rows * cols).iter().map(|x| x * scale).collect();
        let bias = random.numbers(cols);
        let got = on_all(|device| {
            let (mut x, bias) = (tensor(device, &x, cols), vector(device, &bias));
            device.gelu_bias(&mut x, Some(&bias)).unwrap();
            device.read(&x).unwrap()
        });
        for (i, (got, x)) in got.iter().zip(&x).enumerate() {
            let x = f64::from(*x + bias[i % cols]);
            let wanted = 0.5 * x * (1.0 + erf(x / std::f64::consts::SQRT_2));
            assert!((f64::from(*got) - wanted).abs() <= 1e-6 * (1.0 + x.abs()), "gelu({x}) = {got}, not {wanted}");
        }
    }

    #[test]
    fn sums_are_exact(seed: u64, rows in 0..5_usize, cols in 1..80_usize) {
        let mut random = Random(seed);
        let (x, y, bias) = (random.numbers(rows * cols), random.numbers(rows * cols), random.numbers(cols));
        let got = on_all(|device| {
            let (mut x, y, bias) = (tensor(device, &x, cols), tensor(device, &y, cols), vector(device, &bias));
            device.add(&mut x, &y).unwrap();
            device.add_bias(&mut x, &bias).unwrap();
            device.read(&x).unwrap()
        });
        let wanted: Vec<f32> = (0..rows * cols).map(|i| x[i] + y[i] + bias[i % cols]).collect();
        assert_same(&got, &wanted, "sums");
    }
}

#[test]
fn nan_stays_nan_and_in_its_place() {
    let mut x = vec![0.5; 40];
    x[17] = f32::NAN;
    let gelu = on_all(|device| {
        let mut x = tensor(device, &x, 20);
        device.gelu_bias(&mut x, None).unwrap();
        device.read(&x).unwrap()
    });
    let swiglu = on_all(|device| {
        let mut out = device.tensor(1, 20).unwrap();
        device.swiglu(&tensor(device, &x, 40), &mut out).unwrap();
        device.read(&out).unwrap()
    });
    for got in [gelu, swiglu] {
        let nans: Vec<_> = (0..got.len()).filter(|i| got[*i].is_nan()).collect();
        assert_eq!(nans, [17]);
    }
}

#[test]
fn rotation_turns_pairs_of_queries_and_keys_and_leaves_values() {
    let heads = Heads { heads: 4, kv_heads: 2, head_dim: 10 };
    let mut random = Random(5);
    let positions = [0, 1, 255, 256, 131_071, 77];
    let x = random.numbers(positions.len() * heads.fused());
    let got = on_all(|device| {
        let rotary = device.rotary(10, 1e9, 131_072).unwrap();
        let mut x = tensor(device, &x, heads.fused());
        device.rotate(&mut x, heads, &rotary, &positions).unwrap();
        device.read(&x).unwrap()
    });
    let mut wanted = Vec::new();
    for (row, position) in x.chunks(heads.fused()).zip(positions) {
        for pair in 0..heads.fused() / 2 {
            let angle = f64::from(position) * 1e9_f64.powf(-2.0 * (pair % 5) as f64 / 10.0);
            let angle = if pair < 30 { angle } else { 0.0 };
            let (a, b) = (f64::from(row[2 * pair]), f64::from(row[2 * pair + 1]));
            wanted.extend([a * angle.cos() - b * angle.sin(), a * angle.sin() + b * angle.cos()]);
        }
    }
    assert_close(&got, &wanted, 1e-6, "rotation");
}

#[test]
fn grid_rotation_turns_the_first_pairs_by_row_and_the_others_by_column() {
    let heads = Heads { heads: 1, kv_heads: 1, head_dim: 12 };
    let mut random = Random(6);
    let positions: Vec<u32> = (0..64).collect();
    let x = random.numbers(64 * heads.fused());
    let got = on_all(|device| {
        let rotary = device.rotary_2d(12, 1e4, 8).unwrap();
        let mut x = tensor(device, &x, heads.fused());
        device.rotate(&mut x, heads, &rotary, &positions).unwrap();
        device.read(&x).unwrap()
    });
    let mut wanted = Vec::new();
    for (row, position) in x.chunks(36).zip(positions) {
        let (r, c) = (position / 8, position % 8);
        let frequency = |i: usize| 1e4_f64.powf(-2.0 * i as f64 / 12.0);
        for pair in 0..18 {
            let angle = match pair % 6 {
                _ if pair >= 12 => 0.0,
                p @ 0..3 => f64::from(r) * frequency(2 * p),
                p => f64::from(c) * frequency(2 * (p - 3) + 1),
            };
            let (a, b) = (f64::from(row[2 * pair]), f64::from(row[2 * pair + 1]));
            wanted.extend([a * angle.cos() - b * angle.sin(), a * angle.sin() + b * angle.cos()]);
        }
    }
    assert_close(&got, &wanted, 1e-6, "grid rotation");
}

#[test]
fn a_position_without_angles_is_refused() {
    let heads = Heads { heads: 1, kv_heads: 1, head_dim: 4 };
    let mut device = device(1, Dtype::F32);
    let rotary = device.rotary(4, 1e4, 100).unwrap();
    let mut x = device.tensor(1, heads.fused()).unwrap();
    assert!(device.rotate(&mut x, heads, &rotary, &[100]).is_err());
    device.rotate(&mut x, heads, &rotary, &[99]).unwrap();
}

#[test]
fn a_table_gives_its_rows_zeros_beyond_and_leaves_what_is_not_asked() {
    let values: Vec<f32> = (0..30).map(|x| x as f32).collect();
    for dtype in [Dtype::F32, Dtype::Bf16] {
        let mut device = device(2, dtype);
        let table = device.load_table(&whole(&bytes(&values, SourceDtype::F32), 3)).unwrap();
        let mut out = tensor(&device, &[-1.0; 12], 3);
        let tokens = [Some(TokenId(102)), None, Some(TokenId(110)), Some(TokenId(99))];
        device.embed(&table, 100, &tokens, &mut out).unwrap();
        assert_eq!(device.read(&out).unwrap(), [6.0, 7.0, 8.0, -1.0, -1.0, -1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0]);
    }
}

#[test]
fn rows_are_copied_where_they_belong() {
    let device = device(1, Dtype::F32);
    let from = tensor(&device, &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0], 2);
    let mut out = device.tensor(4, 2).unwrap();
    device.copy_rows(&from, &[2, 0], &mut out, &[1, 3]).unwrap();
    assert_eq!(device.read(&out).unwrap(), [0.0, 0.0, 5.0, 6.0, 0.0, 0.0, 1.0, 2.0]);
    assert!(device.copy_rows(&from, &[3], &mut out, &[0]).is_err());
    assert!(device.copy_rows(&from, &[0], &mut out, &[4]).is_err());
}

#[test]
fn a_tensor_is_zeros_though_its_buffer_was_used_before() {
    let device = device(2, Dtype::F32);
    for cols in [3, 1000, 70_000] {
        drop(tensor(&device, &vec![7.0; 2 * cols], cols));
        let again = device.tensor(2, cols - 1).unwrap();
        assert!(device.read(&again).unwrap().iter().all(|x| *x == 0.0));
    }
}

#[test]
fn memory_that_is_not_there_is_an_error() {
    let error = device(1, Dtype::F32).tensor(1 << 30, 1 << 30).err().unwrap();
    assert!(matches!(error, tessera_device::DeviceError::OutOfMemory { .. }), "{error}");
}
