//! Attention inside images.

use tessera_device::{Device, Heads, Rows, Spans};

use crate::common::assert_same;
use crate::sequences::exact;
use crate::{assert_near, device, numbers, turn, workspace};

#[test]
fn an_image_attends_alike_alone_and_among_others_and_near_the_exact_result() {
    let _turn = turn();
    let device = device(workspace(), false);
    let (count, sizes): (usize, &[usize]) =
        if tessera_test_gpu::is_real() { (16, &[4096, 1, 1000, 64, 65, 2304]) } else { (2, &[200, 1, 64, 65]) };
    let heads = Heads { heads: count, kv_heads: count, head_dim: 64 };
    let (rows, columns) = (sizes.iter().sum::<usize>(), count * 64);
    let mut first = 0;
    let spans: Vec<_> = sizes
        .iter()
        .map(|size| {
            first += size;
            first - size..first
        })
        .collect();
    let attend = |spans: &[std::ops::Range<usize>], range: std::ops::Range<usize>| {
        let positions = vec![0; range.len()];
        let placed = device.place(Rows { tokens: &[], positions: &positions, spans: Spans::Images(spans) }).unwrap();
        let mut qkv = device.working(range.len(), heads.fused()).unwrap();
        device.write(&mut qkv, &numbers(3, range.start * heads.fused()..range.end * heads.fused())).unwrap();
        let mut out = device.working(range.len(), columns).unwrap();
        device.attend_images(&qkv, heads, &placed, &mut out).unwrap();
        device.read(&out).unwrap()
    };
    let all = attend(&spans, 0..rows);
    for span in &spans {
        let what = format!("an image of {} rows", span.len());
        assert_same(
            &attend(std::slice::from_ref(&(0..span.len())), span.clone()),
            &all[span.start * columns..span.end * columns],
            &what,
        );
        let qkv = numbers(3, span.start * heads.fused()..span.end * heads.fused());
        for (row, head) in [(0, 0), (span.len() - 1, count - 1)] {
            let got = &all[(span.start + row) * columns + head * 64..][..64];
            for (got, wanted) in got.iter().zip(exact(&qkv, heads, head, row, 0..span.len())) {
                assert_near(*got, wanted, 300.0, &what);
            }
        }
    }
}
