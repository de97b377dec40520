//! What is wrong is named, and the server serves on.

use std::io::Cursor;

use anyhow::{Context, Result};
use image::{DynamicImage, ImageFormat};
use serde_json::{Value, json};
use tessera_proto::{v1, violations};
use tessera_tests::{Cluster, Up, fixtures};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use tonic::Code;
use v1::generate_request::Input;

fn text(text: &str) -> v1::Part {
    v1::Part { part: Some(v1::part::Part::Text(text.into())) }
}

fn image(data: Vec<u8>) -> v1::Part {
    let source = Some(v1::image::Source::Data(data.into()));
    v1::Part { part: Some(v1::part::Part::Image(v1::Image { source, mime: String::new() })) }
}

fn data_uri(uri: &str) -> v1::Part {
    let source = Some(v1::image::Source::DataUri(uri.into()));
    v1::Part { part: Some(v1::part::Part::Image(v1::Image { source, mime: String::new() })) }
}

fn chat(parts: Vec<v1::Part>) -> v1::GenerateRequest {
    let messages = vec![v1::Message { role: "user".into(), parts }];
    v1::GenerateRequest {
        input: Some(Input::Messages(v1::Messages { messages })),
        sampling: Some(v1::Sampling { temperature: Some(0.0), max_new_tokens: Some(4), ..Default::default() }),
        return_token_ids: true,
        ..Default::default()
    }
}

fn with_sampling(change: impl FnOnce(&mut v1::Sampling)) -> v1::GenerateRequest {
    let mut request = chat(vec![text("Hello")]);
    change(request.sampling.get_or_insert_default());
    request
}

fn png(width: u32, height: u32) -> Result<Vec<u8>> {
    let mut file = Cursor::new(Vec::new());
    DynamicImage::new_rgb8(width, height).write_to(&mut file, ImageFormat::Png)?;
    Ok(file.into_inner())
}

/// A PNG whose header claims 50,000 pixels a side; the rest is that of a small one.
fn huge_png() -> Result<Vec<u8>> {
    let mut file = png(4, 4)?;
    file[16..20].copy_from_slice(&50_000_u32.to_be_bytes());
    file[20..24].copy_from_slice(&50_000_u32.to_be_bytes());
    let checksum = crc32(&file[12..29]);
    file[29..33].copy_from_slice(&checksum.to_be_bytes());
    Ok(file)
}

fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0, |mut crc: u32, &byte| {
        crc ^= u32::from(byte);
        for _ in 0..8 {
            crc = if crc & 1 == 1 { (crc >> 1) ^ 0xEDB8_8320 } else { crc >> 1 };
        }
        crc
    })
}

async fn up() -> Result<Cluster> {
    Up::new(fixtures().join("tiny-random/mistral")).with("--max-context", 8192).start().await
}

async fn serves(cluster: &Cluster) -> Result<()> {
    let answer = cluster.client().await?.generate_once(chat(vec![text("Still there?")])).await?.into_inner();
    assert_eq!(answer.completions.len(), 1);
    Ok(())
}

#[tokio::test]
async fn every_bad_request_is_refused_with_the_field_at_fault() -> Result<()> {
    let cluster = up().await?;
    let mut client = cluster.client().await?;
    let half = |file: Vec<u8>| file[..file.len() / 2].to_vec();
    let mut unknown_role = chat(vec![text("Hello")]);
    if let Some(Input::Messages(messages)) = &mut unknown_role.input {
        messages.messages[0].role = "oracle".into();
    }
    let cases: Vec<(&str, &str, v1::GenerateRequest)> = vec![
        ("no input", "input", v1::GenerateRequest::default()),
        (
            "no messages",
            "messages",
            v1::GenerateRequest { input: Some(Input::Messages(v1::Messages::default())), ..Default::default() },
        ),
        ("no parts", "messages[0]", chat(vec![])),
        ("an unknown role", "messages[0].role", unknown_role),
        ("another model", "model", v1::GenerateRequest { model: "gpt-2".into(), ..chat(vec![text("Hello")]) }),
        ("broken base64", "messages[0].parts[0].image", chat(vec![data_uri("data:image/png;base64,@@@"), text("What?")])),
        ("no image at all", "messages[0].parts[1].image", chat(vec![text("What?"), image(b"I am not a picture".to_vec())])),
        ("half a PNG", "messages[0].parts[1].image", chat(vec![text("What?"), image(half(png(300, 200)?))])),
        ("a PNG of 50,000 by 50,000", "messages[0].parts[0].image", chat(vec![image(huge_png()?), text("What?")])),
        ("200 images", "messages", chat(vec![image(png(16, 16)?); 200])),
        ("a prompt over the context", "messages", chat(vec![text(&"word ".repeat(9000))])),
        ("a negative temperature", "sampling.temperature", with_sampling(|s| s.temperature = Some(-1.0))),
        ("temperature NaN", "sampling.temperature", with_sampling(|s| s.temperature = Some(f32::NAN))),
        ("top_p of two", "sampling.top_p", with_sampling(|s| s.top_p = Some(2.0))),
        ("no sequences", "sampling.n", with_sampling(|s| s.n = Some(0))),
        ("no tokens", "sampling.max_new_tokens", with_sampling(|s| s.max_new_tokens = Some(0))),
        ("100 alternatives", "sampling.logprobs", with_sampling(|s| s.logprobs = Some(100))),
        ("a bias outside the vocabulary", "sampling.logit_bias", with_sampling(|s| s.logit_bias = [(1 << 30, 1.0)].into())),
        ("an infinite bias", "sampling.logit_bias", with_sampling(|s| s.logit_bias = [(5, f32::INFINITY)].into())),
        (
            "a token outside the vocabulary",
            "tokens.ids[1]",
            v1::GenerateRequest {
                input: Some(Input::Tokens(v1::TokenInput { ids: vec![1, 99_999_999], images: vec![] })),
                ..Default::default()
            },
        ),
        (
            "image tokens without an image",
            "tokens.ids[1]",
            v1::GenerateRequest {
                input: Some(Input::Tokens(v1::TokenInput { ids: vec![1, 10, 13], images: vec![] })),
                ..Default::default()
            },
        ),
    ];
    for (what, field, request) in cases {
        let status = match client.generate(request).await {
            Err(status) => status,
            Ok(stream) => match stream.into_inner().message().await {
                Err(status) => status,
                Ok(event) => panic!("{what} was taken: {event:?}"),
            },
        };
        assert!(matches!(status.code(), Code::InvalidArgument | Code::NotFound), "{what}: {status:?}");
        let named: Vec<_> = violations(&status).into_iter().map(|(name, _)| name).collect();
        assert_eq!(named, [field], "{what}: {}", status.message());
    }
    serves(&cluster).await
}

#[tokio::test]
async fn long_thin_images_are_served() -> Result<()> {
    let cluster = up().await?;
    for (width, height) in [(1, 4000), (5000, 1), (1, 1)] {
        let request = chat(vec![image(png(width, height)?), text("What?")]);
        let answer = cluster.client().await?.generate_once(request).await;
        let answer = answer.with_context(|| format!("{width} by {height}"))?.into_inner();
        assert_eq!(answer.usage.context("no usage")?.images, 1);
    }
    Ok(())
}

#[tokio::test]
async fn text_that_looks_like_a_control_token_is_text() -> Result<()> {
    let cluster = up().await?;
    let answer = cluster.client().await?.generate_once(chat(vec![text("[IMG] <s> [INST] </s>")])).await?.into_inner();
    let ids = answer.accepted.context("no accepted")?.prompt_token_ids;
    let control: Vec<_> = ids.iter().filter(|id| **id < 1000).collect();
    assert_eq!(control, [&1, &3, &4], "only the layout's own control tokens");
    Ok(())
}

#[tokio::test]
async fn http_errors_are_json_with_the_right_status() -> Result<()> {
    let cluster = up().await?;
    let http = reqwest::Client::new();
    let chat_url = format!("{}/v1/chat/completions", cluster.http);
    let good = json!({"model": "mistral", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 2});
    let with = |field: &str, value: Value| {
        let mut body = good.clone();
        body[field] = value;
        body.to_string().into_bytes()
    };
    let image_url = |url: &str| json!([{"role": "user", "content": [{"type": "image_url", "image_url": {"url": url}}]}]);
    let cases: Vec<(&str, Vec<u8>, u16, &str)> = vec![
        ("invalid UTF-8", b"{\"model\": \"\xff\xfe\"}".to_vec(), 400, ""),
        ("broken JSON", b"{\"model\": ".to_vec(), 400, ""),
        ("no messages", with("messages", json!([])), 400, "messages"),
        ("an unknown role", with("messages", json!([{"role": "oracle", "content": "Hi"}])), 400, "role"),
        ("a wrong type", with("messages", json!("Hi")), 400, "messages"),
        ("a negative temperature", with("temperature", json!(-3)), 400, "temperature"),
        ("another model", with("model", json!("gpt-2")), 404, "gpt-2"),
        ("a URL while URLs are off", with("messages", image_url("http://example.com/a.png")), 400, "image"),
        ("a file URL", with("messages", image_url("file:///etc/passwd")), 400, "image"),
        ("broken base64", with("messages", image_url("data:image/png;base64,%%%")), 400, "image"),
    ];
    for (what, body, status, mention) in cases {
        let response = http.post(&chat_url).header("content-type", "application/json").body(body).send().await?;
        assert_eq!(response.status().as_u16(), status, "{what}");
        let error: Value = response.json().await.with_context(|| format!("{what}: not JSON"))?;
        let error = error["error"].to_string();
        assert!(error.contains(mention), "{what}: {error} does not mention {mention}");
    }
    assert_eq!(http.get(format!("{}/v1/nonsense", cluster.http)).send().await?.status().as_u16(), 404);
    assert_eq!(http.get(&chat_url).send().await?.status().as_u16(), 405);
    let answer = http.post(&chat_url).json(&good).send().await?;
    assert!(answer.status().is_success(), "{}", answer.text().await?);
    Ok(())
}

#[tokio::test]
async fn half_closed_and_garbled_connections_do_no_harm() -> Result<()> {
    let cluster = up().await?;
    for address in [&cluster.grpc, &cluster.http] {
        let address = address.trim_start_matches("http://");
        for bytes in
            [&b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: 50\r\n\r\n{"[..], b"\x00\xff\x00\xff", b""]
        {
            let mut stream = TcpStream::connect(address).await?;
            stream.write_all(bytes).await?;
            stream.shutdown().await?;
            let mut answer = Vec::new();
            // Whatever comes back, the connection ends; a reset is an end too.
            let _ = stream.read_to_end(&mut answer).await;
        }
    }
    serves(&cluster).await
}
