//! Stop strings in a text that arrives in pieces.
//!
//! Every stop string keeps its Knuth-Morris-Pratt state: how much of it the text's end already spells. The longest
//! of these is what must be held back, and where the text was cut makes no difference. The string that is complete
//! first wins; of several complete at the same byte, the longest.

use std::sync::Arc;

/// The stop strings of a request.
#[derive(Debug)]
pub(crate) struct StopStrings {
    patterns: Vec<Pattern>,
    include: bool,
}

#[derive(Debug)]
struct Pattern {
    text: String,
    /// For each length of a matched prefix, the length of its longest border.
    borders: Vec<usize>,
}

impl StopStrings {
    /// `stops` must not be empty strings; `include` keeps the match in the answer.
    pub(crate) fn new(stops: Vec<String>, include: bool) -> Self {
        Self { patterns: stops.into_iter().map(Pattern::new).collect(), include }
    }

    /// The text of stop string `at`.
    pub(crate) fn text(&self, at: usize) -> &str {
        self.patterns.get(at).map_or("", |pattern| &pattern.text)
    }
}

impl Pattern {
    fn new(text: String) -> Self {
        let bytes = text.as_bytes();
        let mut borders = vec![0; bytes.len() + 1];
        let mut border = 0;
        for at in 1..bytes.len() {
            while border > 0 && bytes[border] != bytes[at] {
                border = borders[border];
            }
            border += usize::from(bytes[border] == bytes[at]);
            borders[at + 1] = border;
        }
        Self { text, borders }
    }

    /// The state behind `byte`; the pattern's length when it is complete.
    fn advance(&self, mut matched: usize, byte: u8) -> usize {
        let bytes = self.text.as_bytes();
        while matched > 0 && bytes.get(matched) != Some(&byte) {
            matched = self.borders[matched];
        }
        matched + usize::from(bytes.get(matched) == Some(&byte))
    }
}

/// Looks for a request's stop strings in the text of one sequence.
#[derive(Clone, Debug)]
pub(crate) struct StopScanner {
    stops: Arc<StopStrings>,
    matched: Vec<usize>,
    held: String,
}

impl StopScanner {
    /// At the start of a sequence's text.
    pub(crate) fn new(stops: Arc<StopStrings>) -> Self {
        let matched = vec![0; stops.patterns.len()];
        Self { stops, matched, held: String::new() }
    }

    /// The strings looked for.
    pub(crate) fn stops(&self) -> &StopStrings {
        &self.stops
    }

    /// Takes more text and appends to `out` what is certainly part of the answer.
    ///
    /// Returns which stop string ended the text, if one did; what follows it is dropped.
    pub(crate) fn push(&mut self, text: &str, out: &mut String) -> Option<usize> {
        if self.matched.is_empty() {
            out.push_str(text);
            return None;
        }
        for (at, byte) in text.bytes().enumerate() {
            if let Some(stop) = self.advance(byte) {
                self.held.push_str(&text[..=at]);
                let dropped = if self.stops.include { 0 } else { self.stops.text(stop).len() };
                self.release(dropped, out);
                self.held.clear();
                return Some(stop);
            }
        }
        self.held.push_str(text);
        self.release(self.matched.iter().copied().max().unwrap_or(0), out);
        None
    }

    /// Takes text that no stop string may touch.
    pub(crate) fn pass(&mut self, text: &str, out: &mut String) {
        self.finish(out);
        out.push_str(text);
    }

    /// The text is over: what was held back is part of the answer.
    pub(crate) fn finish(&mut self, out: &mut String) {
        self.release(0, out);
        self.matched.fill(0);
    }

    fn advance(&mut self, byte: u8) -> Option<usize> {
        let mut complete: Option<usize> = None;
        for (at, (pattern, matched)) in self.stops.patterns.iter().zip(&mut self.matched).enumerate() {
            *matched = pattern.advance(*matched, byte);
            let longest = complete.is_none_or(|best| pattern.text.len() > self.stops.patterns[best].text.len());
            if *matched == pattern.text.len() && longest {
                complete = Some(at);
            }
        }
        complete
    }

    /// Moves all but the last `keep` bytes to `out`. A match starts with a character's first byte, so `keep` never
    /// splits one.
    fn release(&mut self, keep: usize, out: &mut String) {
        let free = self.held.len() - keep;
        out.push_str(&self.held[..free]);
        self.held.drain(..free);
    }
}

#[cfg(test)]
mod tests;
