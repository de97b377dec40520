//! A router's request, checked against the model: nothing that passes here may make a rank refuse a plan.

use std::{collections::HashSet, time::Duration};

use tessera_engine::{NewRequest, NewSequence};
use tessera_proto::{bad_request, each, internal as wire};
use tessera_types::{ImageEncode, ModelSpec, PlacedImage, SamplingParams, TokenId};
use tonic::Status;

/// A request fit to be submitted.
#[derive(Debug)]
pub(crate) struct Ask {
    pub(crate) id: String,
    pub(crate) request: NewRequest,
    /// From now.
    pub(crate) patience: Option<Duration>,
}

impl Ask {
    pub(crate) fn read(message: wire::GenerateRequest, spec: &ModelSpec) -> Result<Self, Status> {
        let vocabulary = spec.decoder.vocab_size;
        let prompt = tokens("prompt", message.prompt, vocabulary)?;
        let images: Vec<PlacedImage> = each("images", message.images)?;
        let pixels: Vec<ImageEncode> = each("pixels", message.pixels)?;
        pixels.iter().enumerate().try_for_each(|(index, image)| check_pixels(index, image, spec))?;
        if pixels.iter().map(|image| image.key).collect::<HashSet<_>>().len() < pixels.len() {
            return Err(bad_request("pixels", "has a key twice"));
        }
        let sequences = message.sequences.into_iter().enumerate();
        let sequences =
            sequences.map(|(index, sequence)| read_sequence(index, sequence, vocabulary)).collect::<Result<_, _>>()?;
        let request = NewRequest { prompt: prompt.into(), images, pixels, sequences, priority: message.priority, deadline: None };
        let patience = (message.deadline_us > 0).then(|| Duration::from_micros(message.deadline_us));
        Ok(Self { id: message.request_id, request, patience })
    }
}

fn tokens(field: &str, ids: Vec<u32>, vocabulary: usize) -> Result<Vec<TokenId>, Status> {
    match ids.iter().find(|&&id| id as usize >= vocabulary) {
        Some(id) => Err(bad_request(field, &format!("token {id} is outside the vocabulary of {vocabulary}"))),
        None => Ok(ids.into_iter().map(TokenId).collect()),
    }
}

fn read_sequence(index: usize, sequence: wire::SequenceRequest, vocabulary: usize) -> Result<NewSequence, Status> {
    let field = format!("sequences[{index}]");
    let sampling: SamplingParams = sequence.sampling.ok_or_else(|| bad_request(&field, "has no sampling parameters"))?.into();
    sampling.validate(vocabulary).map_err(|error| bad_request(error.field, &error.to_string()))?;
    Ok(NewSequence { sampling, generated: tokens(&field, sequence.generated, vocabulary)? })
}

fn check_pixels(index: usize, image: &ImageEncode, spec: &ModelSpec) -> Result<(), Status> {
    let refuse = |problem: String| Err(bad_request(&format!("image[{index}]"), &problem));
    let Some(vision) = &spec.vision else { return refuse("the model takes no images".into()) };
    let (rows, cols, limit) = (image.grid.rows, image.grid.cols, vision.max_patches_per_side());
    if rows.max(cols) as usize > limit {
        return refuse(format!("has {rows} by {cols} patches, more than {limit} a side"));
    }
    let patch = vision.channels * vision.patch_size * vision.patch_size * size_of::<f32>();
    let (got, expected) = (image.pixels.len(), image.grid.patches() * patch);
    if got != expected {
        return refuse(format!("has {got} bytes of pixels, its grid makes {expected}"));
    }
    Ok(())
}
