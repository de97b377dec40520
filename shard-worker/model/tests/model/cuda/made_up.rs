//! Made-up weights, which a GPU makes by itself.

use tessera_device::{Device, Rows, Spans};
use tessera_model::checkpoint::{Loadable, SliceBytes, TensorSlice};
use tessera_model::{ModelError, WeightSource};
use tessera_types::{ModelSpec, TokenId};

use super::{BF16, WORKSPACE, device};

/// Numbers of slices as the host makes them, the last row of each repeated until there are `rows`.
fn by_host(source: &WeightSource, slice: &TensorSlice, rows: usize) -> Vec<f32> {
    let SliceBytes { bytes, columns, order, .. } = source.read(slice).unwrap();
    let number = |bytes: &[u8]| f32::from_bits(u32::from(u16::from_le_bytes([bytes[0], bytes[1]])) << 16);
    let mut numbers: Vec<f32> = bytes.chunks_exact(2).map(number).collect();
    let last = numbers[(order.len() - 1) * columns..].to_vec();
    (order.len()..rows).for_each(|_| numbers.extend(&last));
    numbers
}

fn by_device(source: &WeightSource, slice: &TensorSlice, rows: usize) -> Loadable {
    source.load::<ModelError>(slice, &mut |_| Ok(())).unwrap().padded(rows)
}

#[track_caller]
fn same_bits(got: &[f32], wanted: &[f32]) {
    assert_eq!(got.len(), wanted.len());
    let differs = got.iter().zip(wanted).position(|(got, wanted)| got.to_bits() != wanted.to_bits());
    assert_eq!(differs, None, "the first number that differs");
}

#[test]
fn made_up_matrices_have_the_bits_that_the_host_would_make() {
    let (mut device, source) = (device(0, BF16, false, WORKSPACE), WeightSource::dummy(ModelSpec::bench_1b(), 11));
    let slice = |name: &str| TensorSlice::matrix(name, &[300, 96]);
    // Whole rows, a slice from a column that begins a hash and from one that does not; stacked; padded; a single row.
    for (slices, rows) in [
        (vec![slice("layers.0.attention.wq.weight"), slice("layers.0.attention.wk.weight").rows(40..57)], 0),
        (vec![slice("layers.1.feed_forward.w2.weight").columns(32..72)], 0),
        (vec![slice("layers.1.feed_forward.w2.weight").rows(100..164).columns(5..29)], 0),
        (vec![slice("output.weight").rows(290..300)], 13),
        (vec![slice("output.weight").rows(299..300)], 2),
    ] {
        let inner = slices[0].columns.len();
        let wanted: Vec<f32> = slices.iter().flat_map(|slice| by_host(&source, slice, rows)).collect();
        let loadables: Vec<_> = slices.iter().map(|slice| by_device(&source, slice, rows)).collect();
        let sources: Vec<_> = loadables.iter().map(Loadable::source).collect();
        let matrix = device.load_matrix(&sources, &[0, inner]).unwrap();
        // Rows of ones in one place each pick out the weight's columns exactly.
        let mut x = device.working(inner, inner).unwrap();
        let identity: Vec<f32> = (0..inner * inner).map(|i| f32::from(i % (inner + 1) == 0)).collect();
        device.write(&mut x, &identity).unwrap();
        let features = wanted.len() / inner;
        let mut out = device.tensor(inner, features).unwrap();
        device.matmul(&x, &matrix, &mut out).unwrap();
        let columns = device.read(&out).unwrap();
        let got: Vec<f32> = (0..features * inner).map(|i| columns[i % inner * features + i / inner]).collect();
        same_bits(&got, &wanted);
    }
}

#[test]
fn made_up_rows_to_look_up_have_the_bits_that_the_host_would_make() {
    let (mut device, source) = (device(0, BF16, false, WORKSPACE), WeightSource::dummy(ModelSpec::bench_1b(), 11));
    let slice = TensorSlice::matrix("tok_embeddings.weight", &[1000, 104]).rows(500..571);
    let table = device.load_table(&by_device(&source, &slice, 0).source()).unwrap();
    let tokens: Vec<_> = (500..571).map(|token| Some(TokenId(token))).collect();
    let (positions, image) = (vec![0; tokens.len()], 0..tokens.len());
    let spans = Spans::Images(std::slice::from_ref(&image));
    let rows = device.place(Rows { tokens: &tokens, positions: &positions, spans }).unwrap();
    let mut out = device.tensor(tokens.len(), 104).unwrap();
    device.embed(&table, 500, &rows, &mut out).unwrap();
    same_bits(&device.read(&out).unwrap(), &by_host(&source, &slice, 0));
}
