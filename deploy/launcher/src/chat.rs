//! `tessera chat`: a conversation in the terminal.

use std::{
    fs,
    io::{self, BufRead, Write},
    path::PathBuf,
};

use anyhow::{Context, Result};
use tessera_proto::v1;

use crate::{
    cli::ChatArgs,
    client::{self, Client, image, message, text},
};

/// Answers one prompt, or talks until end of input.
pub(crate) async fn run(args: ChatArgs) -> Result<()> {
    let mut client = client::connect(&args.router.endpoint, args.router.ca.as_deref()).await?;
    let mut history = Vec::new();
    if let Some(system) = &args.system {
        history.push(message("system", vec![text(system)]));
    }
    let mut pictures = args.image.iter().map(read_picture).collect::<Result<Vec<_>>>()?;
    if let Some(prompt) = args.prompt.clone() {
        return turn(&mut client, &args, &mut history, &mut pictures, prompt).await;
    }
    say("Ask something; /image FILE adds a picture to the next question, /quit leaves.\n")?;
    for line in io::stdin().lock().lines() {
        let line = line.context("cannot read the terminal")?;
        match line.trim() {
            "" => {}
            "/quit" => break,
            command if command.starts_with("/image") => match read_picture(&PathBuf::from(command[6..].trim())) {
                Ok(picture) => pictures.push(picture),
                Err(error) => say(&format!("{error:#}\n"))?,
            },
            command if command.starts_with('/') => say("There is /image FILE and /quit; anything else is a question.\n")?,
            prompt => {
                if let Err(error) = turn(&mut client, &args, &mut history, &mut pictures, prompt.to_owned()).await {
                    say(&format!("{error:#}\n"))?;
                }
            }
        }
    }
    Ok(())
}

/// Sends the conversation with one more question and streams the answer to the terminal.
async fn turn(
    client: &mut Client,
    args: &ChatArgs,
    history: &mut Vec<v1::Message>,
    pictures: &mut Vec<v1::Part>,
    prompt: String,
) -> Result<()> {
    let mut messages = history.clone();
    let mut parts = std::mem::take(pictures);
    parts.push(text(prompt));
    messages.push(message("user", parts));
    let request = v1::GenerateRequest {
        input: Some(v1::generate_request::Input::Messages(v1::Messages { messages: messages.clone() })),
        sampling: Some(v1::Sampling {
            temperature: Some(args.temperature),
            seed: args.seed,
            max_new_tokens: Some(args.max_tokens),
            ..Default::default()
        }),
        ..Default::default()
    };
    let outcome = client::run(client, request, |delta| {
        // A terminal that went away ends the program at the next read; there is no one left to tell.
        let _ = say(delta);
    })
    .await?;
    say("\n")?;
    if outcome.text.is_empty() {
        // The API takes no empty turn; the question stays unanswered, and is not asked again with the next.
        return say("(no answer)\n");
    }
    messages.push(message("assistant", vec![text(outcome.text)]));
    *history = messages;
    Ok(())
}

fn read_picture(path: &PathBuf) -> Result<v1::Part> {
    fs::read(path).map(image).with_context(|| format!("cannot read the picture {}", path.display()))
}

fn say(text: &str) -> Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).context("cannot write to the terminal")
}
