//! What is wrong is named, nothing reaches a replica, and the router serves on.

use tessera_proto::{v1, v1::generate_request::Input, v1::image::Source, violations};
use tonic::{Code, Status};

use crate::{
    fake::Script,
    harness::{House, ask, chat, config, image_part, png, text_part},
};

async fn refusal(house: &House, request: v1::GenerateRequest) -> Status {
    match house.client().await.generate_once(request).await {
        Err(status) => status,
        Ok(answer) => panic!("it was answered: {answer:?}"),
    }
}

/// Refused as invalid, with exactly this field.
async fn names(house: &House, field: &str, request: v1::GenerateRequest) {
    let status = refusal(house, request).await;
    assert_eq!(status.code(), Code::InvalidArgument, "{field}: {status:?}");
    let fields: Vec<_> = violations(&status).into_iter().map(|(field, _)| field).collect();
    assert_eq!(fields, [field], "{}", status.message());
}

fn messages(messages: Vec<(&str, Vec<v1::Part>)>) -> v1::GenerateRequest {
    let messages = messages.into_iter().map(|(role, parts)| v1::Message { role: role.into(), parts }).collect();
    v1::GenerateRequest { input: Some(Input::Messages(v1::Messages { messages })), ..Default::default() }
}

fn data(file: Vec<u8>) -> v1::Part {
    image_part(Source::Data(file.into()))
}

/// A PNG whose header claims 50,000 pixels a side.
fn huge_png() -> Vec<u8> {
    let mut file = png(4, 4);
    file[16..20].copy_from_slice(&50_000_u32.to_be_bytes());
    file[20..24].copy_from_slice(&50_000_u32.to_be_bytes());
    let crc = !file[12..29].iter().fold(!0_u32, |crc, &byte| {
        (0..8).fold(crc ^ u32::from(byte), |crc, _| if crc & 1 == 1 { (crc >> 1) ^ 0xEDB8_8320 } else { crc >> 1 })
    });
    file[29..33].copy_from_slice(&crc.to_be_bytes());
    file
}

#[tokio::test]
async fn an_input_that_is_missing_or_empty_is_named() {
    let house = House::of(Script::default()).await;
    names(&house, "input", v1::GenerateRequest::default()).await;
    names(&house, "messages", messages(vec![])).await;
    names(&house, "messages[0]", messages(vec![("user", vec![])])).await;
    names(&house, "messages[0].parts[1]", messages(vec![("user", vec![text_part("a"), v1::Part::default()])])).await;
    names(&house, "messages[1].role", messages(vec![("user", vec![text_part("a")]), ("oracle", vec![text_part("b")])])).await;
    names(
        &house,
        "messages[0].parts[0].image",
        messages(vec![("user", vec![v1::Part { part: Some(v1::part::Part::Image(v1::Image::default())) }])]),
    )
    .await;
    assert_eq!(house.seen().calls(), 0);
}

#[tokio::test]
async fn an_order_of_roles_that_has_no_layout_is_named() {
    let house = House::of(Script::default()).await;
    names(&house, "messages[1].role", messages(vec![("user", vec![text_part("a")]), ("assistant", vec![text_part("b")])])).await;
    names(&house, "messages[0].parts[0]", messages(vec![("system", vec![data(png(16, 16))]), ("user", vec![text_part("a")])]))
        .await;
}

#[tokio::test]
async fn images_that_cannot_be_used_are_named() {
    let house = House::of(Script::default()).await;
    let second = |part| chat(vec![text_part("What?"), part]);
    let field = "messages[0].parts[1].image";
    names(&house, field, second(data(b"I am no picture".to_vec()))).await;
    names(&house, field, second(data(vec![]))).await;
    let half = png(300, 200);
    names(&house, field, second(data(half[..half.len() / 2].to_vec()))).await;
    names(&house, field, second(data(huge_png()))).await;
    for uri in [
        "data:image/png;base64,@@@@",
        "data:image/png,plain",
        "data:image/png;base64",
        "image/png;base64,aGk=",
        "data:image/png;base64,aGk=",
    ] {
        names(&house, field, second(image_part(Source::DataUri(uri.into())))).await;
    }
    names(&house, field, second(image_part(Source::Url("https://example.com/a.png".into())))).await;
    let claimed = v1::Image { source: Some(Source::Data(png(4, 4).into())), mime: "image/jpeg".into() };
    names(&house, field, second(v1::Part { part: Some(v1::part::Part::Image(claimed)) })).await;
    assert_eq!(house.seen().calls(), 0);
}

#[tokio::test]
async fn too_many_images_and_too_large_ones_are_refused_before_they_are_decoded() {
    let mut config = config();
    config.limits.max_images = 3;
    config.limits.max_image_bytes = 4000;
    let house = House::with(config, vec![Script::default()]).await;
    let status = refusal(&house, chat((0..200).map(|_| data(png(16, 16))).collect())).await;
    assert_eq!(status.code(), Code::InvalidArgument);
    assert!(status.message().contains("200") && status.message().contains('3'), "{}", status.message());
    names(&house, "messages[0].parts[0].image", chat(vec![data(vec![0; 4001])])).await;
}

#[tokio::test]
async fn long_thin_images_are_taken() {
    let house = House::of(Script::default()).await;
    for (width, height) in [(1, 4000), (5000, 1), (1, 1)] {
        let answer = house.client().await.generate_once(chat(vec![data(png(width, height)), text_part("What?")])).await.unwrap();
        assert_eq!(answer.into_inner().usage.unwrap().images, 1, "{width} by {height}");
    }
}

#[tokio::test]
async fn sampling_parameters_out_of_range_are_named() {
    let house = House::of(Script::default()).await;
    let with = |change: fn(&mut v1::Sampling)| {
        let mut sampling = v1::Sampling::default();
        change(&mut sampling);
        ask(sampling)
    };
    names(&house, "sampling.temperature", with(|s| s.temperature = Some(-1.0))).await;
    names(&house, "sampling.temperature", with(|s| s.temperature = Some(f32::NAN))).await;
    names(&house, "sampling.top_p", with(|s| s.top_p = Some(f32::NAN))).await;
    names(&house, "sampling.min_p", with(|s| s.min_p = Some(1.5))).await;
    names(&house, "sampling.repetition_penalty", with(|s| s.repetition_penalty = Some(0.0))).await;
    names(&house, "sampling.n", with(|s| s.n = Some(0))).await;
    names(&house, "sampling.max_new_tokens", with(|s| s.max_new_tokens = Some(0))).await;
    names(&house, "sampling.min_new_tokens", with(|s| (s.min_new_tokens, s.max_new_tokens) = (Some(9), Some(8)))).await;
    names(&house, "sampling.logprobs", with(|s| s.logprobs = Some(100))).await;
    names(&house, "sampling.logit_bias", with(|s| s.logit_bias = [(5, f32::INFINITY)].into())).await;
    names(&house, "sampling.stop_token_ids", with(|s| s.stop_token_ids = vec![1 << 30])).await;
    names(&house, "sampling.stop[0]", with(|s| s.stop = vec![String::new()])).await;
    assert_eq!(house.seen().calls(), 0);
}

#[tokio::test]
async fn a_prompt_over_the_context_is_refused_with_both_numbers() {
    let house = House::of(Script::default()).await;
    let status = refusal(&house, chat(vec![text_part(&"x".repeat(5000))])).await;
    assert_eq!(status.code(), Code::InvalidArgument);
    assert!(status.message().contains("4096"), "{}", status.message());
    let images: Vec<_> = (0..2).map(|_| data(png(1024, 1024))).collect();
    assert_eq!(refusal(&house, chat(images)).await.code(), Code::InvalidArgument);
}

#[tokio::test]
async fn prompts_of_token_ids_are_checked_like_any_other() {
    let house = House::of(Script::default()).await;
    let tokens = |ids: Vec<u32>, images: Vec<Vec<u8>>| {
        let images = images.into_iter().map(|file| v1::Image { source: Some(Source::Data(file.into())), mime: String::new() });
        let input = v1::TokenInput { ids, images: images.collect() };
        v1::GenerateRequest { input: Some(Input::Tokens(input)), ..Default::default() }
    };
    names(&house, "tokens.ids", tokens(vec![], vec![])).await;
    names(&house, "tokens.ids[1]", tokens(vec![1, 99_999], vec![])).await;
    // One row of two patches: [IMG] [IMG] [IMG_END].
    let row = vec![1, 10, 10, 13, 1065];
    let answer = house.client().await.generate_once(tokens(row.clone(), vec![png(32, 16)])).await.unwrap().into_inner();
    assert_eq!(answer.accepted.unwrap().image_tokens, 3);
    assert_eq!(house.seen().last().images[0].at, 1);
    for (ids, images) in
        [(row.clone(), vec![]), (row.clone(), vec![png(16, 16)]), (vec![1, 1065], vec![png(32, 16)]), (row, vec![png(32, 16); 2])]
    {
        let status = refusal(&house, tokens(ids.clone(), images)).await;
        let fields = violations(&status);
        assert!(status.code() == Code::InvalidArgument && fields[0].0.starts_with("tokens"), "{ids:?}: {status:?}");
    }
}

#[tokio::test]
async fn a_requests_name_must_be_fit_for_logs() {
    let house = House::of(Script::default()).await;
    for id in ["two words", "line\nbreak", &"x".repeat(129)] {
        names(&house, "request_id", v1::GenerateRequest { request_id: id.into(), ..chat(vec![text_part("Hi")]) }).await;
    }
}

#[tokio::test]
async fn another_model_is_not_found() {
    let house = House::of(Script::default()).await;
    let status = refusal(&house, v1::GenerateRequest { model: "gpt-2".into(), ..chat(vec![text_part("Hi")]) }).await;
    assert_eq!(status.code(), Code::NotFound);
    assert!(status.message().contains("gpt-2") && status.message().contains("bytes"));
    assert_eq!(violations(&status)[0].0, "model");
}

#[tokio::test]
async fn images_for_a_model_without_vision_are_refused_by_name() {
    let mut config = config();
    let mut shape = crate::harness::shape();
    shape.vision = None;
    config.model = tessera_router::ModelSource::Shape(Box::new(shape));
    let house = House::with(config, vec![Script::default()]).await;
    let status = refusal(&house, chat(vec![text_part("What?"), data(png(16, 16))])).await;
    assert_eq!(status.code(), Code::InvalidArgument);
    assert!(status.message().contains("vision"), "{}", status.message());
    assert!(house.client().await.generate_once(chat(vec![text_part("Hi")])).await.is_ok());
}
