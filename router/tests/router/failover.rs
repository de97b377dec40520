//! Replicas that break, refuse, hang and come back.

use std::time::Duration;

use tessera_proto::{retry_after, retry_delay, v1, v1::generate_response::Event};
use tessera_registry::ReplicaRecord;
use tonic::{Code, Status};

use crate::{
    fake::{Fake, Script},
    harness::{House, ask, config, eventually},
};

/// Text, token ids and end of a request's one sequence.
async fn run(house: &House, sampling: v1::Sampling) -> Result<(String, Vec<u32>, v1::Finished), Status> {
    let request = v1::GenerateRequest { return_token_ids: true, ..ask(sampling) };
    let mut stream = house.client().await.generate(request).await?.into_inner();
    let (mut text, mut ids, mut end, mut seq) = (String::new(), Vec::new(), None, 0);
    while let Some(response) = stream.message().await? {
        match response.event.unwrap() {
            Event::Delta(delta) => {
                assert_eq!(delta.seq, seq, "no delta is lost or told twice");
                seq += 1;
                text += &delta.text;
                ids.extend(delta.token_ids);
            }
            Event::Finished(finished) => assert!(end.replace(finished).is_none(), "one end"),
            Event::Accepted(_) | Event::Usage(_) | Event::Resumed(_) => {}
        }
    }
    Ok((text, ids, end.expect("an end")))
}

#[tokio::test]
async fn a_broken_stream_goes_on_elsewhere_without_losing_or_repeating_a_token() {
    let whole = House::of(Script::default()).await;
    let expected = run(&whole, v1::Sampling::default()).await.unwrap();
    for status in
        [None, Some(Status::unavailable("gone")), Some(Status::internal("a rank died")), Some(Status::cancelled("shutdown"))]
    {
        for after in [0, 1, 20] {
            // Every replica breaks its first stream; what is left is short enough in the end.
            let broken = Script { break_after: Some((after, status.clone())), ..Script::default() };
            let house = House::with(config(), vec![broken, Script { queued_tokens: 1 << 20, ..Script::default() }]).await;
            let got = run(&house, v1::Sampling { seed: Some(expected.2.seed), ..Default::default() }).await.unwrap();
            assert_eq!(
                (&got.0, &got.1, got.2.matched.clone()),
                (&expected.0, &expected.1, expected.2.matched.clone()),
                "{status:?} after {after}"
            );
            let replay = house.fakes[1].seen.last();
            assert_eq!(replay.sequences[0].generated, expected.1[..after]);
            assert_eq!(replay.sequences[0].sampling.as_ref().unwrap().seed, expected.2.seed);
        }
    }
}

#[tokio::test]
async fn the_same_replica_takes_a_request_back_when_it_is_the_only_one() {
    let house = House::of(Script { break_after: Some((10, None)), ..Script::default() }).await;
    let (text, ..) = run(&house, v1::Sampling::default()).await.unwrap();
    assert_eq!(text, Script::default().answer);
    assert!(house.seen().calls() >= 4, "45 tokens in runs of 10");
}

#[tokio::test]
async fn only_sequences_that_are_not_over_move() {
    let broken = Script { break_after: Some((30, None)), ..Script::default() };
    let house = House::with(config(), vec![broken, Script { queued_tokens: 1 << 20, ..Script::default() }]).await;
    let sampling = v1::Sampling { n: Some(2), max_new_tokens: Some(40), ..Default::default() };
    let answer = house.client().await.generate_once(ask(sampling)).await.unwrap().into_inner();
    for completion in &answer.completions {
        assert_eq!(completion.text, Script::default().answer[..40]);
    }
    assert_eq!(answer.usage.unwrap().generated_tokens, 80);
    let replay = house.fakes[1].seen.last();
    assert_eq!(replay.sequences.iter().map(|sequence| sequence.generated.len()).collect::<Vec<_>>(), [15, 15]);
}

#[tokio::test]
async fn tokens_that_are_told_twice_count_once() {
    let house = House::of(Script { stutter: true, ..Script::default() }).await;
    let (text, ids, _) = run(&house, v1::Sampling::default()).await.unwrap();
    assert_eq!((text, ids.len()), (Script::default().answer, Script::default().answer.len() + 1));
}

#[tokio::test]
async fn a_replica_that_loses_every_stream_ends_in_an_error_not_in_silence() {
    let house = House::of(Script { break_after: Some((0, None)), ..Script::default() }).await;
    let status = run(&house, v1::Sampling::default()).await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable);
    assert!(retry_delay(&status).is_some());
}

#[tokio::test]
async fn without_a_ready_replica_the_refusal_says_when_to_come_back() {
    for scripts in [vec![], vec![Script { ready: false, ..Script::default() }]] {
        let house = House::with(config(), scripts).await;
        let status = run(&house, v1::Sampling::default()).await.unwrap_err();
        assert_eq!(status.code(), Code::Unavailable);
        assert!(retry_delay(&status).is_some());
        assert_eq!(house.get("/health").await.0, 503);
    }
}

#[tokio::test]
async fn a_replica_that_becomes_ready_while_a_request_waits_serves_it() {
    let house = House::of(Script { ready: false, ..Script::default() }).await;
    let fake = house.fakes[0].clone();
    let waiting = run(&house, v1::Sampling::default());
    let (served, ()) = tokio::join!(waiting, async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        fake.script(|script| script.ready = true);
    });
    assert_eq!(served.unwrap().0, Script::default().answer);
}

#[tokio::test]
async fn a_full_replica_is_passed_over_and_when_all_are_full_its_retry_time_is_told() {
    let full = Script {
        refuse: Some(retry_after(Code::ResourceExhausted, "the queue is full", Duration::from_secs(7))),
        ..Script::default()
    };
    let busy = Script { queued_tokens: 1 << 20, ..Script::default() };
    let house = House::with(config(), vec![full.clone(), busy]).await;
    assert_eq!(run(&house, v1::Sampling::default()).await.unwrap().0, Script::default().answer);
    let house = House::with(config(), vec![full]).await;
    let status = run(&house, v1::Sampling::default()).await.unwrap_err();
    assert_eq!((status.code(), retry_delay(&status)), (Code::ResourceExhausted, Some(Duration::from_secs(7))));
}

#[tokio::test]
async fn what_a_replica_finds_wrong_is_not_tried_elsewhere() {
    let wrong = Script { refuse: Some(tessera_proto::bad_request("prompt", "too odd")), ..Script::default() };
    let house = House::with(config(), vec![wrong.clone(), wrong]).await;
    let status = run(&house, v1::Sampling::default()).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
    assert_eq!(house.fakes.iter().map(|fake| fake.seen.calls()).sum::<usize>(), 1);
}

#[tokio::test]
async fn the_clients_deadline_ends_a_request_that_hangs_and_frees_the_replica() {
    let house = House::of(Script { hang: true, ..Script::default() }).await;
    let mut request = tonic::Request::new(ask(v1::Sampling::default()));
    request.metadata_mut().insert("grpc-timeout", "2S".parse().unwrap());
    let mut stream = house.client().await.generate(request).await.unwrap().into_inner();
    let status = loop {
        match stream.message().await {
            Ok(event) => assert!(event.is_some(), "the stream must not end in silence"),
            Err(status) => break status,
        }
    };
    assert_eq!(status.code(), Code::DeadlineExceeded);
    let told = house.seen().last().deadline_us;
    assert!((1..=2_000_000).contains(&told), "{told}");
    eventually("the replica is freed", || house.seen().running() == 0).await;
}

#[tokio::test]
async fn the_replica_with_the_least_to_do_is_chosen() {
    let busy = Script { queued_tokens: 1000, ..Script::default() };
    let house = House::with(config(), vec![busy, Script::default()]).await;
    for _ in 0..5 {
        run(&house, v1::Sampling::default()).await.unwrap();
    }
    assert_eq!((house.fakes[0].seen.calls(), house.fakes[1].seen.calls()), (0, 5));
}

#[tokio::test]
async fn replicas_come_and_go_with_the_registry() {
    let house = House::of(Script::default()).await;
    let new = Fake::start(Script::default()).await;
    let record = ReplicaRecord { id: "new".into(), address: new.address.to_string(), ..Default::default() };
    house.registry.put_replica(house.lease.id(), &record).await.unwrap();
    eventually("the new replica is known", || house.ready() == 2).await;
    house.registry.remove_replica("replica-0").await.unwrap();
    eventually("the old one is forgotten", || house.ready() == 1).await;
    run(&house, v1::Sampling::default()).await.unwrap();
    assert_eq!((house.seen().calls(), new.seen.calls()), (0, 1));
    let draining = ReplicaRecord { draining: true, ..record };
    house.registry.put_replica(house.lease.id(), &draining).await.unwrap();
    eventually("a replica that drains takes nothing new", || house.ready() == 0).await;
}

#[tokio::test]
async fn a_replica_too_small_for_a_request_is_not_asked() {
    let small = Script { max_context: 64, ..Script::default() };
    let house = House::with(config(), vec![small, Script { queued_tokens: 1 << 20, ..Script::default() }]).await;
    run(&house, v1::Sampling { max_new_tokens: Some(100), ..Default::default() }).await.unwrap();
    run(&house, v1::Sampling { max_new_tokens: Some(5), ..Default::default() }).await.unwrap();
    assert_eq!((house.fakes[0].seen.calls(), house.fakes[1].seen.calls()), (1, 1));
}

#[tokio::test]
async fn a_client_that_asks_is_told_where_another_replica_went_on() {
    for asks in [true, false] {
        let broken = Script { break_after: Some((7, None)), ..Script::default() };
        let house = House::with(config(), vec![broken, Script { queued_tokens: 1 << 20, ..Script::default() }]).await;
        let request = v1::GenerateRequest { tell_resumed: asks, ..ask(v1::Sampling::default()) };
        let mut stream = house.client().await.generate(request).await.unwrap().into_inner();
        let mut resumed = Vec::new();
        while let Some(response) = stream.message().await.unwrap() {
            if let Some(Event::Resumed(at)) = response.event {
                resumed.push(at.generated_tokens);
            }
        }
        assert_eq!(resumed, if asks { vec![7] } else { vec![] });
    }
}
