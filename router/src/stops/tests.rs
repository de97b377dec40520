use proptest::prelude::*;

use super::*;

/// What a text gives when it is cut at `cuts`: the answer, and the stop string that ended it.
fn scan(stops: &[&str], include: bool, text: &str, cuts: &[usize]) -> (String, Option<usize>) {
    let stops = StopStrings::new(stops.iter().map(|stop| (*stop).to_owned()).collect(), include);
    let mut scanner = StopScanner::new(Arc::new(stops));
    let mut out = String::new();
    let mut start = 0;
    for &cut in cuts.iter().chain([&text.len()]) {
        let cut = (start..=cut.max(start)).rev().find(|&at| text.is_char_boundary(at)).unwrap();
        if let Some(stop) = scanner.push(&text[start..cut], &mut out) {
            return (out, Some(stop));
        }
        start = cut;
    }
    scanner.finish(&mut out);
    (out, None)
}

/// The same by looking at every prefix of the whole text.
fn search(stops: &[&str], include: bool, text: &str) -> (String, Option<usize>) {
    for end in (0..=text.len()).filter(|&at| text.is_char_boundary(at)) {
        let hit = stops.iter().enumerate().filter(|(_, stop)| text[..end].ends_with(**stop));
        if let Some((at, stop)) = hit.max_by_key(|(at, stop)| (stop.len(), usize::MAX - at)) {
            return (text[..if include { end } else { end - stop.len() }].to_owned(), Some(at));
        }
    }
    (text.to_owned(), None)
}

#[test]
fn only_a_possible_beginning_of_a_stop_string_is_held_back() {
    let mut scanner = StopScanner::new(Arc::new(StopStrings::new(vec!["</answer>".into()], false)));
    let mut out = String::new();
    scanner.push("7 < 8 </ans", &mut out);
    assert_eq!(out, "7 < 8 ");
    scanner.push("wers> no", &mut out);
    assert_eq!(out, "7 < 8 </answers> no");
}

#[test]
fn the_stop_string_complete_first_wins_and_the_longest_of_several() {
    assert_eq!(scan(&["abcd", "bc"], false, "xabcd", &[]), ("xa".into(), Some(1)));
    assert_eq!(scan(&["c", "abc"], false, "xabc", &[]), ("x".into(), Some(1)));
    assert_eq!(scan(&["abc"], true, "xabcy", &[3]), ("xabc".into(), Some(0)));
}

#[test]
fn text_that_is_passed_cannot_begin_a_match() {
    let mut scanner = StopScanner::new(Arc::new(StopStrings::new(vec!["ab".into()], false)));
    let mut out = String::new();
    scanner.pass("a", &mut out);
    assert_eq!(scanner.push("bab", &mut out), Some(0));
    assert_eq!(out, "ab");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]
    #[test]
    fn where_the_text_is_cut_makes_no_difference(
        text in "[abé ]{0,24}",
        stops in prop::collection::vec("[abé ]{1,4}", 1..4),
        mut cuts in prop::collection::vec(0usize..40, 0..8),
        include: bool,
    ) {
        cuts.iter_mut().for_each(|cut| *cut = (*cut).min(text.len()));
        cuts.sort_unstable();
        let stops: Vec<&str> = stops.iter().map(String::as_str).collect();
        prop_assert_eq!(scan(&stops, include, &text, &cuts), search(&stops, include, &text));
    }
}
