//! The golden cases through the whole cluster: both layouts, tp 1, 2 and 4, gRPC and HTTP, against transformers.

use anyhow::{Context, Result};
use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::{Value, json};
use tessera_proto::v1::{self, generate_response::Event};
use tessera_tests::{Cluster, GoldenCase, GoldenPart, Up, fixtures, golden_cases};

fn grpc_request(case: &GoldenCase) -> v1::GenerateRequest {
    let part = |part: &GoldenPart| v1::Part {
        part: Some(match part {
            GoldenPart::Text(text) => v1::part::Part::Text(text.clone()),
            GoldenPart::Image(data) => v1::part::Part::Image(v1::Image {
                source: Some(v1::image::Source::Data(data.clone().into())),
                mime: "image/png".into(),
            }),
        }),
    };
    let message =
        |(role, parts): &(String, Vec<GoldenPart>)| v1::Message { role: role.clone(), parts: parts.iter().map(part).collect() };
    let messages = v1::Messages { messages: case.messages.iter().map(message).collect() };
    v1::GenerateRequest {
        input: Some(v1::generate_request::Input::Messages(messages)),
        sampling: Some(v1::Sampling {
            temperature: Some(0.0),
            max_new_tokens: Some(case.greedy.len() as u32),
            ignore_eos: Some(true),
            ..Default::default()
        }),
        return_token_ids: true,
        ..Default::default()
    }
}

fn http_request(case: &GoldenCase) -> Value {
    let part = |part: &GoldenPart| match part {
        GoldenPart::Text(text) => json!({"type": "text", "text": text}),
        GoldenPart::Image(data) => {
            json!({"type": "image_url", "image_url": {"url": format!("data:image/png;base64,{}", STANDARD.encode(data))}})
        }
    };
    let content = |parts: &[GoldenPart]| match parts {
        [GoldenPart::Text(text)] => json!(text),
        parts => parts.iter().map(part).collect(),
    };
    let messages: Vec<Value> =
        case.messages.iter().map(|(role, parts)| json!({"role": role, "content": content(parts)})).collect();
    json!({
        "model": "", "messages": messages, "temperature": 0, "max_tokens": case.greedy.len(),
        "ignore_eos": true, "return_token_ids": true,
    })
}

async fn check_grpc(cluster: &Cluster, case: &GoldenCase) -> Result<()> {
    let mut stream = cluster.client().await?.generate(grpc_request(case)).await?.into_inner();
    let (mut prompt, mut generated, mut usage) = (Vec::new(), Vec::new(), None);
    while let Some(response) = stream.message().await? {
        match response.event.context("an empty event")? {
            Event::Accepted(accepted) => prompt = accepted.prompt_token_ids,
            Event::Delta(delta) => generated.extend(delta.token_ids),
            Event::Usage(last) => usage = Some(last),
            Event::Finished(_) | Event::Resumed(_) => {}
        }
    }
    assert_eq!(prompt, case.ids, "{}: prompt ids over gRPC", case.name);
    assert_eq!(generated, case.greedy, "{}: greedy ids over gRPC", case.name);
    let usage = usage.context("no usage")?;
    assert_eq!((usage.prompt_tokens as usize, usage.generated_tokens as usize), (case.ids.len(), case.greedy.len()));
    Ok(())
}

async fn check_http(cluster: &Cluster, model: &str, case: &GoldenCase) -> Result<()> {
    let mut body = http_request(case);
    body["model"] = json!(model);
    let url = format!("{}/v1/chat/completions", cluster.http);
    let response = reqwest::Client::new().post(url).json(&body).send().await?;
    let status = response.status();
    let answer: Value = response.json().await?;
    assert!(status.is_success(), "{}: {status}: {answer}", case.name);
    assert_eq!(answer["prompt_token_ids"], json!(case.ids), "{}: prompt ids over HTTP", case.name);
    assert_eq!(answer["choices"][0]["token_ids"], json!(case.greedy), "{}: greedy ids over HTTP", case.name);
    assert_eq!(answer["usage"]["prompt_tokens"], json!(case.ids.len()));
    assert_eq!(answer["usage"]["completion_tokens"], json!(case.greedy.len()));
    Ok(())
}

async fn check(layout: &str, tp: usize) -> Result<()> {
    let cluster = Up::new(fixtures().join("tiny-random").join(layout)).with("--tp", tp).start().await?;
    for case in golden_cases()? {
        check_grpc(&cluster, &case).await?;
        check_http(&cluster, layout, &case).await?;
    }
    assert_eq!(cluster.stop().await?, Some(0), "a clean stop");
    Ok(())
}

#[tokio::test]
async fn mistral_layout_on_one_rank_gives_the_golden_tokens() -> Result<()> {
    check("mistral", 1).await
}

#[tokio::test]
async fn mistral_layout_on_two_ranks_gives_the_golden_tokens() -> Result<()> {
    check("mistral", 2).await
}

#[tokio::test]
async fn mistral_layout_on_four_ranks_gives_the_golden_tokens() -> Result<()> {
    check("mistral", 4).await
}

#[tokio::test]
async fn hugging_face_layout_on_one_rank_gives_the_golden_tokens() -> Result<()> {
    check("hf", 1).await
}

#[tokio::test]
async fn hugging_face_layout_on_two_ranks_gives_the_golden_tokens() -> Result<()> {
    check("hf", 2).await
}

#[tokio::test]
async fn hugging_face_layout_on_four_ranks_gives_the_golden_tokens() -> Result<()> {
    check("hf", 4).await
}
