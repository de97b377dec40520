use proptest::prelude::*;
use tessera_types::special;

use super::*;
use crate::{Limits, request::RawSampling, resolve::resolve};

fn byte(byte: u8) -> TokenId {
    TokenId(1000 + u32::from(byte))
}

fn sequence(raw: RawSampling) -> Sequence {
    let resolved = resolve(&raw, &Limits::default(), 4096).unwrap();
    let tokenizer = Arc::new(Tokenizer::bytes());
    Sequence::new(0, resolved.sequences[0].clone(), &resolved, &tokenizer)
}

/// Feeds tokens until the sequence ends: its text, how many tokens it took, and why it ended.
fn feed(sequence: &mut Sequence, tokens: impl IntoIterator<Item = TokenId>) -> (String, usize, Option<FinishReason>) {
    let mut text = String::new();
    for (at, token) in tokens.into_iter().enumerate() {
        let progress = sequence.token(token);
        text += &progress.text;
        if let Some(finished) = progress.finished {
            return (text, at + 1, Some(finished.reason));
        }
    }
    (text, sequence.generated().len(), None)
}

fn say(text: &str) -> impl Iterator<Item = TokenId> {
    text.bytes().map(byte)
}

#[test]
fn a_stop_token_ends_the_sequence_and_is_not_text() {
    let mut sequence = sequence(RawSampling { stop_token_ids: vec![byte(b'!').0], ..Default::default() });
    assert_eq!(feed(&mut sequence, say("Hi! Ho")), ("Hi".into(), 3, Some(FinishReason::StopToken(byte(b'!')))));
}

#[test]
fn a_stop_token_is_text_when_it_is_to_be_included() {
    let raw = RawSampling { stop_token_ids: vec![byte(b'!').0], include_stop: Some(true), ..Default::default() };
    assert_eq!(feed(&mut sequence(raw), say("Hi! Ho")).0, "Hi!");
}

#[test]
fn the_end_token_is_passed_by_when_it_is_ignored() {
    let raw = RawSampling { ignore_eos: Some(true), max_new_tokens: Some(3), ..Default::default() };
    let tokens = [byte(b'a'), special::END, byte(b'b'), byte(b'c')];
    assert_eq!(feed(&mut sequence(raw), tokens), ("ab".into(), 3, Some(FinishReason::Length)));
}

#[test]
fn what_was_held_back_comes_out_at_the_end() {
    let raw = RawSampling { stop: vec!["</a>".into()], max_new_tokens: Some(5), ..Default::default() };
    assert_eq!(feed(&mut sequence(raw), say("ab</a")), ("ab</a".into(), 5, Some(FinishReason::Length)));
    let raw = RawSampling { max_new_tokens: Some(2), ..Default::default() };
    assert_eq!(feed(&mut sequence(raw), [byte(b'a'), byte(0xC3)]).0, "a\u{FFFD}");
}

#[test]
fn stop_strings_wait_for_the_minimum() {
    let raw = RawSampling { stop: vec!["ab".into()], min_new_tokens: Some(3), ..Default::default() };
    assert_eq!(feed(&mut sequence(raw), say("abxxab!")), ("abxx".into(), 6, Some(FinishReason::StopString("ab".into()))));
}

#[test]
fn a_sequence_that_is_cut_says_what_it_held() {
    let mut sequence = sequence(RawSampling { stop: vec!["ab".into()], ..Default::default() });
    assert_eq!(feed(&mut sequence, say("xa")).0, "x");
    let progress = sequence.cut();
    assert_eq!((progress.text.as_str(), progress.finished.unwrap().reason), ("a", FinishReason::Length));
}

proptest! {
    /// Whatever the bytes, the stop string and the length: the text is that of the tokens taken, up to the match.
    #[test]
    fn text_and_tokens_agree(
        bytes in prop::collection::vec(prop_oneof![Just(b'a'), Just(b'b'), any::<u8>()], 1..30),
        stop in "[ab]{1,3}",
        max in 1u32..30,
    ) {
        let raw = RawSampling { stop: vec![stop.clone()], max_new_tokens: Some(max), ..Default::default() };
        let (text, taken, reason) = feed(&mut sequence(raw), bytes.iter().copied().map(byte));
        let said = String::from_utf8_lossy(&bytes[..taken]).into_owned();
        match reason {
            Some(FinishReason::StopString(_)) => {
                prop_assert!(said.ends_with(&stop) && said.find(&stop) == Some(said.len() - stop.len()));
                prop_assert_eq!(text + &stop, said);
            }
            Some(FinishReason::Length) => {
                prop_assert_eq!(taken, max as usize);
                prop_assert_eq!(text, said);
            }
            _ => prop_assert!(said.starts_with(&text) && bytes.len() < max as usize),
        }
    }
}
