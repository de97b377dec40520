//! Replicas that must not be sent anything: those of another model, and those that do not answer.

use std::time::Duration;

use tessera_proto::{v1, v1::generate_response::Event};
use tessera_registry::ReplicaRecord;
use tokio::net::TcpListener;
use tonic::{Code, Status};

use crate::{
    fake::Script,
    harness::{House, ask, config, eventually, shape},
};

/// The last event of a stream, or how it failed.
async fn last(mut stream: tonic::Streaming<v1::GenerateResponse>) -> Result<Option<Event>, Status> {
    let mut last = None;
    while let Some(response) = stream.message().await? {
        last = response.event;
    }
    Ok(last)
}

#[tokio::test]
async fn a_replica_of_another_name_or_shape_is_refused_and_health_says_why() {
    let mut other = shape();
    other.decoder.layers += 1;
    let named = Script { model: "letters".into(), ..Script::default() };
    let shaped = Script { shape: serde_json::to_string(&other).unwrap(), ..Script::default() };
    for (script, problem) in [(named, "serves the model `letters`, not `bytes`"), (shaped, "another shape than `bytes`")] {
        let house = House::with(config(), vec![script]).await;
        house.until_healthy(503, &format!("replica-0 at http://{} serves", house.fakes[0].address)).await;
        house.until_healthy(503, problem).await;
        let status = house.client().await.generate_once(ask(v1::Sampling::default())).await.unwrap_err();
        assert_eq!((status.code(), house.seen().calls()), (Code::Unavailable, 0));
    }
}

#[tokio::test]
async fn a_replica_that_says_it_has_the_same_model_is_sent_requests_whatever_context_its_layout_tells() {
    let same = tessera_types::ModelSpec { max_context: 99, ..shape() };
    let script = Script { model: "bytes".into(), shape: serde_json::to_string(&same).unwrap(), ..Script::default() };
    let house = House::with(config(), vec![script]).await;
    eventually("the replica is ready", || house.ready() == 1).await;
    house.client().await.generate_once(ask(v1::Sampling::default())).await.unwrap();
}

fn of_weights(fingerprint: &str) -> Script {
    Script { fingerprint: fingerprint.into(), ..Script::default() }
}

/// One whose group is older than any other's, whoever is asked first.
fn first_of_weights(fingerprint: &str) -> Script {
    Script { group_age: Duration::from_secs(600), ..of_weights(fingerprint) }
}

#[tokio::test]
async fn replicas_with_other_weights_than_the_first_wait_until_it_leaves() {
    let house = House::with(config(), vec![first_of_weights("aa"), of_weights("bb"), of_weights("aa")]).await;
    eventually("two of three are ready", || house.ready() == 2).await;
    house.until_healthy(200, "has other weights than replica-0: bb in , not aa in ").await;
    for _ in 0..20 {
        house.client().await.generate_once(ask(v1::Sampling::default())).await.unwrap();
    }
    assert_eq!(house.fakes[1].seen.calls(), 0);
    house.drain(0).await;
    house.drain(2).await;
    eventually("the newcomer takes over", || house.ready() == 1).await;
    house.client().await.generate_once(ask(v1::Sampling::default())).await.unwrap();
    assert_eq!(house.fakes[1].seen.calls(), 1);
}

#[tokio::test]
async fn the_same_weights_quantised_are_others() {
    let house = House::with(config(), vec![of_weights("aa"), Script { quantization: "fp8".into(), ..of_weights("aa") }]).await;
    house.until_healthy(200, "has other weights than replica-0: aa in +fp8, not aa in ").await;
    assert_eq!(house.ready(), 1);
}

#[tokio::test]
async fn the_same_weights_over_keys_and_values_of_fewer_bits_answer_as_others_do() {
    let house = House::with(config(), vec![of_weights("aa"), Script { kv_cache_dtype: "fp8".into(), ..of_weights("aa") }]).await;
    house.until_healthy(200, "has other weights than replica-0: aa in , kv fp8, not aa in ").await;
    assert_eq!(house.ready(), 1);
}

#[tokio::test]
async fn a_stream_does_not_go_on_with_other_weights() {
    let mut config = config();
    config.patience.failover = Duration::from_millis(400);
    let slow = Script { pace: Duration::from_millis(20), break_after: Some((30, None)), ..of_weights("aa") };
    let house = House::with(config, vec![slow]).await;
    eventually("the first is ready", || house.ready() == 1).await;
    let stream = house.client().await.generate(ask(v1::Sampling::default())).await.unwrap().into_inner();
    let next = crate::fake::Fake::start(of_weights("bb")).await;
    let record = ReplicaRecord { id: "next".into(), address: next.address.to_string(), ..Default::default() };
    house.registry.put_replica(house.lease.id(), &record).await.unwrap();
    house.drain(0).await;
    eventually("the next one is ready", || house.ready() == 1).await;
    assert_eq!(last(stream).await.unwrap_err().code(), Code::Unavailable);
    assert_eq!(next.seen.calls(), 0);
    house.client().await.generate_once(ask(v1::Sampling::default())).await.unwrap();
    assert_eq!(next.seen.calls(), 1, "new requests go there");
}

#[tokio::test]
async fn an_address_that_nobody_answers_at_is_told_with_the_reason() {
    let house = House::with(config(), vec![]).await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let record = ReplicaRecord { id: "by hand".into(), address: format!("http://{address}"), ..Default::default() };
    house.registry.put_replica(house.lease.id(), &record).await.unwrap();
    house.until_healthy(503, &format!("by hand at http://{address} does not answer: Connection refused")).await;
    house.until_healthy(503, "0 of 1 replicas are ready").await;
}

#[tokio::test]
async fn a_replica_that_broke_is_not_tried_again_before_it_has_answered() {
    let broken = Script { break_after: Some((5, None)), ..Script::default() };
    let house = House::with(config(), vec![broken, Script { queued_tokens: 1 << 20, ..Script::default() }]).await;
    // Up to half a second passes until the router asks by itself.
    house.fakes[0].script(|script| script.ready = false);
    for _ in 0..5 {
        house.client().await.generate_once(ask(v1::Sampling::default())).await.unwrap();
    }
    assert!(house.fakes[0].seen.calls() <= 1, "{}", house.fakes[0].seen.calls());
}

#[tokio::test]
async fn health_notices_that_the_only_replica_broke() {
    let house = House::of(Script { break_after: Some((5, None)), ..Script::default() }).await;
    house.fakes[0].script(|script| script.ready = false);
    let mut config = v1::GenerateRequest { ..ask(v1::Sampling::default()) };
    config.request_id = "doomed".into();
    let _ = house.client().await.generate_once(config).await;
    house.until_healthy(503, "0 of 1 replicas are ready").await;
}

#[tokio::test]
async fn weights_that_are_replaced_in_place_do_not_switch_the_others_off() {
    let house = House::with(config(), vec![first_of_weights("aa"), of_weights("aa"), of_weights("aa")]).await;
    eventually("all are ready", || house.ready() == 3).await;
    house.fakes[0].script(|script| script.fingerprint = "bb".into());
    house.until_healthy(200, "replica-0 at").await;
    house.until_healthy(200, ": bb in , not aa in ").await;
    let before = house.fakes[0].seen.calls();
    for _ in 0..20 {
        house.client().await.generate_once(ask(v1::Sampling::default())).await.unwrap();
    }
    assert_eq!((house.ready(), house.fakes[0].seen.calls()), (2, before));
    for at in [1, 2] {
        house.fakes[at].script(|script| script.fingerprint = "bb".into());
    }
    eventually("all have the new ones", || house.ready() == 3).await;
}

#[tokio::test]
async fn one_that_does_not_answer_once_still_decides_which_weights_are_served() {
    let house = House::with(config(), vec![first_of_weights("aa"), of_weights("bb"), of_weights("aa")]).await;
    eventually("two of three are ready", || house.ready() == 2).await;
    house.fakes[0].script(|script| script.mute = true);
    house.until_healthy(200, "does not answer: not now").await;
    // Long enough for both others to have been asked again.
    tokio::time::sleep(Duration::from_millis(1200)).await;
    house.until_healthy(200, "has other weights than replica-0: bb").await;
    assert_eq!(house.ready(), 1, "neither the one that is silent nor the one of other weights");
    house.fakes[0].script(|script| script.mute = false);
    eventually("it answers again", || house.ready() == 2).await;
    house.client().await.generate_once(ask(v1::Sampling::default())).await.unwrap();
    assert_eq!(house.fakes[1].seen.calls(), 0);
}

#[tokio::test]
async fn a_replica_that_accepts_a_request_with_other_weights_than_it_was_chosen_for_is_left_at_once() {
    let changed = Script { accepts_with: Some("bb".into()), ..of_weights("aa") };
    let house = House::with(config(), vec![changed, Script { queued_tokens: 1 << 20, ..of_weights("aa") }]).await;
    eventually("both are ready", || house.ready() == 2).await;
    for _ in 0..5 {
        house.client().await.generate_once(ask(v1::Sampling::default())).await.unwrap();
    }
    eventually("nothing runs on with other weights", || house.fakes[0].seen.running() == 0).await;
    assert!(house.fakes[0].seen.calls() > 0 && house.fakes[1].seen.calls() == 5);
}

#[tokio::test]
async fn who_shows_no_key_is_told_how_many_replicas_are_ready_and_no_address() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("keys");
    std::fs::write(&file, "open\n").unwrap();
    let mut config = config();
    config.api_keys = tessera_router::ApiKeys::read(&file).unwrap();
    let house = House::with(config, vec![first_of_weights("aa"), of_weights("bb")]).await;
    house.until_healthy(200, r#""replicas":{"known":2,"ready":1}"#).await;
    let (_, told) = house.get("/health").await;
    assert!(!told.contains("replica-1") && !told.contains("127.0.0.1") && !told.contains("weights"), "{told}");
    let asked = reqwest::Client::new().get(format!("{}/health", house.http)).bearer_auth("open").send().await.unwrap();
    let told = asked.text().await.unwrap();
    assert!(told.contains("replica-1") && told.contains(&house.fakes[1].address.to_string()), "{told}");
}
