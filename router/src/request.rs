//! What a client asks for, whichever front it came by: nothing is checked and no default is filled in yet.

use bytes::Bytes;
use tokio::time::Instant;

use crate::trace::Trace;

/// A request as it was read.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    /// The model asked for; empty for the one served.
    pub(crate) model: String,
    /// Names the request in logs and traces; made up when empty.
    pub(crate) id: String,
    /// What to continue.
    pub(crate) input: Option<Input>,
    /// How tokens are chosen.
    pub(crate) sampling: RawSampling,
    /// Requests of higher priority leave the queue first.
    pub(crate) priority: i32,
    /// Deltas carry token ids, and `accepted` the prompt's.
    pub(crate) return_token_ids: bool,
    /// When the router first heard of it.
    pub(crate) arrived: Instant,
    /// When the client stops waiting, if it said so.
    pub(crate) deadline: Option<Instant>,
    /// The trace that the request is part of.
    pub(crate) trace: Trace,
}

/// What a request continues.
#[derive(Clone, Debug)]
pub(crate) enum Input {
    /// A conversation, laid out by the server.
    Messages(Vec<Message>),
    /// Plain text, behind a begin token.
    Text(String),
    /// Token ids as they are.
    Tokens {
        /// The prompt.
        ids: Vec<u32>,
        /// One for each run of image rows in `ids`, in order.
        images: Vec<ImageSource>,
    },
}

/// One turn of a conversation.
#[derive(Clone, Debug)]
pub(crate) struct Message {
    /// `system`, `user` or `assistant`, unless the client erred.
    pub(crate) role: String,
    /// What it says.
    pub(crate) content: Content,
}

/// A message's content. A lone text is laid out differently from a list with one text in it.
#[derive(Clone, Debug)]
pub(crate) enum Content {
    /// Given as a string.
    Text(String),
    /// Given as a list of parts, in order.
    Parts(Vec<Part>),
}

/// A part of a message.
#[derive(Clone, Debug)]
pub(crate) enum Part {
    /// Text; never parsed for control tokens.
    Text(String),
    /// An image.
    Image(ImageSource),
    /// A part that says nothing, which only the wire can express.
    Empty,
}

/// Where an image comes from.
#[derive(Clone, Debug)]
pub(crate) struct ImageSource {
    /// Its bytes, or where they are.
    pub(crate) data: ImageData,
    /// The type the client claims; checked against the content when not empty.
    pub(crate) mime: String,
}

/// An image's bytes, or where they are.
#[derive(Clone, Debug)]
pub(crate) enum ImageData {
    /// A file's content.
    Bytes(Bytes),
    /// To be fetched, where the server allows that.
    Url(String),
    /// `data:image/png;base64,…`
    DataUri(String),
    /// Not given.
    Missing,
}

/// Sampling parameters as given; what is `None` takes its default when the request is resolved.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct RawSampling {
    /// 0 is greedy.
    pub(crate) temperature: Option<f32>,
    /// Probability mass to keep.
    pub(crate) top_p: Option<f32>,
    /// Tokens to keep; 0 keeps all.
    pub(crate) top_k: Option<u32>,
    /// Share of the best token's probability to keep.
    pub(crate) min_p: Option<f32>,
    /// Off every token already generated.
    pub(crate) presence_penalty: Option<f32>,
    /// Off a generated token, for each time.
    pub(crate) frequency_penalty: Option<f32>,
    /// Divides or multiplies logits of tokens seen.
    pub(crate) repetition_penalty: Option<f32>,
    /// Source of randomness; sequence i uses `seed + i`.
    pub(crate) seed: Option<u64>,
    /// Sequences to make.
    pub(crate) n: Option<u32>,
    /// Added to logits.
    pub(crate) logit_bias: Vec<(u32, f32)>,
    /// Tokens to generate at most.
    pub(crate) max_new_tokens: Option<u32>,
    /// Tokens to generate at least.
    pub(crate) min_new_tokens: Option<u32>,
    /// Texts that end a sequence.
    pub(crate) stop: Vec<String>,
    /// Tokens that end a sequence.
    pub(crate) stop_token_ids: Vec<u32>,
    /// Whether the text that ended a sequence is part of the answer.
    pub(crate) include_stop: Option<bool>,
    /// Go on past the end token.
    pub(crate) ignore_eos: Option<bool>,
    /// Alternatives to report for each generated token.
    pub(crate) logprobs: Option<u32>,
    /// Alternatives to report for each prompt token.
    pub(crate) prompt_logprobs: Option<u32>,
}

/// The longest name a client may give its request.
const MAX_ID: usize = 128;

/// Whether a client's name for its request is fit for headers and logs.
pub(crate) fn is_fit_id(id: &str) -> bool {
    (1..=MAX_ID).contains(&id.len()) && id.bytes().all(|byte| byte.is_ascii_graphic())
}

impl Message {
    /// The images among the parts, each with the part's position.
    fn images(&self) -> impl Iterator<Item = (usize, &ImageSource)> {
        let parts = match &self.content {
            Content::Text(_) => &[][..],
            Content::Parts(parts) => parts,
        };
        parts.iter().enumerate().filter_map(|(at, part)| match part {
            Part::Image(image) => Some((at, image)),
            Part::Text(_) | Part::Empty => None,
        })
    }
}

impl Input {
    /// The images in order, each with its path as the API names it.
    pub(crate) fn images(&self) -> Vec<(String, &ImageSource)> {
        match self {
            Self::Messages(messages) => {
                let named = messages.iter().enumerate().flat_map(|(m, message)| {
                    message.images().map(move |(part, image)| (format!("messages[{m}].parts[{part}].image"), image))
                });
                named.collect()
            }
            Self::Text(_) => Vec::new(),
            Self::Tokens { images, .. } => {
                images.iter().enumerate().map(|(at, image)| (format!("tokens.images[{at}]"), image)).collect()
            }
        }
    }
}

impl Input {
    /// Takes the images' data out, in order, each with its path; what stays says where they stand.
    pub(crate) fn take_images(&mut self) -> Vec<(String, ImageSource)> {
        let fields: Vec<_> = self.images().into_iter().map(|(field, _)| field).collect();
        let sources: Vec<_> = match self {
            Self::Messages(messages) => messages.iter_mut().flat_map(Message::images_mut).collect(),
            Self::Text(_) => Vec::new(),
            Self::Tokens { images, .. } => images.iter_mut().collect(),
        };
        let blank = || ImageSource { data: ImageData::Missing, mime: String::new() };
        fields.into_iter().zip(sources).map(|(field, image)| (field, std::mem::replace(image, blank()))).collect()
    }

    /// The input's field in the gRPC API.
    pub(crate) fn field(&self) -> &'static str {
        match self {
            Self::Messages(_) => "messages",
            Self::Text(_) => "text",
            Self::Tokens { .. } => "tokens",
        }
    }

    /// What it takes in memory, roughly: its text, its ids, its images as they came.
    pub(crate) fn bytes(&self) -> usize {
        let images: usize = self.images().iter().map(|(_, image)| image.data.bytes()).sum();
        images + self.text_bytes()
    }

    /// Bytes of text, or of token ids.
    pub(crate) fn text_bytes(&self) -> usize {
        match self {
            Self::Messages(messages) => messages.iter().map(Message::text_bytes).sum(),
            Self::Text(text) => text.len(),
            Self::Tokens { ids, .. } => size_of_val(&ids[..]),
        }
    }
}

impl Message {
    fn images_mut(&mut self) -> impl Iterator<Item = &mut ImageSource> {
        let parts = match &mut self.content {
            Content::Text(_) => &mut [][..],
            Content::Parts(parts) => parts,
        };
        parts.iter_mut().filter_map(|part| match part {
            Part::Image(image) => Some(image),
            Part::Text(_) | Part::Empty => None,
        })
    }

    fn text_bytes(&self) -> usize {
        match &self.content {
            Content::Text(text) => text.len(),
            Content::Parts(parts) => parts.iter().map(|part| if let Part::Text(text) = part { text.len() } else { 0 }).sum(),
        }
    }
}

impl ImageData {
    fn bytes(&self) -> usize {
        match self {
            Self::Bytes(bytes) => bytes.len(),
            Self::DataUri(uri) => uri.len(),
            Self::Url(_) | Self::Missing => 0,
        }
    }
}
