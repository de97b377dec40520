//! The layout of a conversation in tokens, as mistral-common's v3 instruct tokenizer makes it.

use tessera_types::{Grid, TokenId, special};

use crate::Tokenizer;

/// Who speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Instructions; laid out before the last user message.
    System,
    /// The person.
    User,
    /// The model.
    Assistant,
}

impl Role {
    fn name(self) -> &'static str {
        match self {
            Self::System => "system",
            Self::User => "user",
            Self::Assistant => "assistant",
        }
    }
}

/// A part of a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Part {
    /// Text; never parsed for control tokens.
    Text(String),
    /// An image of so many patches.
    Image(Grid),
}

/// One turn.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// Who speaks.
    pub role: Role,
    /// What is said, in order.
    pub parts: Vec<Part>,
}

/// A conversation in tokens.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Layout {
    /// The prompt.
    pub tokens: Vec<TokenId>,
    /// For each image, in the order of their tokens: its number among the messages' images, counted from 0, and the position of its first token.
    pub images: Vec<(usize, usize)>,
}

/// A conversation that has no layout.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {problem}")]
pub struct LayoutError {
    /// What is at fault: `messages`, `messages[2].role`, `messages[0].parts[1]`.
    pub field: String,
    /// What is wrong with it.
    pub problem: String,
}

/// The tokens of an image: `[IMG]`s row by row, each row ended by `[IMG_BREAK]`, the last by `[IMG_END]`.
pub fn image_tokens(grid: Grid) -> impl Iterator<Item = TokenId> {
    let last = grid.tokens().saturating_sub(1);
    (0..grid.tokens()).map(move |offset| match grid.feature_of(offset) {
        Some(_) => special::IMAGE,
        None if offset == last => special::IMAGE_END,
        None => special::IMAGE_BREAK,
    })
}

/// Lays a conversation out for the model to answer.
pub fn lay_out(messages: &[Message], tokenizer: &Tokenizer) -> Result<Layout, LayoutError> {
    check(messages)?;
    let system = system_prompt(messages);
    let turns = turns(messages);
    let last_user = turns.iter().rposition(|turn| turn.role == Role::User);
    let mut layout = Layout { tokens: vec![special::BEGIN], images: Vec::new() };
    for (index, turn) in turns.iter().enumerate() {
        match turn.role {
            Role::User => {
                let system = system.as_deref().filter(|_| Some(index) == last_user);
                layout.tokens.push(special::BEGIN_INST);
                layout.user(&turn.chunks, system, tokenizer);
                layout.tokens.push(special::END_INST);
            }
            _ => {
                let text: String = turn.chunks.iter().filter_map(Chunk::text).collect();
                layout.tokens.extend(tokenizer.encode(text.trim_end_matches(' ')));
                layout.tokens.push(special::END);
            }
        }
    }
    Ok(layout)
}

fn check(messages: &[Message]) -> Result<(), LayoutError> {
    let wrong = |field: String, problem: &str| Err(LayoutError { field, problem: problem.to_owned() });
    let (Some(first), Some(last)) = (messages.first(), messages.last()) else {
        return wrong("messages".into(), "must not be empty");
    };
    if messages.len() == 1 && first.role == Role::Assistant {
        return wrong("messages[0].role".into(), "a conversation begins with a user or system message");
    }
    if last.role == Role::Assistant {
        return wrong(format!("messages[{}].role", messages.len() - 1), "the last message must not be the assistant's");
    }
    for (index, message) in messages.iter().enumerate() {
        if index > 0 && messages[index - 1].role == Role::Assistant && message.role == Role::System {
            return wrong(format!("messages[{index}].role"), "a system message must not follow an assistant message");
        }
        if message.role != Role::User
            && let Some(part) = message.parts.iter().position(|part| matches!(part, Part::Image(_)))
        {
            let problem = format!("a {} message must not hold an image", message.role.name());
            return wrong(format!("messages[{index}].parts[{part}]"), &problem);
        }
        let says_nothing = message.parts.iter().all(|part| matches!(part, Part::Text(text) if text.is_empty()));
        if message.parts.is_empty() || (says_nothing && message.role != Role::System) {
            return wrong(format!("messages[{index}]"), "must not be empty");
        }
    }
    Ok(())
}

/// All system messages that say something, joined.
fn system_prompt(messages: &[Message]) -> Option<String> {
    let systems = messages.iter().filter(|message| message.role == Role::System);
    let texts: Vec<String> = systems
        .map(|message| {
            let texts = message.parts.iter().filter_map(|part| match part {
                Part::Text(text) if !text.is_empty() => Some(text.as_str()),
                _ => None,
            });
            texts.collect::<Vec<_>>().join("\n\n")
        })
        .filter(|text| !text.is_empty())
        .collect();
    (!texts.is_empty()).then(|| texts.join("\n\n"))
}

/// Adjacent messages of one role, as one.
struct Turn {
    role: Role,
    chunks: Vec<Chunk>,
}

#[derive(Clone)]
enum Chunk {
    Text(String),
    /// An image and its number among all.
    Image(Grid, usize),
}

impl Chunk {
    fn text(&self) -> Option<&str> {
        match self {
            Self::Text(text) => Some(text),
            Self::Image(..) => None,
        }
    }
}

/// Turns of user and assistant. System messages are no turns, but they part turns; the first turn is always the user's.
fn turns(messages: &[Message]) -> Vec<Turn> {
    let mut turns: Vec<Turn> = Vec::new();
    let mut images = 0;
    let mut previous = None;
    for message in messages {
        if message.role != Role::System {
            if previous != Some(message.role) {
                turns.push(Turn { role: message.role, chunks: Vec::new() });
            }
            if let Some(turn) = turns.last_mut() {
                message.parts.iter().for_each(|part| turn.push(part, &mut images));
            }
        }
        previous = Some(message.role);
    }
    if turns.first().is_none_or(|turn| turn.role != Role::User) {
        turns.insert(0, Turn { role: Role::User, chunks: Vec::new() });
    }
    turns
}

impl Turn {
    /// Adds a part; adjacent texts join, empty ones say nothing.
    fn push(&mut self, part: &Part, images: &mut usize) {
        match (part, self.chunks.last_mut()) {
            (Part::Image(grid), _) => {
                self.chunks.push(Chunk::Image(*grid, *images));
                *images += 1;
            }
            (Part::Text(text), _) if text.is_empty() => {}
            (Part::Text(text), Some(Chunk::Text(before))) => {
                before.push_str("\n\n");
                before.push_str(text);
            }
            (Part::Text(text), _) => self.chunks.push(Chunk::Text(text.clone())),
        }
    }
}

impl Layout {
    fn user(&mut self, chunks: &[Chunk], system: Option<&str>, tokenizer: &Tokenizer) {
        let has_image = chunks.iter().any(|chunk| matches!(chunk, Chunk::Image(..)));
        if !has_image {
            // Text alone is encoded in one piece, the system prompt with it.
            let system = system.map(|system| format!("{system}\n\n")).unwrap_or_default();
            let text: String = chunks.iter().filter_map(Chunk::text).collect();
            self.tokens.extend(tokenizer.encode(&(system + &text)));
            return;
        }
        if let Some(system) = system {
            self.tokens.extend(tokenizer.encode(&format!("{system}\n\n")));
        }
        for chunk in image_first(chunks) {
            match chunk {
                Chunk::Text(text) => self.tokens.extend(tokenizer.encode(text)),
                Chunk::Image(grid, number) => {
                    self.images.push((*number, self.tokens.len()));
                    self.tokens.extend(image_tokens(*grid));
                }
            }
        }
    }
}

/// A lone image behind text alone moves to the front: what the model was trained on.
fn image_first(chunks: &[Chunk]) -> impl Iterator<Item = &Chunk> {
    let alone = matches!(chunks, [texts @ .., Chunk::Image(..)] if texts.iter().all(|chunk| chunk.text().is_some()));
    let split = if alone { chunks.len() - 1 } else { 0 };
    let (front, back) = chunks.split_at(split);
    back.iter().chain(front)
}
