//! Text to token ids and back to bytes, whatever file the vocabulary comes in.

mod bpe;
mod hugging_face;
mod split;
mod tekken;

use std::{
    fs,
    path::{Path, PathBuf},
};

use tessera_types::{TokenId, special};

use self::{hugging_face::HuggingFace, tekken::Tekken};

/// A vocabulary. Text is text: nothing in it is parsed for control tokens.
pub struct Tokenizer(Kind);

enum Kind {
    Tekken(Box<Tekken>),
    HuggingFace(Box<HuggingFace>),
    Bytes(Box<[u8; 256]>),
}

/// A tokenizer file that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TokenizerError {
    /// Neither file is there.
    #[error("{0} has neither tekken.json nor tokenizer.json")]
    Missing(PathBuf),
    /// The file cannot be read.
    #[error("cannot read {path}: {error}")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        error: std::io::Error,
    },
    /// The file does not say what it should.
    #[error("{path}: {problem}")]
    Format {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
}

impl Tokenizer {
    /// Reads a checkpoint folder's `tekken.json`, or its `tokenizer.json` where that is not there.
    pub fn from_folder(folder: &Path) -> Result<Self, TokenizerError> {
        let read = |path: &Path| fs::read(path).map_err(|error| TokenizerError::Read { path: path.to_owned(), error });
        let format = |path: &Path| {
            let path = path.to_owned();
            move |problem| TokenizerError::Format { path, problem }
        };
        let tekken = folder.join("tekken.json");
        if tekken.exists() {
            let parsed = Tekken::parse(&read(&tekken)?).map_err(format(&tekken))?;
            return Ok(Self(Kind::Tekken(Box::new(parsed))));
        }
        let hugging_face = folder.join("tokenizer.json");
        if hugging_face.exists() {
            let parsed = HuggingFace::parse(&read(&hugging_face)?).map_err(format(&hugging_face))?;
            return Ok(Self(Kind::HuggingFace(Box::new(parsed))));
        }
        Err(TokenizerError::Missing(folder.to_owned()))
    }

    /// Every byte is a token: what a shape without weights is served with.
    pub fn bytes() -> Self {
        Self(Kind::Bytes(Box::new(std::array::from_fn(|byte| byte as u8))))
    }

    /// The text's tokens, without begin or end.
    pub fn encode(&self, text: &str) -> Vec<TokenId> {
        match &self.0 {
            Kind::Tekken(tekken) => tekken.encode(text),
            Kind::HuggingFace(hugging_face) => hugging_face.encode(text),
            Kind::Bytes(_) => text.bytes().map(|byte| TokenId(special::COUNT + u32::from(byte))).collect(),
        }
    }

    /// Bytes of the longest token: text longer than a context's tokens times this does not fit in it.
    pub fn longest_token(&self) -> usize {
        match &self.0 {
            Kind::Tekken(tekken) => tekken.longest_token(),
            Kind::HuggingFace(hugging_face) => hugging_face.longest_token(),
            Kind::Bytes(_) => 1,
        }
    }

    /// The bytes that a token stands for: a piece of UTF-8, not always whole. Control tokens and ids outside the vocabulary have none.
    pub fn token_bytes(&self, token: TokenId) -> &[u8] {
        match &self.0 {
            Kind::Tekken(tekken) => tekken.token_bytes(token),
            Kind::HuggingFace(hugging_face) => hugging_face.token_bytes(token),
            Kind::Bytes(table) => {
                token.0.checked_sub(special::COUNT).and_then(|rank| table.get(rank as usize..=rank as usize)).unwrap_or(&[])
            }
        }
    }
}
