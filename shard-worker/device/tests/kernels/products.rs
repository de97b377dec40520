//! Products of every number of rows go through one kernel or another.

use half::bf16;
use tessera_device::cuda::{CudaDevice, CudaMatrix, CudaTensor};
use tessera_device::{Device, MatrixSource, Origin, SourceDtype, WeightFormat};

use crate::common::assert_same;
use crate::{BF16, FP8, assert_near, device_of, number, numbers, turn, workspace};

/// Weights `[n, k]`: at real sizes the decoder's, the vision encoder's and the adapter's.
fn shapes() -> Vec<(usize, usize)> {
    if tessera_test_gpu::is_real() {
        let decoder = [(6144, 5120), (5120, 4096), (28_672, 5120), (5120, 14_336), (131_072, 5120)];
        let vision = [(3072, 1024), (1024, 1024), (8192, 1024), (1024, 4096), (5120, 1024), (5120, 5120)];
        return decoder.into_iter().chain(vision).collect();
    }
    // Less than a tile, and more; more tiles than processors; the inner dimensions of the decoder.
    vec![(200, 264), (4352, 8), (24, 4096), (8, 14_336), (40, 5120)]
}

/// The same of those that may be quantised: the decoder's but for its output matrix.
fn quantisable_shapes() -> Vec<(usize, usize)> {
    if tessera_test_gpu::is_real() { shapes()[..4].to_vec() } else { vec![(200, 272), (4352, 16), (24, 4096), (8, 14_336)] }
}

/// Rows, the most first: on both sides of where another kernel takes over.
fn row_counts(n: usize) -> Vec<usize> {
    let all = [8192, 512, 511, 128, 65, 64, 33, 17, 16, 9, 8, 1];
    let most = match (tessera_test_gpu::is_real(), n) {
        // Logits are computed for the rows that are sampled from.
        (true, 100_000..) => 128,
        (true, _) => 8192,
        (false, 200..) => 512,
        (false, _) => 128,
    };
    all.into_iter().filter(|rows| *rows <= most).collect()
}

/// Number `i` of a weight with rows of `k`: for weights in e4m3 one that quantising leaves as it is,
/// the largest of a row being 448 / 256.
fn of_weight(format: WeightFormat, k: usize, i: usize) -> f32 {
    const CODES: [f32; 8] = [0.0, 0.125, 0.25, 0.3125, 0.375, 0.4375, 0.5, 1.0];
    let number = number(1, i);
    match format.quantization {
        None => number,
        Some(_) if i.is_multiple_of(k) => 1.75,
        Some(_) => CODES[(number.abs() * 128.0) as usize % CODES.len()].copysign(number),
    }
}

fn weight(device: &mut CudaDevice, format: WeightFormat, (n, k): (usize, usize)) -> CudaMatrix {
    let bytes: Vec<u8> = (0..n * k).flat_map(|i| bf16::from_f32(of_weight(format, k, i)).to_le_bytes()).collect();
    let origin = Origin::Stored { bytes: &bytes, dtype: SourceDtype::Bf16 };
    let source = MatrixSource { origin, stride: k, rows: (0..n as u32).collect(), columns: 0..k };
    device.load_quantisable(&[source], &[0, k]).unwrap()
}

/// Some rows of a matrix.
fn some(device: &CudaDevice, from: &CudaTensor, rows: &[usize], n: usize) -> Vec<f32> {
    let mut out = device.tensor(rows.len(), n).unwrap();
    device.copy_rows(from, rows, &mut out, &(0..rows.len()).collect::<Vec<_>>()).unwrap();
    device.read(&out).unwrap()
}

/// Fails unless some numbers of the first row and the last are near the exact ones.
fn check(got: &[f32], format: WeightFormat, (m, n, k): (usize, usize, usize)) {
    for (row, got) in [0, m - 1].into_iter().zip(got.chunks(n)) {
        for feature in (0..n).step_by(n.div_ceil(40)).chain([n - 1]) {
            let terms = (0..k).map(|i| f64::from(number(2, row * k + i)) * f64::from(of_weight(format, k, feature * k + i)));
            let (exact, size) = terms.fold((0.0, 0.0), |(sum, size), term| (sum + term, size + term.abs()));
            assert_near(got[feature], exact, size, &format!("{m} rows of {n} x {k}: row {row}, feature {feature}"));
        }
    }
}

#[test]
fn a_row_has_the_same_bits_in_products_of_any_size_and_they_are_near_the_exact_ones() {
    check_products(BF16, shapes());
}

#[test]
fn a_row_has_the_same_bits_in_products_of_any_size_by_fp8_weights_and_they_are_near_the_exact_ones() {
    check_products(FP8, quantisable_shapes());
}

fn check_products(format: WeightFormat, shapes: Vec<(usize, usize)>) {
    let _turn = turn();
    let mut device = device_of(format, workspace(), false);
    for (n, k) in shapes {
        let weight = weight(&mut device, format, (n, k));
        let mut first: Option<Vec<f32>> = None;
        for m in row_counts(n) {
            let what = format!("{m} rows of {n} x {k}");
            let mut x = device.working(m, k).unwrap();
            device.write(&mut x, &numbers(2, 0..m * k)).unwrap();
            let mut rounded = device.working(m, n).unwrap();
            device.matmul(&x, &weight, &mut rounded).unwrap();
            let rounded = some(&device, &rounded, &[0, m - 1], n);
            check(&rounded, format, (m, n, k));
            // All of f32 is a third of the memory more than the largest passes have.
            if m <= 512 {
                let mut full = device.tensor(m, n).unwrap();
                device.matmul(&x, &weight, &mut full).unwrap();
                let full = some(&device, &full, &[0, m - 1], n);
                let first = first.get_or_insert_with(|| full[..n].to_vec());
                assert_same(&full[..n], first, &what);
                let wanted: Vec<f32> = full.iter().map(|x| bf16::from_f32(*x).to_f32()).collect();
                assert_same(&rounded, &wanted, &format!("{what}, rounded"));
            }
        }
    }
}
