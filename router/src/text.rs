//! Tokens to text, one at a time: a character goes out when its last byte is there.

use std::sync::Arc;

use tessera_prompt::Tokenizer;
use tessera_types::TokenId;

/// The text of one sequence. Bytes that are no UTF-8 become U+FFFD, as if the whole had been decoded at once.
pub(crate) struct TextStream {
    tokenizer: Arc<Tokenizer>,
    /// The beginning of a character: at most three bytes between two tokens.
    pending: Vec<u8>,
}

impl TextStream {
    pub(crate) fn new(tokenizer: Arc<Tokenizer>) -> Self {
        Self { tokenizer, pending: Vec::new() }
    }

    /// What becomes certain with one more token; control tokens say nothing.
    pub(crate) fn push(&mut self, token: TokenId) -> String {
        let mut text = String::new();
        let bytes = self.tokenizer.token_bytes(token);
        if self.pending.is_empty()
            && let Ok(whole) = str::from_utf8(bytes)
        {
            text.push_str(whole);
            return text;
        }
        self.pending.extend_from_slice(bytes);
        let mut used = 0;
        for chunk in self.pending.utf8_chunks() {
            text.push_str(chunk.valid());
            used += chunk.valid().len();
            let broken = chunk.invalid();
            let rest = &self.pending[used..];
            // The last chunk may yet become a character: `error_len` is `None` for those alone.
            let incomplete = rest.len() == broken.len() && str::from_utf8(rest).is_err_and(|error| error.error_len().is_none());
            if !broken.is_empty() && !incomplete {
                text.push(char::REPLACEMENT_CHARACTER);
                used += broken.len();
            }
        }
        self.pending.drain(..used);
        text
    }

    /// What is left when no more tokens come.
    pub(crate) fn finish(&mut self) -> String {
        let rest = String::from_utf8_lossy(&self.pending).into_owned();
        self.pending.clear();
        rest
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn stream() -> TextStream {
        TextStream::new(Arc::new(Tokenizer::bytes()))
    }

    #[test]
    fn a_character_goes_out_with_its_last_byte() {
        let mut stream = stream();
        let pieces: Vec<_> = "aé🙂".bytes().map(|byte| stream.push(TokenId(1000 + u32::from(byte)))).collect();
        assert_eq!(pieces, ["a", "", "é", "", "", "", "🙂"]);
    }

    proptest! {
        #[test]
        fn the_text_is_that_of_all_bytes_together(bytes in prop::collection::vec(prop_oneof![any::<u8>(), 0x80u8..0xF5], 0..40)) {
            let mut stream = stream();
            let mut text: String = bytes.iter().map(|&byte| stream.push(TokenId(1000 + u32::from(byte)))).collect();
            text += &stream.finish();
            prop_assert_eq!(text, String::from_utf8_lossy(&bytes).into_owned());
        }
    }
}
