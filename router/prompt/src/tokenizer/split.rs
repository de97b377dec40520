//! Cutting text into the pieces that byte-pair encoding works on.

use regex::Regex;

/// How tiktoken-style patterns end: a run of white space leaves its last character to the word behind it.
const LOOK_AHEAD: &str = r"|\s+(?!\S)|\s+";

/// A pre-tokenising pattern.
pub(super) enum Splitter {
    /// The look-ahead at the pattern's end is done by hand, so that the rest runs on an automaton in linear time.
    Linear(Regex),
    /// Any other pattern.
    Backtracking(Box<fancy_regex::Regex>),
}

impl Splitter {
    pub(super) fn new(pattern: &str) -> Result<Self, String> {
        if let Some(head) = pattern.strip_suffix(LOOK_AHEAD)
            && let Ok(regex) = Regex::new(&format!(r"{head}|\s+"))
        {
            return Ok(Self::Linear(regex));
        }
        fancy_regex::Regex::new(pattern).map(|regex| Self::Backtracking(Box::new(regex))).map_err(|error| error.to_string())
    }

    /// Hands over the pieces in order; together they are the whole text.
    pub(super) fn split<'t>(&self, text: &'t str, mut piece: impl FnMut(&'t str)) {
        let mut at = 0;
        while at < text.len() {
            // Text that the pattern does not match is a piece of its own, so that nothing is lost.
            let (start, end) = self.next(text, at).unwrap_or((text.len(), text.len()));
            if at < start {
                piece(&text[at..start]);
            }
            if start < end {
                piece(&text[start..end]);
            }
            at = if end > at { end } else { text.len() };
        }
    }

    fn next(&self, text: &str, at: usize) -> Option<(usize, usize)> {
        match self {
            Self::Linear(regex) => {
                let found = regex.find_at(text, at)?;
                Some((found.start(), found.start() + kept(found.as_str(), found.end() == text.len())))
            }
            Self::Backtracking(regex) => {
                let found = regex.find_from_pos(text, at).ok().flatten()?;
                Some((found.start(), found.end()))
            }
        }
    }
}

/// Bytes of a match that `\s+(?!\S)|\s+` would keep: all but the last character of a longer run of white space that has
/// something behind it. Runs that end with a line break are another alternative's.
fn kept(found: &str, at_end: bool) -> usize {
    if at_end || found.ends_with(['\r', '\n']) || !found.chars().all(char::is_whitespace) {
        return found.len();
    }
    match found.char_indices().next_back() {
        Some((last, _)) if last > 0 => last,
        _ => found.len(),
    }
}
