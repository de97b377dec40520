//! Which replica a request goes to: where its beginning was computed before, unless that one is much too busy.

use std::time::Duration;

use tessera_proto::v1;

use crate::{
    fake::Script,
    harness::{House, chat, config, text_part},
};

/// Two replicas; the second has nothing to do, so that it gets the first request.
async fn house() -> House {
    let house = House::with(config(), vec![Script { queued_tokens: 1000, ..Script::default() }, Script::default()]).await;
    run(&house, "who are you?").await;
    assert_eq!(calls(&house), (0, 1));
    house
}

/// Asks in a prompt of many blocks that differs from others' in its end alone.
async fn run(house: &House, end: &str) {
    let text = format!("You are a helpful assistant, and always will be. Now then, {end}");
    let request = v1::GenerateRequest {
        sampling: Some(v1::Sampling { max_new_tokens: Some(3), ..Default::default() }),
        ..chat(vec![text_part(&text)])
    };
    house.client().await.generate_once(request).await.unwrap();
}

fn calls(house: &House) -> (usize, usize) {
    (house.fakes[0].seen.calls(), house.fakes[1].seen.calls())
}

/// Asks until the first replica is asked, too.
async fn reaches_the_first(house: &House) -> bool {
    for _ in 0..200 {
        run(house, "who am I?").await;
        if calls(house).0 > 0 {
            return true;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    false
}

#[tokio::test]
async fn requests_that_begin_alike_go_to_the_same_replica() {
    let house = house().await;
    house.fakes[0].script(|script| script.queued_tokens = 0);
    for turn in 0..20 {
        run(&house, &format!("what is {turn} and {turn}?")).await;
    }
    assert_eq!(calls(&house), (0, 21));
}

#[tokio::test]
async fn a_replica_with_much_more_to_do_loses_its_preference() {
    let house = house().await;
    house.fakes[1].script(|script| script.queued_tokens = 1 << 20);
    assert!(reaches_the_first(&house).await);
}

#[tokio::test]
async fn what_a_replica_had_is_forgotten_with_its_group() {
    let house = house().await;
    // Within the slack: by itself, this moves no request.
    house.fakes[1].script(|script| script.queued_tokens = 1500);
    for _ in 0..20 {
        run(&house, "who are you?").await;
    }
    assert_eq!(calls(&house), (0, 21));
    // A request under way while the router hears of one new group is remembered for that; so there are several.
    for epoch in 2.. {
        house.fakes[1].script(|script| script.epoch = epoch);
        run(&house, "who am I?").await;
        if calls(&house).0 > 0 {
            break;
        }
        assert!(epoch < 200, "it was never forgotten");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
