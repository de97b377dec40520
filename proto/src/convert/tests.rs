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
fn a_key_of_the_wrong_length_is_named() {
    let message = wire::StepPlan { forget_images: vec![Bytes::from_static(b"short")], ..Default::default() };
    let error = domain::StepPlan::try_from(message).unwrap_err();
    assert_eq!(error.to_string(), "image key: must have 32 bytes, has 5");
}
