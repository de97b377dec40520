//! Choices, and how probable they were.

use bytemuck::Zeroable;
use tessera_device::cuda::CudaDevice;
use tessera_device::{Choosing, ChosenToken, Device, DeviceError, LogitEdit};
use tessera_types::TokenId;

use super::{device, number, turn, workspace};

const VOCABULARY: usize = 1000;
/// Of two ranks' parts, the last with padding.
const PART: usize = 512;

/// A row of logits.
fn row(seed: u64) -> Vec<f32> {
    (0..VOCABULARY).map(|id| 8.0 * number(seed, id)).collect()
}

/// What the device says of rows that were gathered from two ranks.
fn said(
    device: &CudaDevice,
    rows: &[Vec<f32>],
    choosing: &[Choosing],
    edits: &[LogitEdit],
) -> Result<Vec<Option<ChosenToken>>, DeviceError> {
    let mut logits = device.tensor(2 * rows.len(), PART)?;
    let part = |part: usize| {
        let padded =
            move |row: &Vec<f32>| (0..PART).map(|i| row.get(part * PART + i).copied().unwrap_or(9e9)).collect::<Vec<_>>();
        rows.iter().flat_map(padded)
    };
    device.write(&mut logits, &part(0).chain(part(1)).collect::<Vec<_>>())?;
    let mut chosen = device.choose(&mut logits, 2, VOCABULARY, choosing, edits)?;
    device.fetch(&mut chosen)?;
    device.fetched(&mut chosen)
}

fn greedy(described: u32) -> Choosing {
    Choosing { given: Choosing::NONE, described, top_p: 1.0, repetition: 1.0, ..Choosing::zeroed() }
}

/// Ids by falling logit, by id among equals.
fn ranked(row: &[f32]) -> Vec<u32> {
    let mut ids: Vec<u32> = (0..row.len() as u32).collect();
    ids.sort_by(|a, b| row[*b as usize].total_cmp(&row[*a as usize]).then(a.cmp(b)));
    ids
}

fn logprob(row: &[f32], id: u32) -> f64 {
    let sum: f64 = row.iter().map(|logit| f64::from(*logit).exp()).sum();
    f64::from(row[id as usize]) - sum.ln()
}

#[test]
fn log_probabilities_are_of_the_logits_before_any_edit() {
    let (_turn, device) = (turn(), device(workspace(), false));
    let rows = [row(1), row(2), row(3), row(4)];
    let (first, second) = (ranked(&rows[0])[0], ranked(&rows[0])[1]);
    // The best token may not be chosen; another row's edits make its worst one the best.
    let worst = ranked(&rows[1])[VOCABULARY - 1];
    let edits = [
        LogitEdit { token: first, bias: 3.0, count: 0, flags: LogitEdit::MASK },
        LogitEdit { token: worst, bias: 100.0, count: 0, flags: 0 },
    ];
    let choosing = [
        Choosing { edits_begin: 0, edits_end: 1, ..greedy(3) },
        Choosing { edits_begin: 1, edits_end: 2, ..greedy(0) },
        Choosing { given: 777, ..greedy(20) },
        greedy(Choosing::NONE),
    ];
    let said: Vec<_> = said(&device, &rows, &choosing, &edits).unwrap().into_iter().map(Option::unwrap).collect();
    let tokens: Vec<_> = said.iter().map(|said| said.token.0).collect();
    assert_eq!(tokens, [second, worst, 777, ranked(&rows[3])[0]]);
    for ((said, row), top) in said.iter().zip(&rows).zip([Some(3), Some(0), Some(20), None]) {
        assert_eq!(said.logprob.is_some(), top.is_some());
        let Some(told) = &said.logprob else { continue };
        let ids: Vec<_> = told.top.iter().map(|(id, _)| id.0).collect();
        assert_eq!((told.token, ids), (said.token, ranked(row)[..top.unwrap_or(0)].to_vec()));
        for (TokenId(id), value) in told.top.iter().copied().chain([(told.token, told.logprob)]) {
            assert!((f64::from(value) - logprob(row, id)).abs() < 1e-5, "{id}: {value}, not {}", logprob(row, id));
        }
    }
}

#[test]
fn a_row_that_is_no_numbers_has_no_token_whatever_is_asked_and_spoils_no_other() {
    let (_turn, device) = (turn(), device(workspace(), false));
    for bad in [f32::NAN, f32::INFINITY] {
        let mut spoilt = row(6);
        spoilt[900] = bad;
        let rows = [row(5), spoilt.clone(), spoilt, row(5)];
        // Not even where what is no number may not be chosen.
        let edits = [LogitEdit { token: 900, bias: 0.0, count: 0, flags: LogitEdit::MASK }];
        let choosing = [greedy(2), Choosing { edits_end: 1, ..greedy(2) }, Choosing { given: 7, ..greedy(2) }, greedy(2)];
        let said = said(&device, &rows, &choosing, &edits).unwrap();
        assert_eq!(said.iter().map(Option::is_some).collect::<Vec<_>>(), [true, false, false, true]);
        assert_eq!(said[0], said[3]);
    }
}

#[test]
fn more_tokens_beside_a_rows_own_than_are_ever_told_are_refused() {
    let (_turn, device) = (turn(), device(workspace(), false));
    let error = said(&device, &[row(7)], &[greedy(21)], &[]).unwrap_err();
    assert!(matches!(&error, DeviceError::Shape { operation: "choose", .. }), "{error}");
}
