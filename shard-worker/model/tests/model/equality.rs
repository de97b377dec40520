//! The same tokens and the same bits, whatever the batch, the chunks and the ranks.

use std::collections::HashMap;

use tessera_device::Dtype;
use tessera_device::cpu::CpuDevice;
use tessera_model::Model;
use tessera_types::{Sampled, SamplingParams, SequenceId};

use crate::cases::{self, Case};
use crate::driver::{Driver, group, start};

const TOKENS: usize = 6;

/// A small generator (SplitMix64), so that a failure can be run again.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let x = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((x ^ (x >> 31)) % limit as u64) as usize
    }
}

/// What a sequence came to: each token with its log-probabilities, and a hash of the bits of each row of logits.
#[derive(Clone, Debug, Default, PartialEq)]
struct Trace {
    sampled: Vec<Sampled>,
    logits: Vec<u64>,
}

type Traces = HashMap<SequenceId, Trace>;

/// Every case twice: greedy, and drawn with penalties.
fn requests(cases: &[Case]) -> Vec<(u64, &Case, SamplingParams)> {
    let drawn = |seed| SamplingParams {
        temperature: 0.9,
        top_p: 0.95,
        top_k: 200,
        repetition_penalty: 1.1,
        presence_penalty: 0.2,
        seed,
        ..SamplingParams::default()
    };
    let mut requests = Vec::new();
    for (i, case) in cases.iter().enumerate() {
        for (id, mut params) in [(2 * i as u64, crate::driver::greedy()), (2 * i as u64 + 1, drawn(i as u64))] {
            params.logprobs.generated = Some(5);
            requests.push((id, case, params));
        }
    }
    requests
}

fn hash(row: &[f32]) -> u64 {
    row.iter().fold(0, |hash: u64, value| (hash ^ u64::from(value.to_bits())).wrapping_mul(0x0100_0000_01b3).rotate_left(7))
}

fn step(driver: &mut Driver, model: &mut Model<CpuDevice>, traces: &mut Traces) {
    let output = driver.step(model, &mut |id, _, row| traces.entry(id).or_default().logits.push(hash(row)));
    for sampled in output.sampled {
        traces.entry(sampled.sequence).or_default().sampled.push(sampled);
    }
}

/// Each request alone, its prompt in one chunk.
fn one_by_one(model: &mut Model<CpuDevice>, requests: &[(u64, &Case, SamplingParams)]) -> Traces {
    let (mut traces, mut driver) = (Traces::new(), Driver::new());
    for (id, case, params) in requests {
        driver.plan.encode = case.images.clone();
        driver.start(start(*id, case, params.clone()));
        for _ in 0..TOKENS {
            driver.chunk(*id, usize::MAX);
            step(&mut driver, model, &mut traces);
        }
        driver.plan.end.push(SequenceId(*id));
        driver.step(model, &mut |_, _, _| {});
    }
    traces
}

/// All requests together: random chunks of a random choice of sequences each step.
fn batched(model: &mut Model<CpuDevice>, requests: &[(u64, &Case, SamplingParams)], seed: u64) -> Traces {
    let (mut random, mut traces, mut driver) = (Random(seed), Traces::new(), Driver::new());
    for (id, case, params) in requests {
        driver.plan.encode.extend(case.images.clone());
        driver.start(start(*id, case, params.clone()));
    }
    loop {
        let done = |traces: &Traces, id: u64| traces.get(&SequenceId(id)).is_some_and(|trace| trace.sampled.len() == TOKENS);
        let open: Vec<u64> = requests.iter().map(|(id, ..)| *id).filter(|&id| !done(&traces, id)).collect();
        if open.is_empty() {
            return traces;
        }
        for id in open {
            if random.below(4) > 0 {
                let most = if random.below(3) == 0 { 1 + random.below(7) } else { 1 + random.below(400) };
                driver.chunk(id, most);
            }
        }
        step(&mut driver, model, &mut traces);
    }
}

fn check(dtype: Dtype) {
    let cases = cases::all();
    let requests = requests(&cases);
    let folder = cases::fixture("hf");
    let alone = group(&folder, 1, dtype, |model| one_by_one(model, &requests)).remove(0);
    assert!(alone.values().all(|trace| trace.sampled.len() == TOKENS && trace.logits.len() == TOKENS));
    for (tp, seed) in [(1, 11), (2, 12), (4, 13)] {
        let together = group(&folder, tp, dtype, |model| batched(model, &requests, seed));
        for (id, case, _) in &requests {
            let id = SequenceId(*id);
            assert_eq!(together[0][&id], alone[&id], "{} as {id} at tp {tp}", case.name);
            for rank in &together[1..] {
                assert_eq!(rank[&id].logits, alone[&id].logits, "every rank has the same logits");
                let tokens = |trace: &Trace| trace.sampled.iter().map(|sampled| sampled.token).collect::<Vec<_>>();
                assert_eq!(tokens(&rank[&id]), tokens(&alone[&id]), "every rank has the same tokens");
            }
        }
    }
}

#[test]
fn f32_bits_are_the_same_alone_in_a_batch_and_split() {
    check(Dtype::F32);
}

#[test]
fn bf16_bits_are_the_same_alone_in_a_batch_and_split() {
    check(Dtype::Bf16);
}
