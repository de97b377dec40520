//! Log-probabilities as a GPU says them.

use std::collections::HashMap;

use tessera_collective::Solo;
use tessera_device::cuda::CudaDevice;
use tessera_model::Model;
use tessera_types::{SamplingParams, SequenceId, StepOutput, TokenId, TokenLogprob};

use super::{BF16, model, ways};
use crate::cases;
use crate::driver::{Driver, start};

/// Steps of decoding.
const STEPS: u32 = 6;

/// What was said of each sequence: by the position that a token has.
pub(super) type Said = HashMap<(SequenceId, u32), TokenLogprob>;

/// Ways to choose that ask for all there is: a token's own; many; with edits of the logits, of which log-probabilities know
/// nothing.
pub(super) fn asking() -> [SamplingParams; 3] {
    let [mut greedy, mut few, mut all] = ways();
    greedy.logprobs.generated = Some(0);
    (few.logprobs.generated, few.logprobs.prompt) = (Some(20), Some(3));
    (all.logprobs.generated, all.logprobs.prompt) = (Some(5), Some(0));
    [greedy, few, all]
}

/// Adds what a step says.
fn note(said: &mut Said, output: StepOutput, next: &mut HashMap<SequenceId, u32>) {
    assert!(output.broken.is_empty());
    for sampled in output.sampled {
        let position = next.get_mut(&sampled.sequence).unwrap();
        if let Some(logprob) = sampled.logprob {
            assert_eq!(logprob.token, sampled.token);
            said.insert((sampled.sequence, *position), logprob);
        }
        *position += 1;
    }
    for prompt in output.prompt_logprobs {
        for (position, logprob) in (prompt.start..).zip(prompt.tokens) {
            assert!(said.insert((prompt.sequence, position), logprob).is_none(), "position {position} is described twice");
        }
    }
}

/// Rows of logits, by the position of the token that comes of them.
pub(super) type Rows = HashMap<(SequenceId, u32), Vec<f32>>;

/// What is said of sequences of a case in one batch, their prompts in chunks of `most`. With `observed` the host says it, and the
/// rows of logits are kept.
pub(super) fn run(
    driver: &mut Driver,
    model: &mut Model<CudaDevice>,
    ids: &[u64],
    most: usize,
    mut observed: Option<&mut Rows>,
) -> Said {
    let case = &cases::all()[0];
    let (mut said, mut next, prompt) = (Said::new(), HashMap::new(), case.ids.len() as u32);
    for &id in ids {
        driver.start(start(id, case, asking()[id as usize % 3].clone()));
        next.insert(SequenceId(id), prompt);
    }
    while next.values().any(|next| *next < prompt + STEPS) {
        ids.iter().for_each(|id| driver.chunk(*id, most));
        let output = match &mut observed {
            Some(rows) => driver.step(model, &mut |sequence, position, row| {
                rows.insert((sequence, position + 1), row.to_vec());
            }),
            None => driver.step_unseen(model),
        };
        note(&mut said, output, &mut next);
    }
    driver.plan.end.extend(ids.iter().copied().map(SequenceId));
    said
}

/// What is said of the first three sequences by the host, with the logits, and then of three like them, prompts in chunks of
/// seven.
pub(super) fn by_host_and_device(model: &mut Model<CudaDevice>) -> (Said, Rows, Said) {
    let (mut driver, mut rows) = (Driver::new(), Rows::new());
    let host = run(&mut driver, model, &[1, 2, 3], usize::MAX, Some(&mut rows));
    let said = run(&mut driver, model, &[4, 5, 6], 7, None);
    (host, rows, said.into_iter().map(|((id, position), said)| ((SequenceId(id.0 - 3), position), said)).collect())
}

/// Log-softmax in f64, by the plain formula.
fn plain(row: &[f32], token: TokenId) -> f64 {
    let max = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = row.iter().map(|x| f64::from(x - max).exp()).sum();
    f64::from(row[token.0 as usize] - max) - sum.ln()
}

/// The ids of the most probable tokens, by a full sort.
fn ranked(row: &[f32], top: usize) -> Vec<TokenId> {
    let mut ids: Vec<u32> = (0..row.len() as u32).collect();
    ids.sort_by(|a, b| row[*b as usize].total_cmp(&row[*a as usize]).then(a.cmp(b)));
    ids.into_iter().take(top).map(TokenId).collect()
}

/// Fails unless it is what the rows of logits say, and the host.
pub(super) fn check(said: &Said, host: &Said, rows: &Rows, what: &str) {
    assert_eq!(said.len(), host.len(), "{what}");
    for (place, logprob) in said {
        let (row, host) = (&rows[place], &host[place]);
        assert_eq!(logprob.token, host.token, "{what}, {place:?}");
        let ids: Vec<_> = logprob.top.iter().map(|(id, _)| *id).collect();
        assert_eq!(ids, ranked(row, host.top.len()), "{what}, {place:?}");
        let pairs = [(logprob.token, logprob.logprob, host.logprob)].into_iter();
        let tops = logprob.top.iter().zip(&host.top).map(|((id, got), (_, host))| (*id, *got, *host));
        for (id, got, host) in pairs.chain(tops) {
            let (wanted, near) = (plain(row, id), 1e-5);
            let apart = (f64::from(got) - wanted).abs().max(f64::from((got - host).abs()));
            assert!(apart < near, "{what}, {place:?}, {id}: {got}, the host {host}, by the formula {wanted}");
        }
    }
}

#[test]
fn a_gpu_says_what_the_host_says_of_the_logits_before_any_edit() {
    let (host, rows, said) = by_host_and_device(&mut model("hf", BF16, false));
    let prompt = cases::all()[0].ids.len();
    // All of three answers, and two prompts but for their first tokens.
    assert_eq!(host.len(), 3 * STEPS as usize + 2 * (prompt - 1));
    check(&said, &host, &rows, "on one GPU");
}

#[test]
fn what_is_said_of_a_sequence_depends_on_neither_batch_nor_chunk() {
    let bits = |said: Said| {
        let bits = |logprob: TokenLogprob| {
            let top = logprob.top.iter().map(|(id, value)| (*id, value.to_bits())).collect::<Vec<_>>();
            (logprob.token, logprob.logprob.to_bits(), top)
        };
        said.into_iter().map(|(place, logprob)| (place, bits(logprob))).collect::<HashMap<_, _>>()
    };
    let given = |ids: &[u64], most| bits(run(&mut Driver::new(), &mut model("hf", BF16, true), ids, most, None));
    let all = given(&[1, 2, 3], usize::MAX);
    assert_eq!(given(&[1, 2, 3], 7), all, "in chunks");
    for id in 1..=3 {
        let alone = given(&[id], 5);
        let own = all.iter().filter(|((sequence, _), _)| *sequence == SequenceId(id)).map(|(place, said)| (*place, said.clone()));
        assert_eq!(alone, own.collect::<HashMap<_, _>>(), "sequence {id} alone");
    }
}

/// More rows than the host lets a device have at once.
#[test]
fn long_prompts_are_described_as_the_host_describes_them() {
    let long = cases::all().into_iter().find(|case| case.name == "text_long").unwrap();
    let mut model = model("hf", BF16, false);
    let mut sampling = SamplingParams::default();
    sampling.logprobs.prompt = Some(2);
    let mut described = |seen: bool| {
        let mut driver = Driver::new();
        driver.start(start(1, &long, sampling.clone()));
        driver.chunk(1, usize::MAX);
        let output = if seen { driver.step(&mut model, &mut |_, _, _| {}) } else { driver.step_unseen(&mut model) };
        model.join(Box::new(Solo::default())).unwrap();
        output.prompt_logprobs.into_iter().next().unwrap()
    };
    let (host, device) = (described(true), described(false));
    assert_eq!((device.start, device.tokens.len()), (1, long.ids.len() - 1));
    for (host, device) in host.tokens.iter().zip(&device.tokens) {
        assert_eq!(host.token, device.token);
        assert!((host.logprob - device.logprob).abs() < 1e-5, "{device:?}, the host {host:?}");
        for ((id, value), (wanted, near)) in device.top.iter().zip(&host.top) {
            assert!(id == wanted && (value - near).abs() < 1e-5, "{device:?}, the host {host:?}");
        }
    }
}
