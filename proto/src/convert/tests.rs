use bytes::Bytes;
use proptest::prelude::*;
use prost::Message;

use super::*;

fn plan() -> impl Strategy<Value = domain::StepPlan> {
    let grid = (1u32..64, 1u32..64).prop_map(|(rows, cols)| domain::Grid { rows, cols });
    let key = any::<[u8; 32]>().prop_map(ImageKey);
    let placed = (key.clone(), any::<u32>(), grid.clone()).prop_map(|(key, at, grid)| domain::PlacedImage { key, at, grid });
    let start = (any::<u64>(), prop::collection::vec(any::<u32>(), 0..9), prop::collection::vec(placed, 0..3), any::<u64>())
        .prop_map(|(sequence, ids, images, seed)| domain::SequenceStart {
            sequence: SequenceId(sequence),
            prompt_len: ids.len() as u32,
            tokens: tokens(ids),
            images,
            sampling: domain::SamplingParams {
                seed,
                logit_bias: vec![(TokenId(7), -1.5)],
                logprobs: domain::Logprobs { generated: Some(0), prompt: None },
                ..Default::default()
            },
        });
    let encode = (key.clone(), grid, prop::collection::vec(any::<u8>(), 0..99))
        .prop_map(|(key, grid, pixels)| domain::ImageEncode { key, grid, pixels: Bytes::from(pixels) });
    let chunk = (any::<u64>(), any::<u32>(), any::<u32>(), prop::collection::vec(any::<u32>(), 0..5), any::<bool>()).prop_map(
        |(sequence, start, len, blocks, sample)| domain::Chunk {
            sequence: SequenceId(sequence),
            start,
            len,
            new_blocks: blocks.into_iter().map(BlockId).collect(),
            sample,
        },
    );
    (
        any::<(u64, u64)>(),
        prop::collection::vec(any::<u64>().prop_map(SequenceId), 0..4),
        prop::collection::vec(key, 0..4),
        prop::collection::vec(start, 0..3),
        prop::collection::vec(encode, 0..3),
        prop::collection::vec(chunk, 0..5),
    )
        .prop_map(|((epoch, step), end, forget_images, start, encode, chunks)| domain::StepPlan {
            epoch: Epoch(epoch),
            step: StepId(step),
            end,
            forget_images,
            start,
            encode,
            chunks,
        })
}

proptest! {
    #[test]
    fn a_plan_survives_the_wire(plan in plan()) {
        let bytes = wire::StepPlan::from(plan.clone()).encode_to_vec();
        let back = domain::StepPlan::try_from(wire::StepPlan::decode(bytes.as_slice()).unwrap()).unwrap();
        prop_assert_eq!(back, plan);
    }

    #[test]
    fn random_bytes_are_refused_or_mean_a_plan(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        if let Ok(message) = wire::StepPlan::decode(bytes.as_slice()) {
            let _ = domain::StepPlan::try_from(message);
        }
    }
}

#[test]
fn a_bad_value_is_named_by_its_path() {
    let key = Bytes::from_static(&[7; 32]);
    let grid = |rows, cols| Some(wire::Grid { rows, cols });
    let placed = |key: &Bytes, grid| wire::PlacedImage { key: key.clone(), at: 0, grid };
    let start = |images| wire::SequenceStart { images, sampling: Some(wire::SamplingParams::default()), ..Default::default() };
    let encode = |grid| wire::ImagePixels { key: key.clone(), grid, pixels: Bytes::new() };
    let short = Bytes::from_static(b"short");
    let cases = [
        (wire::StepPlan { forget_images: vec![key.clone(), short.clone()], ..Default::default() }, "forget_images[1]"),
        (
            wire::StepPlan { start: vec![start(vec![]), start(vec![placed(&short, grid(1, 1))])], ..Default::default() },
            "start[1].images[0].key",
        ),
        (wire::StepPlan { start: vec![start(vec![placed(&key, None)])], ..Default::default() }, "start[0].images[0].grid"),
        (wire::StepPlan { start: vec![wire::SequenceStart::default()], ..Default::default() }, "start[0].sampling"),
        (wire::StepPlan { encode: vec![encode(grid(4, 4)), encode(grid(4, 0))], ..Default::default() }, "encode[1].grid.cols"),
        (wire::StepPlan { encode: vec![encode(grid(1 << 16, 1))], ..Default::default() }, "encode[0].grid.rows"),
    ];
    for (message, field) in cases {
        let error = domain::StepPlan::try_from(message).unwrap_err();
        assert_eq!(error.field, field);
        assert_eq!(crate::violations(&error.clone().into()), [(error.field, error.problem)]);
    }
}

#[test]
fn what_is_wrong_with_a_value_is_told() {
    let message = wire::StepPlan { forget_images: vec![Bytes::from_static(b"short")], ..Default::default() };
    let error = domain::StepPlan::try_from(message).unwrap_err();
    assert_eq!(error.to_string(), "forget_images[0]: must have 32 bytes, has 5");
}
