//! A request's input as prompt tokens, with its images' places.

use tessera_prompt::{Message as Turn, Part as Piece, Role, image_tokens};
use tessera_types::{Grid, TokenId, special};

use crate::{
    RequestError,
    model::Model,
    request::{Content, Input, Message, Part},
};

/// A prompt in tokens.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Layout {
    /// The prompt.
    pub(crate) tokens: Vec<TokenId>,
    /// In order of position: which of the input's images, and where its first token stands.
    pub(crate) images: Vec<(usize, u32)>,
}

/// What can be told about an input before its images are looked at.
pub(crate) fn check(input: &Input, model: &Model) -> Result<(), RequestError> {
    if let Input::Messages(messages) = input {
        for (at, message) in messages.iter().enumerate() {
            role(at, message)?;
            if let Content::Parts(parts) = &message.content
                && let Some(part) = parts.iter().position(|part| matches!(part, Part::Empty))
            {
                return Err(RequestError::invalid(format!("messages[{at}].parts[{part}]"), "must be text or an image"));
            }
        }
    }
    match input.images().first() {
        Some((field, _)) if model.spec.vision.is_none() => {
            Err(RequestError::invalid(field, format!("`{}` has no vision encoder: it takes text only", model.name)))
        }
        _ => Ok(()),
    }
}

/// Lays an input out; `grids` are its images' patches, in order.
pub(crate) fn lay_out(model: &Model, input: &Input, grids: &[Grid]) -> Result<Layout, RequestError> {
    let layout = match input {
        Input::Messages(messages) => conversation(model, messages, grids)?,
        Input::Text(text) => {
            let mut tokens = vec![special::BEGIN];
            tokens.extend(model.tokenizer.encode(text));
            Layout { tokens, images: Vec::new() }
        }
        Input::Tokens { ids, .. } => tokens(model, ids, grids)?,
    };
    let vocabulary = model.spec.decoder.vocab_size;
    match layout.tokens.iter().find(|token| token.0 as usize >= vocabulary) {
        Some(token) => Err(RequestError::internal(format!("the tokenizer made token {token} for a vocabulary of {vocabulary}"))),
        None => Ok(layout),
    }
}

fn conversation(model: &Model, messages: &[Message], grids: &[Grid]) -> Result<Layout, RequestError> {
    let mut grids = grids.iter().copied();
    let mut turns = Vec::with_capacity(messages.len());
    for (at, message) in messages.iter().enumerate() {
        let parts = match &message.content {
            Content::Text(text) => vec![Piece::Text(text.clone())],
            Content::Parts(parts) => parts.iter().filter_map(|part| piece(part, &mut grids)).collect(),
        };
        turns.push(Turn { role: role(at, message)?, parts });
    }
    let layout = tessera_prompt::lay_out(&turns, &model.tokenizer);
    let layout = layout.map_err(|error| RequestError::invalid(error.field, error.problem))?;
    let images = layout.images.into_iter().map(|(image, at)| (image, at as u32)).collect();
    Ok(Layout { tokens: layout.tokens, images })
}

fn piece(part: &Part, grids: &mut impl Iterator<Item = Grid>) -> Option<Piece> {
    match part {
        Part::Text(text) => Some(Piece::Text(text.clone())),
        Part::Image(_) => grids.next().map(Piece::Image),
        Part::Empty => None,
    }
}

fn role(at: usize, message: &Message) -> Result<Role, RequestError> {
    match message.role.as_str() {
        "system" => Ok(Role::System),
        "user" => Ok(Role::User),
        "assistant" => Ok(Role::Assistant),
        other => {
            let problem =
                format!("must be `system`, `user` or `assistant`, got `{}`", other.chars().take(40).collect::<String>());
            Err(RequestError::invalid(format!("messages[{at}].role"), problem))
        }
    }
}

/// Token ids as they are. Each image's tokens must stand where it is put, as many as it has.
fn tokens(model: &Model, ids: &[u32], grids: &[Grid]) -> Result<Layout, RequestError> {
    if ids.is_empty() {
        return Err(RequestError::invalid("tokens.ids", "must not be empty"));
    }
    let vocabulary = model.spec.decoder.vocab_size;
    if let Some(at) = ids.iter().position(|&id| id as usize >= vocabulary) {
        let problem = format!("{} is outside the vocabulary of {vocabulary}", ids[at]);
        return Err(RequestError::invalid(format!("tokens.ids[{at}]"), problem));
    }
    let tokens: Vec<TokenId> = ids.iter().copied().map(TokenId).collect();
    let mut images = Vec::with_capacity(grids.len());
    let mut from = 0;
    for (image, &grid) in grids.iter().enumerate() {
        let at = next_image(&tokens, from);
        let stands = at.is_some_and(|at| {
            tokens[at..].len() >= grid.tokens() && tokens[at..].iter().copied().zip(image_tokens(grid)).all(|(a, b)| a == b)
        });
        let Some(at) = at.filter(|_| stands) else {
            let problem =
                format!("has {} by {} patches, but the ids do not hold its {} tokens", grid.rows, grid.cols, grid.tokens());
            return Err(RequestError::invalid(format!("tokens.images[{image}]"), problem));
        };
        images.push((image, at as u32));
        from = at + grid.tokens();
    }
    match next_image(&tokens, from) {
        Some(at) => Err(RequestError::invalid(format!("tokens.ids[{at}]"), "is an [IMG] without an image")),
        None => Ok(Layout { tokens, images }),
    }
}

fn next_image(tokens: &[TokenId], from: usize) -> Option<usize> {
    tokens[from..].iter().position(|&token| token == special::IMAGE).map(|at| from + at)
}
