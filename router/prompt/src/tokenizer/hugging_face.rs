//! `tokenizer.json`, through the `tokenizers` crate.

use rustc_hash::FxHashMap;
use tessera_types::TokenId;

pub(super) struct HuggingFace {
    tokenizer: tokenizers::Tokenizer,
    /// By id.
    tokens: Vec<Vec<u8>>,
}

impl HuggingFace {
    pub(super) fn parse(file: &[u8]) -> Result<Self, String> {
        let mut tokenizer = tokenizers::Tokenizer::from_bytes(file).map_err(|error| error.to_string())?;
        // Text that looks like a control token is text.
        tokenizer.set_encode_special_tokens(true);
        let added = tokenizer.get_added_tokens_decoder();
        let characters = byte_characters();
        // A vocabulary of another kind would silently lose text.
        let lacks = |character: &char| tokenizer.token_to_id(&character.to_string()).is_none();
        if let Some((_, byte)) = characters.iter().find(|(character, _)| lacks(character)) {
            return Err(format!("is not byte-level: the vocabulary lacks the byte {byte:#04x}"));
        }
        let mut tokens = vec![Vec::new(); tokenizer.get_vocab_size(true)];
        for (token, id) in tokenizer.get_vocab(true) {
            if added.get(&id).is_some_and(|token| token.special) {
                continue;
            }
            let entry = tokens.get_mut(id as usize).ok_or_else(|| format!("id {id} of {token:?} is beyond the vocabulary"))?;
            *entry = bytes_of(&token, &characters);
        }
        Ok(Self { tokenizer, tokens })
    }

    pub(super) fn encode(&self, text: &str) -> Vec<TokenId> {
        // Byte-level tokenizers encode every text.
        let encoding = self.tokenizer.encode_fast(text, false);
        encoding.map(|encoding| encoding.get_ids().iter().copied().map(TokenId).collect()).unwrap_or_default()
    }

    pub(super) fn longest_token(&self) -> usize {
        self.tokens.iter().map(Vec::len).max().unwrap_or_default()
    }

    pub(super) fn token_bytes(&self, token: TokenId) -> &[u8] {
        self.tokens.get(token.0 as usize).map_or(&[], Vec::as_slice)
    }
}

/// The printable characters that stand for bytes in byte-level vocabularies, as GPT-2 introduced them.
fn byte_characters() -> FxHashMap<char, u8> {
    let printable = |byte: u8| matches!(byte, b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF);
    let (plain, moved): (Vec<u8>, Vec<u8>) = (0..=255).partition(|&byte| printable(byte));
    let moved = moved.into_iter().zip(256_u32..).filter_map(|(byte, code)| Some((char::from_u32(code)?, byte)));
    plain.into_iter().map(|byte| (char::from(byte), byte)).chain(moved).collect()
}

fn bytes_of(token: &str, characters: &FxHashMap<char, u8>) -> Vec<u8> {
    let bytes: Option<Vec<u8>> = token.chars().map(|character| characters.get(&character).copied()).collect();
    // A token outside the byte alphabet was added as plain text.
    bytes.unwrap_or_else(|| token.as_bytes().to_vec())
}
