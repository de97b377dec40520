//! Between the internal wire and the domain types. Outward never fails; inward checks what the domain demands.

use tessera_types as domain;
use tessera_types::{BlockId, Epoch, ImageKey, SequenceId, StepId, TokenId};

use crate::{WireError, internal as wire};

/// Patches along a side of an image: keeps their count far from overflow, and no image comes near it.
const MAX_SIDE: u32 = 1 << 15;

fn tokens(ids: Vec<u32>) -> Vec<TokenId> {
    ids.into_iter().map(TokenId).collect()
}

fn ids(tokens: &[TokenId]) -> Vec<u32> {
    tokens.iter().map(|token| token.0).collect()
}

/// Every message of a repeated field; what is wrong with one is told with its place.
///
/// # Errors
/// Those of the first that means nothing.
pub fn each<W, D: TryFrom<W, Error = WireError>>(field: &str, messages: Vec<W>) -> Result<Vec<D>, WireError> {
    let read = |(at, message)| D::try_from(message).map_err(|error| error.within(format_args!("{field}[{at}]")));
    messages.into_iter().enumerate().map(read).collect()
}

fn key(field: &str, bytes: &[u8]) -> Result<ImageKey, WireError> {
    let problem = || WireError::new(field, format!("must have 32 bytes, has {}", bytes.len()));
    bytes.try_into().map(ImageKey).map_err(|_| problem())
}

fn grid(grid: Option<wire::Grid>) -> Result<domain::Grid, WireError> {
    let wire::Grid { rows, cols } = grid.ok_or(WireError::missing("grid"))?;
    for (field, side) in [("grid.rows", rows), ("grid.cols", cols)] {
        if !(1..=MAX_SIDE).contains(&side) {
            return Err(WireError::new(field, format!("must be from 1 to {MAX_SIDE}, is {side}")));
        }
    }
    Ok(domain::Grid { rows, cols })
}

impl From<domain::Grid> for wire::Grid {
    fn from(grid: domain::Grid) -> Self {
        Self { rows: grid.rows, cols: grid.cols }
    }
}

impl From<&domain::PlacedImage> for wire::PlacedImage {
    fn from(image: &domain::PlacedImage) -> Self {
        Self { key: image.key.0.to_vec().into(), at: image.at, grid: Some(image.grid.into()) }
    }
}

impl TryFrom<wire::PlacedImage> for domain::PlacedImage {
    type Error = WireError;

    fn try_from(image: wire::PlacedImage) -> Result<Self, WireError> {
        Ok(Self { key: key("key", &image.key)?, at: image.at, grid: grid(image.grid)? })
    }
}

impl From<domain::ImageEncode> for wire::ImagePixels {
    fn from(image: domain::ImageEncode) -> Self {
        Self { key: image.key.0.to_vec().into(), grid: Some(image.grid.into()), pixels: image.pixels }
    }
}

impl TryFrom<wire::ImagePixels> for domain::ImageEncode {
    type Error = WireError;

    fn try_from(image: wire::ImagePixels) -> Result<Self, WireError> {
        Ok(Self { key: key("key", &image.key)?, grid: grid(image.grid)?, pixels: image.pixels })
    }
}

impl From<&domain::SamplingParams> for wire::SamplingParams {
    fn from(params: &domain::SamplingParams) -> Self {
        Self {
            temperature: params.temperature,
            top_p: params.top_p,
            top_k: params.top_k,
            min_p: params.min_p,
            presence_penalty: params.presence_penalty,
            frequency_penalty: params.frequency_penalty,
            repetition_penalty: params.repetition_penalty,
            seed: params.seed,
            logit_bias: params.logit_bias.iter().map(|&(token, bias)| wire::LogitBias { token: token.0, bias }).collect(),
            max_new_tokens: params.max_new_tokens,
            min_new_tokens: params.min_new_tokens,
            stop_tokens: ids(&params.stop_tokens),
            logprobs: params.logprobs.generated,
            prompt_logprobs: params.logprobs.prompt,
        }
    }
}

impl From<wire::SamplingParams> for domain::SamplingParams {
    fn from(params: wire::SamplingParams) -> Self {
        Self {
            temperature: params.temperature,
            top_p: params.top_p,
            top_k: params.top_k,
            min_p: params.min_p,
            presence_penalty: params.presence_penalty,
            frequency_penalty: params.frequency_penalty,
            repetition_penalty: params.repetition_penalty,
            seed: params.seed,
            logit_bias: params.logit_bias.into_iter().map(|bias| (TokenId(bias.token), bias.bias)).collect(),
            max_new_tokens: params.max_new_tokens,
            min_new_tokens: params.min_new_tokens,
            stop_tokens: tokens(params.stop_tokens),
            logprobs: domain::Logprobs { generated: params.logprobs, prompt: params.prompt_logprobs },
        }
    }
}

impl From<&domain::TokenLogprob> for wire::TokenLogprob {
    fn from(entry: &domain::TokenLogprob) -> Self {
        let (top_tokens, top_logprobs) = entry.top.iter().map(|&(token, logprob)| (token.0, logprob)).unzip();
        Self { token: entry.token.0, logprob: entry.logprob, top_tokens, top_logprobs }
    }
}

impl From<wire::TokenLogprob> for domain::TokenLogprob {
    fn from(entry: wire::TokenLogprob) -> Self {
        let top = entry.top_tokens.into_iter().map(TokenId).zip(entry.top_logprobs).collect();
        Self { token: TokenId(entry.token), logprob: entry.logprob, top }
    }
}

impl From<domain::StepPlan> for wire::StepPlan {
    fn from(plan: domain::StepPlan) -> Self {
        Self {
            epoch: plan.epoch.0,
            step: plan.step.0,
            end: plan.end.iter().map(|sequence| sequence.0).collect(),
            forget_images: plan.forget_images.iter().map(|key| key.0.to_vec().into()).collect(),
            start: plan.start.iter().map(Into::into).collect(),
            encode: plan.encode.into_iter().map(Into::into).collect(),
            chunks: plan.chunks.iter().map(Into::into).collect(),
        }
    }
}

impl TryFrom<wire::StepPlan> for domain::StepPlan {
    type Error = WireError;

    fn try_from(plan: wire::StepPlan) -> Result<Self, WireError> {
        let forgotten = plan.forget_images.iter().enumerate();
        Ok(Self {
            epoch: Epoch(plan.epoch),
            step: StepId(plan.step),
            end: plan.end.into_iter().map(SequenceId).collect(),
            forget_images: forgotten.map(|(at, bytes)| key(&format!("forget_images[{at}]"), bytes)).collect::<Result<_, _>>()?,
            start: each("start", plan.start)?,
            encode: each("encode", plan.encode)?,
            chunks: plan.chunks.into_iter().map(Into::into).collect(),
        })
    }
}

impl From<&domain::SequenceStart> for wire::SequenceStart {
    fn from(start: &domain::SequenceStart) -> Self {
        Self {
            sequence: start.sequence.0,
            tokens: ids(&start.tokens),
            prompt_len: start.prompt_len,
            images: start.images.iter().map(Into::into).collect(),
            sampling: Some((&start.sampling).into()),
        }
    }
}

impl TryFrom<wire::SequenceStart> for domain::SequenceStart {
    type Error = WireError;

    fn try_from(start: wire::SequenceStart) -> Result<Self, WireError> {
        Ok(Self {
            sequence: SequenceId(start.sequence),
            tokens: tokens(start.tokens),
            prompt_len: start.prompt_len,
            images: each("images", start.images)?,
            sampling: start.sampling.ok_or(WireError::missing("sampling"))?.into(),
        })
    }
}

impl From<&domain::Chunk> for wire::Chunk {
    fn from(chunk: &domain::Chunk) -> Self {
        Self {
            sequence: chunk.sequence.0,
            start: chunk.start,
            len: chunk.len,
            new_blocks: chunk.new_blocks.iter().map(|block| block.0).collect(),
            sample: chunk.sample,
        }
    }
}

impl From<wire::Chunk> for domain::Chunk {
    fn from(chunk: wire::Chunk) -> Self {
        Self {
            sequence: SequenceId(chunk.sequence),
            start: chunk.start,
            len: chunk.len,
            new_blocks: chunk.new_blocks.into_iter().map(BlockId).collect(),
            sample: chunk.sample,
        }
    }
}

impl From<&domain::StepOutput> for wire::StepOutput {
    fn from(output: &domain::StepOutput) -> Self {
        let timings = output.timings;
        Self {
            sampled: output.sampled.iter().map(Into::into).collect(),
            prompt_logprobs: output.prompt_logprobs.iter().map(Into::into).collect(),
            timings: Some(wire::StepTimings {
                encode_us: timings.encode_us,
                forward_us: timings.forward_us,
                sample_us: timings.sample_us,
                collective_us: timings.collective_us,
            }),
            broken: output.broken.iter().map(|sequence| sequence.0).collect(),
        }
    }
}

impl wire::StepOutput {
    /// The domain's output; epoch and step stand in the message around this one.
    pub fn into_domain(self, epoch: Epoch, step: StepId) -> domain::StepOutput {
        let timings = self.timings.unwrap_or_default();
        domain::StepOutput {
            epoch,
            step,
            sampled: self.sampled.into_iter().map(Into::into).collect(),
            prompt_logprobs: self.prompt_logprobs.into_iter().map(Into::into).collect(),
            broken: self.broken.into_iter().map(SequenceId).collect(),
            timings: domain::StepTimings {
                encode_us: timings.encode_us,
                forward_us: timings.forward_us,
                sample_us: timings.sample_us,
                collective_us: timings.collective_us,
            },
        }
    }
}

impl From<&domain::Sampled> for wire::Sampled {
    fn from(sampled: &domain::Sampled) -> Self {
        Self { sequence: sampled.sequence.0, token: sampled.token.0, logprob: sampled.logprob.as_ref().map(Into::into) }
    }
}

impl From<wire::Sampled> for domain::Sampled {
    fn from(sampled: wire::Sampled) -> Self {
        Self { sequence: SequenceId(sampled.sequence), token: TokenId(sampled.token), logprob: sampled.logprob.map(Into::into) }
    }
}

impl From<&domain::PromptLogprobs> for wire::StepPromptLogprobs {
    fn from(entry: &domain::PromptLogprobs) -> Self {
        Self { sequence: entry.sequence.0, start: entry.start, tokens: entry.tokens.iter().map(Into::into).collect() }
    }
}

impl From<wire::StepPromptLogprobs> for domain::PromptLogprobs {
    fn from(entry: wire::StepPromptLogprobs) -> Self {
        Self {
            sequence: SequenceId(entry.sequence),
            start: entry.start,
            tokens: entry.tokens.into_iter().map(Into::into).collect(),
        }
    }
}

#[cfg(test)]
mod tests;
