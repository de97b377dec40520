//! The engine's limits.

use tessera_types::BLOCK_TOKENS;

/// Limits the engine keeps; all are at least 1.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EngineConfig {
    /// Blocks in the paged cache, the least that any rank has.
    pub kv_blocks: usize,
    /// Tokens a sequence may have, prompt and generated together.
    pub max_context: usize,
    /// Sequences admitted at once, which bounds a step's chunks.
    pub max_batch_sequences: usize,
    /// Tokens a step may feed to the decoder.
    pub step_tokens: usize,
    /// Patches a step may feed to the vision encoder; one image larger than this goes alone.
    pub step_patches: usize,
    /// Encoder outputs held on every rank, in feature rows; an image with more is refused.
    pub encoder_tokens: usize,
    /// Sequences that may wait for their first admission.
    pub queue_len: usize,
    /// Plans that may be under way at once: 2 lets the ranks start a step while the last one's output travels.
    pub pipeline_depth: usize,
}

impl Default for EngineConfig {
    fn default() -> Self {
        Self {
            kv_blocks: 1024,
            max_context: 32_768,
            max_batch_sequences: 64,
            step_tokens: 512,
            step_patches: 4096,
            encoder_tokens: 16_384,
            queue_len: 256,
            pipeline_depth: 2,
        }
    }
}

/// A limit that would let nothing through.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0} must be at least 1")]
pub struct ConfigError(pub &'static str);

impl EngineConfig {
    /// Names the first limit that is zero.
    pub fn validate(&self) -> Result<(), ConfigError> {
        let limits = [
            ("kv_blocks", self.kv_blocks),
            ("max_context", self.max_context),
            ("max_batch_sequences", self.max_batch_sequences),
            ("step_tokens", self.step_tokens),
            ("step_patches", self.step_patches),
            ("encoder_tokens", self.encoder_tokens),
            ("queue_len", self.queue_len),
            ("pipeline_depth", self.pipeline_depth),
        ];
        limits.iter().find(|(_, limit)| *limit == 0).map_or(Ok(()), |(name, _)| Err(ConfigError(name)))
    }

    /// Tokens a sequence may really have: a context that outgrew the whole cache could never finish.
    pub fn context(&self) -> usize {
        self.max_context.min(self.kv_blocks * BLOCK_TOKENS)
    }
}
