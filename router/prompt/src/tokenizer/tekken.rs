//! Mistral's tekken vocabulary: byte-level byte-pair encoding in tiktoken's way.

use base64::{Engine, engine::general_purpose::STANDARD};
use rustc_hash::FxHashMap;
use serde::Deserialize;
use tessera_types::{TokenId, special};

use super::{bpe, split::Splitter};

#[derive(Deserialize)]
struct File<'a> {
    config: Config,
    #[serde(borrow)]
    vocab: Vec<Entry<'a>>,
}

#[derive(Deserialize)]
struct Config {
    pattern: String,
    default_vocab_size: u32,
    #[serde(default = "special_tokens")]
    default_num_special_tokens: u32,
}

fn special_tokens() -> u32 {
    special::COUNT
}

#[derive(Deserialize)]
struct Entry<'a> {
    rank: u32,
    token_bytes: &'a str,
}

pub(super) struct Tekken {
    splitter: Splitter,
    ranks: FxHashMap<Vec<u8>, u32>,
    /// By rank.
    tokens: Vec<Vec<u8>>,
    first: u32,
}

impl Tekken {
    pub(super) fn parse(file: &[u8]) -> Result<Self, String> {
        let File { config, vocab } = serde_json::from_slice(file).map_err(|error| error.to_string())?;
        let first = config.default_num_special_tokens;
        let used =
            config.default_vocab_size.checked_sub(first).ok_or("default_vocab_size is below default_num_special_tokens")?;
        let mut tokens = Vec::with_capacity(used as usize);
        // The file holds more ranks than the model uses.
        for (index, entry) in vocab.iter().take(used as usize).enumerate() {
            if entry.rank as usize != index {
                return Err(format!("vocab[{index}] has rank {}", entry.rank));
            }
            tokens.push(STANDARD.decode(entry.token_bytes).map_err(|error| format!("vocab[{index}].token_bytes: {error}"))?);
        }
        if tokens.len() < used as usize {
            return Err(format!("vocab has {} of {used} entries", tokens.len()));
        }
        let ranks: FxHashMap<Vec<u8>, u32> = tokens.iter().cloned().zip(0..).collect();
        if let Some(byte) = (0..=u8::MAX).find(|byte| !ranks.contains_key([*byte].as_slice())) {
            return Err(format!("vocab lacks the byte {byte:#04x}"));
        }
        let splitter = Splitter::new(&config.pattern).map_err(|error| format!("config.pattern: {error}"))?;
        Ok(Self { splitter, ranks, tokens, first })
    }

    pub(super) fn encode(&self, text: &str) -> Vec<TokenId> {
        let mut tokens = Vec::with_capacity(text.len() / 4 + 1);
        self.splitter.split(text, |piece| {
            bpe::encode(piece.as_bytes(), &self.ranks, |rank| tokens.push(TokenId(self.first + rank)));
        });
        tokens
    }

    pub(super) fn token_bytes(&self, token: TokenId) -> &[u8] {
        let rank = token.0.checked_sub(self.first);
        rank.and_then(|rank| self.tokens.get(rank as usize)).map_or(&[], Vec::as_slice)
    }
}
