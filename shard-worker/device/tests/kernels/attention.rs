//! Attention over the cache: by splits for single rows, by tiles for chunks.

use tessera_device::cuda::CudaDevice;
use tessera_device::{CacheDtype, Device, Dtype, Heads};

use crate::common::assert_same;
use crate::sequences::{Sequences, exact, kept_in_fp8};
use crate::{assert_near, device, turn, workspace};

/// Fails unless the heads of a row are near the exact ones. Weights are rounded to bf16 before values of up to 1 are summed.
fn check(got: &[f32], turned: &[f32], heads: Heads, row: usize, what: &str) {
    for head in [0, heads.heads - 1] {
        let wanted = exact(turned, heads, head, row, 0..row + 1);
        for (got, wanted) in got[head * heads.head_dim..].iter().zip(wanted) {
            assert_near(*got, wanted, 300.0, &format!("{what}, row {row}, head {head}"));
        }
    }
}

const BF16: CacheDtype = CacheDtype::Plain(Dtype::Bf16);

/// The last rows of a sequence as a chunk, as several, and one by one.
fn same_in_any_chunk(device: &mut CudaDevice, heads: Heads, dtype: CacheDtype, length: usize) {
    let what = format!("{length} keys of {heads:?} in {dtype:?}");
    let sequences = Sequences::new(device, heads, dtype, &[length]);
    let first = length.saturating_sub(70);
    let one_by_one: Vec<_> = (first..length).map(|row| (0, row..row + 1)).collect();
    let wanted = sequences.attend(device, &one_by_one);
    let split = first + (length - first) / 3;
    for chunks in [vec![(0, first..length)], vec![(0, first..split), (0, split..length)]] {
        let chunks: Vec<_> = chunks.into_iter().filter(|(_, rows)| !rows.is_empty()).collect();
        assert_same(&sequences.attend(device, &chunks), &wanted, &what);
    }
    let mut turned = sequences.turned(device, 0);
    if dtype == CacheDtype::Fp8 {
        kept_in_fp8(&mut turned, heads);
    }
    let columns = heads.heads * heads.head_dim;
    for row in [first, length - 1] {
        check(&wanted[(row - first) * columns..], &turned, heads, row, &what);
    }
}

#[test]
fn a_row_attends_alike_alone_and_in_any_chunk_and_near_the_exact_result() {
    let _turn = turn();
    let mut device = device(workspace(), false);
    let (lengths, widths): (&[usize], &[usize]) = if tessera_test_gpu::is_real() {
        (&[1, 17, 127, 128, 129, 1000, 4096, 4097, 32_768], &[128, 64])
    } else {
        (&[1, 17, 128, 129, 300], &[128, 64])
    };
    for (length, head_dim) in lengths.iter().flat_map(|length| widths.iter().map(move |width| (*length, *width))) {
        for dtype in [BF16, CacheDtype::Fp8] {
            same_in_any_chunk(&mut device, Heads { heads: 8, kv_heads: 2, head_dim }, dtype, length);
        }
    }
}

/// Partial results are kept for a row's own splits: were there room for as many in every row as the longest has, they would take
/// more than 4 MiB.
#[test]
fn one_long_row_among_many_short_ones_fits_a_small_workspace() {
    let _turn = turn();
    let (heads, longest) = (Heads { heads: 4, kv_heads: 2, head_dim: 128 }, 4096);
    let lengths: Vec<usize> = [longest].into_iter().chain((1..64).map(|i| i % 40 + 1)).collect();
    let last_rows: Vec<_> = lengths.iter().enumerate().map(|(id, length)| (id, length - 1..*length)).collect();
    let columns = heads.heads * heads.head_dim;
    // The sequences are stored with room to spare, and attended to with 4 MiB.
    let mut wanted = Vec::new();
    let mut stored = device(workspace(), false);
    let sequences = Sequences::new(&mut stored, heads, BF16, &lengths);
    for row in &last_rows {
        wanted.extend(sequences.attend(&stored, std::slice::from_ref(row)));
    }
    assert_same(&sequences.attend(&stored, &last_rows), &wanted, "64 rows at once");
    let turned = sequences.turned(&stored, 0);
    check(&wanted[..columns], &turned, heads, longest - 1, "the long row");
    let small = device(4 << 20, false);
    assert_same(&sequences.attend(&small, &last_rows), &wanted, "64 rows at once in a small workspace");
}

/// Passes with as many rows share a recording where their splits, 9 to 16 here, have one next power of two.
#[test]
fn a_recorded_pass_serves_other_lengths_and_other_splits() {
    let _turn = turn();
    let mut device = device(workspace(), true);
    let passes = [[700, 200, 100], [1400, 300, 129], [1, 700, 300], [1500, 1, 1]];
    let passes = passes.map(|lengths| lengths.into_iter().enumerate().map(|(id, length)| (id, length - 1..length)).collect());
    for dtype in [BF16, CacheDtype::Fp8] {
        let heads = Heads { heads: 4, kv_heads: 2, head_dim: 64 };
        let sequences = Sequences::new(&mut device, heads, dtype, &[1500, 700, 300]);
        let replayed = sequences.replayed(&device, 3, &passes);
        for (got, chunks) in replayed.iter().zip(&passes) {
            let alone = |chunk| sequences.attend(&device, std::slice::from_ref(chunk));
            let alone: Vec<f32> = chunks.iter().flat_map(alone).collect();
            assert_same(got, &alone, &format!("{chunks:?} in {dtype:?}"));
        }
    }
}

#[test]
fn what_a_workspace_is_too_small_for_is_refused() {
    let _turn = turn();
    let small = device(1 << 20, false);
    assert!(small.tensor(1024, 1024).is_err());
}
