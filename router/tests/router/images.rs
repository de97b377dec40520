//! Images: from the request to the replica, and from hosts that may be asked.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering::SeqCst},
};

use tessera_proto::{v1, v1::image::Source, violations};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};

use crate::{
    fake::Script,
    harness::{House, chat, config, image_part, png, text_part},
};

/// Serves a file at every path; gives its URL, and how often it was called.
async fn host(file: Vec<u8>) -> (String, Arc<AtomicUsize>) {
    let calls = Arc::new(AtomicUsize::new(0));
    let counted = calls.clone();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/picture.png", listener.local_addr().unwrap());
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            counted.fetch_add(1, SeqCst);
            let mut request = [0; 1024];
            let _ = stream.read(&mut request).await;
            let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\nconnection: close\r\n\r\n", file.len());
            let _ = stream.write_all(head.as_bytes()).await;
            let _ = stream.write_all(&file).await;
        }
    });
    (url, calls)
}

#[tokio::test]
async fn a_replica_gets_every_images_place_and_each_distinct_images_pixels_once() {
    let house = House::of(Script::default()).await;
    let (small, wide) = (png(32, 16), png(64, 16));
    let part = |file: &Vec<u8>| image_part(Source::Data(file.clone().into()));
    let request = chat(vec![text_part("a"), part(&small), part(&wide), text_part("b"), part(&small)]);
    let answer = house.client().await.generate_once(request).await.unwrap().into_inner();
    let usage = answer.usage.unwrap();
    assert_eq!((usage.images, usage.image_tokens), (3, 3 + 5 + 3));
    assert!(usage.timings.unwrap().image_decode_us > 0);
    let got = house.seen().last();
    assert_eq!(got.images.len(), 3);
    assert_eq!(got.images[0].key, got.images[2].key);
    assert_eq!(got.pixels.len(), 2);
    for placed in &got.images {
        let grid = placed.grid.unwrap();
        let at = placed.at as usize;
        let tokens = &got.prompt[at..at + grid.cols as usize + 1];
        assert!(tokens[..grid.cols as usize].iter().all(|&token| token == 10) && tokens[grid.cols as usize] == 13);
        let pixels = got.pixels.iter().find(|pixels| pixels.key == placed.key).unwrap();
        assert_eq!(pixels.pixels.len(), 4 * 3 * 256 * (grid.rows * grid.cols) as usize);
    }
}

#[tokio::test]
async fn an_image_behind_a_url_is_the_image() {
    let mut config = config();
    config.fetch.hosts = tessera_router::Hosts::Any;
    config.fetch.networks = vec!["127.0.0.1/32".parse().unwrap()];
    let house = House::with(config, vec![Script::default()]).await;
    let file = png(48, 32);
    let (url, _) = host(file.clone()).await;
    let direct = chat(vec![image_part(Source::Data(file.into())), text_part("What?")]);
    house.client().await.generate_once(direct).await.unwrap();
    let answer = house.client().await.generate_once(chat(vec![image_part(Source::Url(url)), text_part("What?")])).await.unwrap();
    assert!(answer.into_inner().usage.unwrap().timings.unwrap().image_fetch_us > 0);
    let requests = house.seen().requests.lock();
    assert_eq!((&requests[0].prompt, &requests[0].pixels), (&requests[1].prompt, &requests[1].pixels));
}

#[tokio::test]
async fn urls_that_lead_inside_are_refused_by_name_and_nobody_is_asked() {
    let mut config = config();
    config.fetch.hosts = tessera_router::Hosts::Any;
    let house = House::with(config, vec![Script::default()]).await;
    let (inside, calls) = host(png(16, 16)).await;
    for url in [
        inside.clone(),
        inside.replace("127.0.0.1", "localhost"),
        "http://169.254.169.254/latest/meta-data".into(),
        "http://[::1]/".into(),
        "http://10.0.0.1/".into(),
    ] {
        let request = chat(vec![text_part("What?"), image_part(Source::Url(url.clone()))]);
        let status = house.client().await.generate_once(request).await.unwrap_err();
        let (field, problem) = violations(&status).remove(0);
        assert_eq!(field, "messages[0].parts[1].image", "{url}: {status:?}");
        assert!(problem.contains("images are not fetched from"), "{url}: {problem}");
    }
    assert_eq!((calls.load(SeqCst), house.seen().calls()), (0, 0));
}

#[tokio::test]
async fn a_dry_run_counts_images_that_are_given_by_their_size_alone() {
    let house = House::of(Script::default()).await;
    let mut client = house.client().await;
    let Some(v1::generate_request::Input::Messages(messages)) =
        chat(vec![image_part(Source::Data(png(32, 16).into())), text_part("Hi")]).input
    else {
        panic!("messages")
    };
    let sizes = [(1024, 1024), (2048, 1024), (1, 4000)].map(|(width, height)| v1::ImageSize { width, height });
    let request = v1::CountTokensRequest {
        input: Some(v1::count_tokens_request::Input::Messages(messages)),
        image_sizes: sizes.to_vec(),
        ..Default::default()
    };
    let count = client.count_tokens(request.clone()).await.unwrap().into_inner();
    let costs: Vec<_> =
        count.images.iter().map(|image| (image.width, image.height, image.rows, image.cols, image.tokens)).collect();
    assert_eq!(costs, [(32, 16, 1, 2, 3), (1024, 1024, 64, 64, 64 * 65), (2048, 1024, 32, 64, 32 * 65), (1, 4000, 64, 1, 128)]);
    let text_and_control = 3 + 2;
    assert_eq!(count.prompt_tokens, text_and_control + 3 + 64 * 65 + 32 * 65 + 128);
    assert_eq!((count.max_context, count.fits), (4096, false));
    let few = v1::CountTokensRequest { image_sizes: vec![sizes[2]], max_new_tokens: Some(4096 - 136), ..request };
    let count = client.count_tokens(few.clone()).await.unwrap().into_inner();
    assert_eq!((count.prompt_tokens, count.fits), (136, true));
    let one_more = v1::CountTokensRequest { max_new_tokens: Some(4096 - 135), ..few };
    assert!(!client.count_tokens(one_more).await.unwrap().into_inner().fits);
    let none = v1::CountTokensRequest { image_sizes: vec![v1::ImageSize::default()], ..Default::default() };
    assert_eq!(violations(&client.count_tokens(none).await.unwrap_err())[0].0, "image_sizes[0]");
    assert_eq!(house.seen().calls(), 0);
}
