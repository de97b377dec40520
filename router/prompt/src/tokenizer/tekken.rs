//! Mistral's tekken vocabulary: byte-level byte-pair encoding in tiktoken's way.

use std::borrow::Cow;

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
    /// Older files leave them out.
    #[serde(borrow, default)]
    special_tokens: Option<Vec<Control<'a>>>,
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
    #[serde(borrow)]
    token_bytes: Cow<'a, str>,
}

#[derive(Deserialize)]
struct Control<'a> {
    rank: u32,
    #[serde(borrow)]
    token_str: Cow<'a, str>,
}

/// The control tokens that prompts are laid out with.
const CONTROLS: [(&str, TokenId); 7] = [
    ("<s>", special::BEGIN),
    ("</s>", special::END),
    ("[INST]", special::BEGIN_INST),
    ("[/INST]", special::END_INST),
    ("[IMG]", special::IMAGE),
    ("[IMG_BREAK]", special::IMAGE_BREAK),
    ("[IMG_END]", special::IMAGE_END),
];

/// A file that numbers control tokens otherwise belongs to a model with another prompt layout.
fn check_controls(listed: &[Control<'_>]) -> Result<(), String> {
    for Control { rank, token_str } in listed {
        if let Some((_, id)) = CONTROLS.iter().find(|(name, _)| name == token_str)
            && id.0 != *rank
        {
            return Err(format!("special_tokens: {token_str} has rank {rank}, but is laid out as {id}"));
        }
    }
    Ok(())
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
        let File { config, vocab, special_tokens } = serde_json::from_slice(file).map_err(|error| error.to_string())?;
        check_controls(special_tokens.as_deref().unwrap_or_default())?;
        let first = config.default_num_special_tokens;
        let used =
            config.default_vocab_size.checked_sub(first).ok_or("default_vocab_size is below default_num_special_tokens")?;
        let mut tokens = Vec::with_capacity(vocab.len().min(used as usize));
        // The file holds more ranks than the model uses.
        for (index, entry) in vocab.iter().take(used as usize).enumerate() {
            if entry.rank as usize != index {
                return Err(format!("vocab[{index}] has rank {}", entry.rank));
            }
            let bytes = STANDARD.decode(entry.token_bytes.as_bytes());
            tokens.push(bytes.map_err(|error| format!("vocab[{index}].token_bytes: {error}"))?);
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

    pub(super) fn longest_token(&self) -> usize {
        self.tokens.iter().map(Vec::len).max().unwrap_or_default()
    }

    pub(super) fn token_bytes(&self, token: TokenId) -> &[u8] {
        let rank = token.0.checked_sub(self.first);
        rank.and_then(|rank| self.tokens.get(rank as usize)).map_or(&[], Vec::as_slice)
    }
}
