//! More than the router takes on.

use std::time::Duration;

use tessera_proto::{retry_delay, v1, violations};
use tonic::Code;

use crate::{
    fake::Script,
    harness::{House, ask, chat, config, eventually, image_part, png, text_part},
};

#[tokio::test]
async fn more_requests_than_the_router_takes_on_are_refused_with_a_retry_time_on_both_fronts() {
    let mut config = config();
    config.max_requests = 2;
    let house = House::with(config, vec![Script { pace: Duration::from_millis(20), ..Script::default() }]).await;
    let mut client = house.client().await;
    let long = v1::Sampling { ignore_eos: Some(true), max_new_tokens: Some(1000), ..Default::default() };
    let first = client.generate(ask(long.clone())).await.unwrap();
    let second = client.generate(ask(long)).await.unwrap();
    let status = client.generate_once(ask(v1::Sampling::default())).await.unwrap_err();
    assert_eq!(status.code(), Code::ResourceExhausted);
    assert!(retry_delay(&status).is_some());
    let answer = house.post("/v1/completions", r#"{"prompt": "Hi"}"#).await;
    assert_eq!(answer.status(), 429);
    assert!(answer.headers()["retry-after"].to_str().unwrap().parse::<u32>().unwrap() >= 1);
    drop((first, second));
    eventually("the sequences are freed", || house.seen().running() == 0).await;
    assert!(client.generate_once(ask(v1::Sampling::default())).await.is_ok());
}

#[tokio::test]
async fn pixels_over_the_memory_bound_are_refused_and_the_memory_comes_back() {
    let mut config = config();
    config.max_held_bytes = 8 << 20;
    let house = House::with(config, vec![Script::default()]).await;
    let mut client = house.client().await;
    let picture = |side| chat(vec![image_part(v1::image::Source::Data(png(side, side).into())), text_part("What?")]);
    // 960 by 960 pixels of three floats are 10.5 MiB, 640 by 640 are 4.7.
    let status = client.generate_once(picture(960)).await.unwrap_err();
    assert_eq!(status.code(), Code::ResourceExhausted, "{status:?}");
    for _ in 0..3 {
        assert!(client.generate_once(picture(640)).await.is_ok());
    }
}

#[tokio::test]
async fn images_are_decoded_within_the_memory_there_is_for_that_and_wait_for_it() {
    let mut config = config();
    // One image of 640 by 640 pixels is said to take 9 MiB at most.
    config.max_decoding_bytes = 10 << 20;
    config.image_workers = 8;
    let house = House::with(config, vec![Script::default()]).await;
    let client = house.client().await;
    let picture = |side| chat(vec![image_part(v1::image::Source::Data(png(side, side).into())), text_part("What?")]);
    let asked = (0..8).map(|_| {
        let mut client = client.clone();
        async move { client.generate_once(picture(640)).await }
    });
    for answer in futures::future::join_all(asked).await {
        assert!(answer.is_ok(), "{answer:?}");
    }
    let status = client.clone().generate_once(picture(960)).await.unwrap_err();
    let (field, problem) = violations(&status).remove(0);
    assert_eq!(field, "messages[0].parts[0].image");
    assert!(problem.contains("to be decoded"), "{problem}");
    assert_eq!(house.seen().calls(), 8);
}
