//! `tessera demo`: a small model that has learned something, served as a large one would be.

mod picture;

use std::{
    fs,
    io::{Cursor, Write, stdout},
    path::Path,
    time::Duration,
};

use anyhow::{Context, Result};
use image::{ImageFormat, RgbImage};
use rand::{SeedableRng, rngs::StdRng};
use tessera_proto::v1;

use self::picture::Puzzle;
use crate::{
    cli::DemoArgs,
    client::{self, Outcome, image, message, text},
    cluster::LocalCluster,
};

/// Runs the demo; true when the answer is right.
pub(crate) async fn run(args: DemoArgs) -> Result<bool> {
    let seed = args.seed.unwrap_or_else(rand::random);
    let puzzle = Puzzle::draw(&mut StdRng::seed_from_u64(seed));
    let file = encode(&puzzle.picture)?;
    save(&args.picture, &file)?;
    let cluster = LocalCluster::for_demo(&args.model, args.tp).await?;
    let picture = std::path::absolute(&args.picture).unwrap_or(args.picture);
    print(&format!("picture   {} ({} x {}, seed {seed})\n", picture.display(), puzzle.picture.width(), puzzle.picture.height()))?;
    print(&format!("question  {}\nexpected  {}\nanswer    ", puzzle.question, puzzle.answer))?;
    let mut client = client::connect(&cluster.grpc_address(), None).await?;
    let outcome = client::run(&mut client, request(file, &puzzle.question), |delta| {
        // Nothing is lost when the terminal is gone; the exit code still tells.
        let _ = print(delta);
    })
    .await?;
    print(&format!("\n{}", summary(&outcome)))?;
    cluster.stop().await?;
    let right = outcome.text.trim() == puzzle.answer;
    print(if right { "right\n" } else { "wrong\n" })?;
    Ok(right)
}

fn request(file: Vec<u8>, question: &str) -> v1::GenerateRequest {
    let messages = vec![message("user", vec![image(file), text(question)])];
    v1::GenerateRequest {
        input: Some(v1::generate_request::Input::Messages(v1::Messages { messages })),
        sampling: Some(v1::Sampling { temperature: Some(0.0), max_new_tokens: Some(64), ..Default::default() }),
        ..Default::default()
    }
}

fn summary(outcome: &Outcome) -> String {
    let usage = &outcome.usage;
    let timings = usage.timings.unwrap_or_default();
    let ms = |us: u64| us as f64 / 1e3;
    let decode = Duration::from_micros(timings.decode_us).as_secs_f64();
    // A handful of tokens tells nothing about speed.
    let gaps = usage.generated_tokens.saturating_sub(1);
    let rate = if gaps >= 4 && decode > 0.0 { format!(", then {:.0} tokens/s", f64::from(gaps) / decode) } else { String::new() };
    format!(
        "tokens    {} prompt ({} of the picture), {} generated\n\
         speed     first token after {:.1} ms{rate}\n\
         stages    image {:.1} ms, queue {:.1}, encode {:.1}, prefill {:.1}, decode {:.1}\n",
        usage.prompt_tokens,
        usage.image_tokens,
        usage.generated_tokens,
        outcome.first_token.unwrap_or_default().as_secs_f64() * 1e3,
        ms(timings.image_fetch_us + timings.image_decode_us),
        ms(timings.queue_us),
        ms(timings.encode_us),
        ms(timings.prefill_us),
        ms(timings.decode_us),
    )
}

fn encode(picture: &RgbImage) -> Result<Vec<u8>> {
    let mut file = Cursor::new(Vec::new());
    picture.write_to(&mut file, ImageFormat::Png).context("cannot encode the picture")?;
    Ok(file.into_inner())
}

fn save(path: &Path, file: &[u8]) -> Result<()> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).with_context(|| format!("cannot make the folder {}", folder.display()))?;
    }
    fs::write(path, file).with_context(|| format!("cannot write the picture {}", path.display()))
}

fn print(text: &str) -> Result<()> {
    let mut out = stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).context("cannot write to the terminal")
}
