//! What a request gets, token by token.

use tessera_proto::v1::{self, finished::Matched, generate_response::Event};
use tessera_types::special;

use crate::{
    fake::{END, Script},
    harness::{House, ask, chat, eventually, text_part},
};

/// Every event of a request.
async fn events(house: &House, request: v1::GenerateRequest) -> Vec<Event> {
    let mut stream = house.client().await.generate(request).await.unwrap().into_inner();
    let mut events = Vec::new();
    while let Some(response) = stream.message().await.unwrap() {
        events.extend(response.event);
    }
    events
}

fn deltas(events: &[Event], index: u32) -> Vec<&v1::Delta> {
    let deltas = events.iter().filter_map(|event| if let Event::Delta(delta) = event { Some(delta) } else { None });
    deltas.filter(|delta| delta.index == index).collect()
}

fn text(events: &[Event], index: u32) -> String {
    deltas(events, index).iter().map(|delta| delta.text.as_str()).collect()
}

fn finished(events: &[Event], index: u32) -> &v1::Finished {
    let ends: Vec<_> =
        events.iter().filter_map(|event| if let Event::Finished(end) = event { Some(end) } else { None }).collect();
    let ends: Vec<_> = ends.into_iter().filter(|end| end.index == index).collect();
    assert_eq!(ends.len(), 1, "one end a sequence");
    ends[0]
}

fn usage(events: &[Event]) -> v1::Usage {
    match events.last() {
        Some(Event::Usage(usage)) => *usage,
        other => panic!("usage comes last, not {other:?}"),
    }
}

#[tokio::test]
async fn a_stream_is_accepted_then_deltas_without_gaps_then_the_end_then_usage() {
    let house = House::of(Script::default()).await;
    let request = v1::GenerateRequest { request_id: "mine".into(), return_token_ids: true, ..ask(v1::Sampling::default()) };
    let events = events(&house, request).await;
    let Event::Accepted(accepted) = &events[0] else { panic!("accepted comes first") };
    assert_eq!((accepted.request_id.as_str(), accepted.model.as_str(), accepted.queue_position), ("mine", "bytes", 3));
    assert_eq!(accepted.prompt_token_ids.len(), accepted.prompt_tokens as usize);
    let deltas = deltas(&events, 0);
    assert!(deltas.iter().enumerate().all(|(at, delta)| delta.seq == at as u64));
    assert_eq!(text(&events, 0), Script::default().answer);
    let ids: Vec<u32> = deltas.iter().flat_map(|delta| delta.token_ids.clone()).collect();
    let expected: Vec<u32> = Script::default().answer.bytes().map(|byte| 1000 + u32::from(byte)).chain([END]).collect();
    assert_eq!(ids, expected);
    let end = finished(&events, 0);
    assert_eq!((end.reason(), end.matched.clone()), (v1::FinishReason::Stop, Some(Matched::StopTokenId(END))));
    let usage = usage(&events);
    assert_eq!(usage.generated_tokens as usize, expected.len());
    assert_eq!(usage.prompt_tokens, accepted.prompt_tokens);
    assert_eq!(usage.cached_prompt_tokens, 5);
    let timings = usage.timings.unwrap();
    assert_eq!((timings.queue_us, timings.encode_us, timings.prefill_us, timings.decode_us), (11, 22, 33, 44));
    assert!(timings.time_to_first_token_us > 0 && timings.total_us >= timings.time_to_first_token_us);
}

#[tokio::test]
async fn the_replica_is_told_the_whole_request() {
    let house = House::of(Script::default()).await;
    let sampling = v1::Sampling {
        temperature: Some(0.25),
        top_k: Some(7),
        seed: Some(40),
        n: Some(2),
        logit_bias: [(1033, -1.5), (1001, 2.0)].into(),
        max_new_tokens: Some(9),
        stop_token_ids: vec![1100],
        ignore_eos: Some(true),
        ..Default::default()
    };
    events(&house, v1::GenerateRequest { priority: -4, ..ask(sampling) }).await;
    let request = house.seen().last();
    assert_eq!(request.priority, -4);
    assert!(request.deadline_us > 0);
    let params: Vec<_> = request.sequences.iter().map(|sequence| sequence.sampling.clone().unwrap()).collect();
    assert_eq!((params[0].seed, params[1].seed), (40, 41));
    assert_eq!((params[0].temperature, params[0].top_k, params[0].top_p, params[0].max_new_tokens), (0.25, 7, 1.0, 9));
    assert_eq!(params[0].stop_tokens, [1100]);
    let bias: Vec<_> = params[0].logit_bias.iter().map(|bias| (bias.token, bias.bias)).collect();
    assert_eq!(bias, [(1001, 2.0), (1033, -1.5)]);
    assert_eq!(request.prompt[..2], [special::BEGIN.0, special::BEGIN_INST.0]);
}

#[tokio::test]
async fn a_stop_string_across_tokens_ends_the_text_before_it_and_stops_the_replica() {
    let house = House::of(Script { pace: std::time::Duration::from_millis(2), ..Script::default() }).await;
    let sampling = v1::Sampling { stop: vec!["lazy".into(), "fox j".into()], ..Default::default() };
    let events = events(&house, v1::GenerateRequest { return_token_ids: true, ..ask(sampling) }).await;
    assert_eq!(text(&events, 0), "The quick brown ");
    assert_eq!(finished(&events, 0).matched, Some(Matched::StopString("fox j".into())));
    let ids: usize = deltas(&events, 0).iter().map(|delta| delta.token_ids.len()).sum();
    assert_eq!(ids, "The quick brown fox j".len());
    assert_eq!(usage(&events).generated_tokens as usize, ids);
    eventually("the replica is told to stop", || house.seen().stopped.lock().len() == 1).await;
    eventually("the replica's stream ends", || house.seen().running() == 0).await;
}

#[tokio::test]
async fn every_one_of_n_sequences_is_told_whole_and_with_its_own_seed() {
    let house = House::of(Script::default()).await;
    let sampling = v1::Sampling { n: Some(3), seed: Some(7), max_new_tokens: Some(12), ..Default::default() };
    let events = events(&house, ask(sampling)).await;
    for index in 0..3 {
        assert_eq!(text(&events, index), "The quick br");
        let end = finished(&events, index);
        assert_eq!((end.reason(), end.seed), (v1::FinishReason::Length, 7 + u64::from(index)));
        assert!(deltas(&events, index).iter().enumerate().all(|(at, delta)| delta.seq == at as u64));
    }
    assert_eq!(usage(&events).generated_tokens, 36);
}

#[tokio::test]
async fn log_probabilities_come_with_their_tokens() {
    let house = House::of(Script { answer: "Né".into(), ..Script::default() }).await;
    let sampling = v1::Sampling { logprobs: Some(2), prompt_logprobs: Some(0), ..Default::default() };
    let events = events(&house, ask(sampling)).await;
    let Event::Accepted(accepted) = &events[0] else { panic!("accepted comes first") };
    let deltas = deltas(&events, 0);
    assert_eq!(deltas[0].prompt_logprobs.len(), accepted.prompt_tokens as usize - 1);
    assert!(deltas[1..].iter().all(|delta| delta.prompt_logprobs.is_empty()));
    let told: Vec<_> = deltas.iter().map(|delta| (delta.text.as_str(), &delta.logprobs[..])).collect();
    let [("N", [n]), ("", [_]), ("é", [e]), ("", [end])] = told[..] else { panic!("{told:?}") };
    assert_eq!((n.token_id, n.logprob, &n.token[..], n.top.len()), (1000 + 78, -0.5, &b"N"[..], 2));
    assert_eq!((&e.token[..], end.token_id), (&[0xA9][..], END));
}

#[tokio::test]
async fn a_client_that_goes_away_frees_the_replica() {
    let house = House::of(Script { pace: std::time::Duration::from_millis(5), ..Script::default() }).await;
    let sampling = v1::Sampling { ignore_eos: Some(true), max_new_tokens: Some(4000), ..Default::default() };
    let mut stream = house.client().await.generate(ask(sampling.clone())).await.unwrap().into_inner();
    for _ in 0..5 {
        stream.message().await.unwrap().unwrap();
    }
    assert_eq!(house.seen().running(), 1);
    drop(stream);
    eventually("the stream's sequence is freed", || house.seen().running() == 0).await;
    let mut client = house.client().await;
    let once = tokio::spawn(async move { client.generate_once(ask(sampling)).await });
    eventually("the call runs", || house.seen().running() == 1).await;
    once.abort();
    eventually("the call's sequence is freed", || house.seen().running() == 0).await;
}

#[tokio::test]
async fn the_whole_answer_at_once_is_what_the_stream_says() {
    let house = House::of(Script::default()).await;
    let sampling = v1::Sampling { n: Some(2), logprobs: Some(1), stop: vec!["fox".into()], ..Default::default() };
    let request = v1::GenerateRequest { return_token_ids: true, ..ask(sampling) };
    let answer = house.client().await.generate_once(request.clone()).await.unwrap().into_inner();
    let events = events(&house, request).await;
    for completion in &answer.completions {
        assert_eq!(completion.text, text(&events, completion.index));
        let ids: Vec<u32> = deltas(&events, completion.index).iter().flat_map(|delta| delta.token_ids.clone()).collect();
        assert_eq!((&completion.token_ids, completion.logprobs.len()), (&ids, ids.len()));
        assert_eq!(completion.finished.as_ref().unwrap().matched, finished(&events, completion.index).matched);
    }
    assert_eq!(answer.usage.unwrap().generated_tokens, usage(&events).generated_tokens);
}

#[tokio::test]
async fn an_answer_without_a_limit_may_fill_the_context() {
    let house = House::of(Script { max_context: 200, ..Script::default() }).await;
    let events = events(&house, chat(vec![text_part("Hi")])).await;
    let usage = usage(&events);
    let asked = house.seen().last().sequences[0].sampling.clone().unwrap().max_new_tokens;
    assert_eq!(asked, 200 - usage.prompt_tokens);
}
