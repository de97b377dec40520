//! Prompts of the golden cases, as mistral-common lays them out, by both fronts.

use std::{fs, path::PathBuf};

use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::{Value, json};
use tessera_proto::{v1, v1::image::Source};
use tessera_router::{ModelSource, RouterConfig};

use crate::{
    fake::Script,
    harness::{House, config, image_part, text_part},
};

fn fixtures() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/fixtures/tiny-random"))
}

fn read(path: &str) -> Value {
    serde_json::from_str(&fs::read_to_string(fixtures().join("golden").join(path)).unwrap()).unwrap()
}

fn picture(part: &Value) -> Option<Vec<u8>> {
    Some(fs::read(fixtures().join("golden/images").join(part["image"].as_str()?)).unwrap())
}

async fn house() -> House {
    let config = RouterConfig { model: ModelSource::Folder(fixtures().join("mistral")), ..config() };
    House::with(config, vec![Script { max_context: 1 << 17, ..Script::default() }]).await
}

fn cases() -> Vec<(String, Vec<Value>, Value)> {
    let messages = read("messages.json");
    let cases = messages.as_object().unwrap().iter();
    cases
        .map(|(name, messages)| {
            (name.clone(), messages.as_array().unwrap().clone(), read(&format!("{name}.json"))["ids"].clone())
        })
        .collect()
}

#[tokio::test]
async fn golden_prompts_over_grpc_are_those_of_the_reference() {
    let house = house().await;
    let part = |part: &Value| {
        picture(part).map_or_else(|| text_part(part["text"].as_str().unwrap()), |file| image_part(Source::Data(file.into())))
    };
    for (name, messages, ids) in cases() {
        let messages = messages.iter().map(|message| v1::Message {
            role: message["role"].as_str().unwrap().into(),
            parts: message["parts"].as_array().unwrap().iter().map(part).collect(),
        });
        let input = v1::generate_request::Input::Messages(v1::Messages { messages: messages.collect() });
        let request = v1::GenerateRequest { input: Some(input), return_token_ids: true, ..Default::default() };
        let answer = house.client().await.generate_once(request).await.unwrap().into_inner();
        assert_eq!(json!(answer.accepted.unwrap().prompt_token_ids), ids, "{name}");
        assert_eq!(json!(house.seen().last().prompt), ids, "{name}");
        let placed = house.seen().last().images;
        let patches: usize = placed.iter().map(|image| image.grid.unwrap()).map(|grid| (grid.rows * grid.cols) as usize).sum();
        assert_eq!(patches, ids.as_array().unwrap().iter().filter(|id| **id == 10).count(), "{name}");
    }
}

#[tokio::test]
async fn golden_prompts_over_http_are_those_of_the_reference() {
    let house = house().await;
    let part = |part: &Value| match picture(part) {
        Some(file) => {
            json!({"type": "image_url", "image_url": {"url": format!("data:image/png;base64,{}", STANDARD.encode(file))}})
        }
        None => json!({"type": "text", "text": part["text"]}),
    };
    for (name, messages, ids) in cases() {
        let content = |parts: &Vec<Value>| match &parts[..] {
            [text] if text.get("text").is_some() => text["text"].clone(),
            parts => parts.iter().map(part).collect(),
        };
        let messages: Vec<_> = messages
            .iter()
            .map(|message| json!({"role": message["role"], "content": content(message["parts"].as_array().unwrap())}))
            .collect();
        let response =
            house.post("/v1/chat/completions", json!({"messages": messages, "return_token_ids": true}).to_string()).await;
        let body: Value = response.json().await.unwrap();
        assert_eq!(body["prompt_token_ids"], ids, "{name}: {}", body["error"]);
    }
}
