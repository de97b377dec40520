//! From a request as it was read to one that a replica can run.
//!
//! What is cheap comes first: names, ranges and counts, then image headers, from which the whole prompt's length
//! follows; images are decoded only for a prompt that fits.

use std::{collections::HashSet, sync::Arc};

use tessera_prompt::Tokenizer;
use tessera_types::{Grid, ImageEncode, ImageKey, PlacedImage, TokenId};
use tokio::time::Instant;

use crate::{
    Limits, RequestError, RouterConfig,
    admission::Permit,
    event::{Timings, Usage},
    layout::{Layout, check, lay_out},
    media::{Media, Probed},
    metrics::Metrics,
    model::Model,
    request::{Input, Request, is_fit_id},
    resolve::{Resolved, resolve},
    trace::Trace,
    workers::Workers,
};

/// A request that a replica can run.
pub(crate) struct Prepared {
    /// Its name.
    pub(crate) id: String,
    /// The prompt.
    pub(crate) tokens: Vec<TokenId>,
    /// Where its images stand.
    pub(crate) images: Vec<PlacedImage>,
    /// Their pixels, one for each distinct image.
    pub(crate) pixels: Vec<ImageEncode>,
    /// Tokens of the prompt that are images'.
    pub(crate) image_tokens: u32,
    /// How its sequences are sampled and ended.
    pub(crate) resolved: Resolved,
    /// Its rank in the queue.
    pub(crate) priority: i32,
    /// Whether token ids are to be told.
    pub(crate) return_token_ids: bool,
    /// When it came.
    pub(crate) arrived: Instant,
    /// When it must be over.
    pub(crate) deadline: Instant,
    /// What was spent on it already.
    pub(crate) timings: Timings,
    /// The trace it is part of.
    pub(crate) trace: Trace,
    /// What its tokens mean.
    pub(crate) tokenizer: Arc<Tokenizer>,
    /// Its share of what the router takes on.
    pub(crate) _permit: Permit,
}

impl Prepared {
    /// Whether log-probabilities of generated tokens are to be told.
    pub(crate) fn wants_logprobs(&self) -> bool {
        self.resolved.sequences.first().is_some_and(|params| params.logprobs.generated.is_some())
    }

    /// Whether deltas say which tokens came.
    pub(crate) fn tells_tokens(&self) -> bool {
        self.return_token_ids || self.wants_logprobs()
    }

    /// Tokens that its longest sequence may come to.
    pub(crate) fn context(&self) -> usize {
        let longest = self.resolved.sequences.iter().map(|params| params.max_new_tokens).max();
        self.tokens.len() + longest.unwrap_or(0) as usize
    }

    /// Microseconds since it came.
    pub(crate) fn elapsed_us(&self) -> u64 {
        self.arrived.elapsed().as_micros() as u64
    }

    /// What it takes before anything is generated.
    pub(crate) fn usage(&self) -> Usage {
        Usage {
            prompt_tokens: self.tokens.len() as u32,
            image_tokens: self.image_tokens,
            images: self.images.len() as u32,
            timings: self.timings,
            generated_tokens: 0,
            cached_prompt_tokens: 0,
        }
    }
}

/// What a dry run finds.
pub(crate) struct Count {
    /// Tokens of the prompt, images included.
    pub(crate) prompt_tokens: usize,
    /// Every image's cost: width and height as given, and patches as encoded.
    pub(crate) images: Vec<(u32, u32, Grid)>,
    /// Tokens of prompt and answer at most.
    pub(crate) max_context: usize,
}

/// Prepares requests.
pub(crate) struct Pipeline {
    model: Arc<Model>,
    limits: Limits,
    media: Media,
    workers: Workers,
    /// Bytes of text in the longest context, if every token were the longest.
    max_text: usize,
}

impl Pipeline {
    pub(crate) fn new(model: Arc<Model>, config: &RouterConfig, workers: Workers, metrics: Metrics) -> Self {
        let media = Media::new(model.spec.vision.clone(), config, workers.clone(), metrics);
        let max_text = model.spec.max_context.saturating_mul(model.tokenizer.longest_token());
        Self { model, limits: config.limits.clone(), media, workers, max_text }
    }

    /// Prepares a request. `max_context` is waited for when the prompt's length is known, and `permit` is asked before
    /// memory is taken.
    pub(crate) async fn prepare(
        &self,
        request: Request,
        permit: Permit,
        deadline: Instant,
        max_context: impl Future<Output = Result<usize, RequestError>>,
    ) -> Result<Prepared, RequestError> {
        self.model.check_name(&request.model)?;
        let id = name(request.id)?;
        let mut resolved = resolve(&request.sampling, &self.limits, self.model.spec.decoder.vocab_size)?;
        let mut input =
            request.input.ok_or_else(|| RequestError::invalid("input", "is missing: give messages, text or tokens"))?;
        check(&input, &self.model)?;
        permit.hold(input.bytes())?;
        self.can_fit(&input)?;
        let mut timings = Timings::default();
        let probed = self.probe(&mut input, &permit, &mut timings).await?;
        let grids: Vec<Grid> = probed.iter().map(|image| image.grid).collect();
        let field = input.field();
        let layout = self.lay_out(input, grids.clone()).await?;
        resolved.fit(field, layout.tokens.len(), max_context.await?)?;
        permit.hold(self.media.prepared_bytes(&probed))?;
        let started = Instant::now();
        let encodes = self.media.prepare(probed).await?;
        if !encodes.is_empty() {
            timings.image_decode_us += started.elapsed().as_micros() as u64;
        }
        let placed =
            |&(image, at): &(usize, u32)| Some(PlacedImage { key: encodes.get(image)?.key, at, grid: *grids.get(image)? });
        let images = layout.images.iter().filter_map(placed).collect();
        request.trace.name(&id);
        Ok(Prepared {
            id,
            tokens: layout.tokens,
            images,
            pixels: distinct(encodes),
            image_tokens: grids.iter().map(|grid| grid.tokens() as u32).sum(),
            resolved,
            priority: request.priority,
            return_token_ids: request.return_token_ids,
            arrived: request.arrived,
            deadline,
            timings,
            trace: request.trace,
            tokenizer: self.model.tokenizer.clone(),
            _permit: permit,
        })
    }

    /// What a prompt, and images of these sizes behind it, would cost.
    pub(crate) async fn count(
        &self,
        input: Option<Input>,
        sizes: Vec<(u32, u32)>,
        permit: &Permit,
        max_context: usize,
    ) -> Result<Count, RequestError> {
        self.few_images("image_sizes", sizes.len())?;
        let mut images = Vec::new();
        let mut prompt_tokens = 0;
        if let Some(mut input) = input {
            check(&input, &self.model)?;
            permit.hold(input.bytes())?;
            self.can_fit(&input)?;
            let probed = self.probe(&mut input, permit, &mut Timings::default()).await?;
            images.extend(probed.iter().map(|image| (image.width, image.height, image.grid)));
            let grids = images.iter().map(|&(_, _, grid)| grid).collect();
            prompt_tokens = self.lay_out(input, grids).await?.tokens.len();
        }
        for (at, (width, height)) in sizes.into_iter().enumerate() {
            let grid = self.media.grid(width, height);
            let grid = grid.map_err(|problem| RequestError::invalid(format!("image_sizes[{at}]"), problem))?;
            prompt_tokens += grid.tokens();
            images.push((width, height, grid));
        }
        Ok(Count { prompt_tokens, images, max_context })
    }

    /// Text as tokens. A long text is a matter for a thread of its own.
    pub(crate) async fn tokenize(&self, text: String, permit: &Permit) -> Result<Vec<TokenId>, RequestError> {
        permit.hold(text.len())?;
        self.text_can_fit("text", text.len())?;
        let tokenizer = self.model.tokenizer.clone();
        if text.len() < SHORT_TEXT {
            return Ok(tokenizer.encode(&text));
        }
        self.workers.run(move || tokenizer.encode(&text)).await
    }

    /// Whether any image URL is fetched.
    pub(crate) fn fetches_urls(&self) -> bool {
        self.media.fetches_urls()
    }

    async fn probe(&self, input: &mut Input, permit: &Permit, timings: &mut Timings) -> Result<Vec<Probed>, RequestError> {
        let field = input.field();
        let images = input.take_images();
        self.few_images(field, images.len())?;
        self.media.probe(images, permit, timings).await
    }

    fn few_images(&self, field: &str, images: usize) -> Result<(), RequestError> {
        let most = self.limits.max_images;
        match images > most {
            true => Err(RequestError::invalid(field, format!("has {images} images; at most {most} are taken in a request"))),
            false => Ok(()),
        }
    }

    /// Refuses what no tokenizer could make short enough, before it is tried.
    fn can_fit(&self, input: &Input) -> Result<(), RequestError> {
        match input {
            Input::Tokens { ids, .. } if ids.len() > self.model.spec.max_context => {
                Err(RequestError::prompt_too_long("tokens", ids.len(), self.model.spec.max_context))
            }
            Input::Tokens { .. } => Ok(()),
            Input::Messages(_) | Input::Text(_) => self.text_can_fit(input.field(), input.text_bytes()),
        }
    }

    fn text_can_fit(&self, field: &str, bytes: usize) -> Result<(), RequestError> {
        match bytes > self.max_text {
            true => Err(RequestError::text_too_long(field, bytes, self.max_text, self.model.spec.max_context)),
            false => Ok(()),
        }
    }

    async fn lay_out(&self, input: Input, grids: Vec<Grid>) -> Result<Layout, RequestError> {
        let model = self.model.clone();
        if input.text_bytes() < SHORT_TEXT {
            return lay_out(&model, &input, &grids);
        }
        self.workers.run(move || lay_out(&model, &input, &grids)).await?
    }
}

/// Text up to so many bytes is turned into tokens where it is, in well under a millisecond.
const SHORT_TEXT: usize = 8 << 10;

/// The client's name for its request, or one that is made up.
fn name(given: String) -> Result<String, RequestError> {
    match given.as_str() {
        "" => Ok(format!("{:032x}", rand::random::<u128>())),
        id if is_fit_id(id) => Ok(given),
        _ => Err(RequestError::invalid("request_id", "must be at most 128 printable ASCII characters without spaces")),
    }
}

/// Each image once, however often it stands in the prompt.
fn distinct(encodes: Vec<ImageEncode>) -> Vec<ImageEncode> {
    let mut seen: HashSet<ImageKey> = HashSet::new();
    encodes.into_iter().filter(|encode| seen.insert(encode.key)).collect()
}
