//! From the wire's request to the inner one.

use tessera_proto::v1::{self, count_tokens_request, generate_request, image, part};
use tokio::time::Instant;
use tonic::Request as Call;

use super::deadline;
use crate::{
    request::{Content, ImageData, ImageSource, Input, Message, Part, RawSampling, Request},
    trace::Trace,
};

/// Reads a call. Nothing can be wrong yet: what is missing is found out when the request is prepared.
pub(super) fn read(call: Call<v1::GenerateRequest>) -> Request {
    let arrived = Instant::now();
    let deadline = deadline::timeout(call.metadata()).and_then(|timeout| arrived.checked_add(timeout));
    let trace = Trace::begin(call.metadata().as_ref());
    let wire = call.into_inner();
    Request {
        model: wire.model,
        id: wire.request_id,
        input: wire.input.map(self::input),
        sampling: wire.sampling.map(sampling).unwrap_or_default(),
        priority: wire.priority,
        return_token_ids: wire.return_token_ids,
        arrived,
        deadline,
        trace,
    }
}

/// What a dry run is about.
pub(super) fn counted(input: Option<count_tokens_request::Input>) -> Option<Input> {
    input.map(|input| match input {
        count_tokens_request::Input::Messages(messages) => Input::Messages(self::messages(messages)),
        count_tokens_request::Input::Text(text) => Input::Text(text),
    })
}

fn input(input: generate_request::Input) -> Input {
    match input {
        generate_request::Input::Messages(messages) => Input::Messages(self::messages(messages)),
        generate_request::Input::Text(text) => Input::Text(text),
        generate_request::Input::Tokens(tokens) => {
            Input::Tokens { ids: tokens.ids, images: tokens.images.into_iter().map(image).collect() }
        }
    }
}

fn messages(messages: v1::Messages) -> Vec<Message> {
    messages.messages.into_iter().map(message).collect()
}

/// A message of one text is laid out as one whose content is a string: the wire has no other way to say it.
fn message(message: v1::Message) -> Message {
    let mut parts: Vec<_> = message.parts.into_iter().map(part).collect();
    let content = match parts.as_mut_slice() {
        [Part::Text(text)] => Content::Text(std::mem::take(text)),
        _ => Content::Parts(parts),
    };
    Message { role: message.role, content }
}

fn part(part: v1::Part) -> Part {
    match part.part {
        Some(part::Part::Text(text)) => Part::Text(text),
        Some(part::Part::Image(image)) => Part::Image(self::image(image)),
        None => Part::Empty,
    }
}

fn image(image: v1::Image) -> ImageSource {
    let data = match image.source {
        Some(image::Source::Data(bytes)) => ImageData::Bytes(bytes),
        Some(image::Source::Url(url)) => ImageData::Url(url),
        Some(image::Source::DataUri(uri)) => ImageData::DataUri(uri),
        None => ImageData::Missing,
    };
    ImageSource { data, mime: image.mime }
}

fn sampling(wire: v1::Sampling) -> RawSampling {
    let mut logit_bias: Vec<_> = wire.logit_bias.into_iter().collect();
    // A map has no order; the replica is given one.
    logit_bias.sort_by_key(|(token, _)| *token);
    RawSampling {
        temperature: wire.temperature,
        top_p: wire.top_p,
        top_k: wire.top_k,
        min_p: wire.min_p,
        presence_penalty: wire.presence_penalty,
        frequency_penalty: wire.frequency_penalty,
        repetition_penalty: wire.repetition_penalty,
        seed: wire.seed,
        n: wire.n,
        logit_bias,
        max_new_tokens: wire.max_new_tokens,
        min_new_tokens: wire.min_new_tokens,
        stop: wire.stop,
        stop_token_ids: wire.stop_token_ids,
        include_stop: wire.include_stop,
        ignore_eos: wire.ignore_eos,
        logprobs: wire.logprobs,
        prompt_logprobs: wire.prompt_logprobs,
    }
}
