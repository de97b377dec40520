//! The golden prompt, its greedy tokens, and plans that make them.

use tessera_proto::internal as wire;
use tessera_types::{BlockId, Chunk, Epoch, SamplingParams, SequenceId, SequenceStart, StepId, StepPlan, TokenId};

use crate::harness::{Group, Worker, fixture};

pub(crate) struct Golden {
    prompt: Vec<TokenId>,
    pub(crate) greedy: Vec<u32>,
}

impl Golden {
    pub(crate) fn read() -> Self {
        let text = std::fs::read_to_string(fixture("golden/text_short.json")).unwrap();
        let facts: serde_json::Value = serde_json::from_str(&text).unwrap();
        let ids = |key: &str| facts[key].as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect::<Vec<_>>();
        Self { prompt: ids("ids").into_iter().map(TokenId).collect(), greedy: ids("greedy") }
    }

    /// The whole prompt in step 1, one token in each step after it.
    pub(crate) fn plan(&self, epoch: u64, step: u64) -> wire::StepPlan {
        let (first, len) = (step == 1, self.prompt.len() as u32);
        let sequence = SequenceId(7);
        let sampling = SamplingParams { temperature: 0.0, ..Default::default() };
        let start = SequenceStart { sequence, tokens: self.prompt.clone(), prompt_len: len, images: vec![], sampling };
        let blocks = (0..4).map(|block| BlockId(3 + 2 * block)).collect();
        let chunk = if first {
            Chunk { sequence, start: 0, len, new_blocks: blocks, sample: true }
        } else {
            Chunk { sequence, start: len + step as u32 - 2, len: 1, new_blocks: vec![], sample: true }
        };
        let plan = StepPlan {
            epoch: Epoch(epoch),
            step: StepId(step),
            end: vec![],
            forget_images: vec![],
            start: if first { vec![start] } else { vec![] },
            encode: vec![],
            chunks: vec![chunk],
        };
        plan.into()
    }
}

/// Runs all golden tokens on two workers, plans sent ahead of their answers: ranks feed themselves.
pub(crate) async fn two_workers_are_golden(workers: [&Worker; 2], epoch: u64) {
    let golden = Golden::read();
    let [a, b] = workers;
    let (mut first, mut second) = tokio::join!(a.run(), b.run());
    let steps = golden.greedy.len() as u64;
    for step in 1..=steps + 2 {
        if step <= steps {
            first.send(golden.plan(epoch, step)).await;
            second.send(golden.plan(epoch, step)).await;
        }
        if step > 2 {
            assert_eq!(first.token().await, golden.greedy[step as usize - 3]);
            let silent = second.result().await.unwrap();
            assert_eq!((silent.step, silent.failure, silent.output), (step - 2, None, None), "only rank 0 speaks");
        }
    }
}

#[tokio::test]
async fn two_workers_give_the_golden_tokens_with_plans_sent_ahead() {
    for group in [Group::shm(2), Group::tcp(2)] {
        let (a, b) = (Worker::start("a").await, Worker::start("b").await);
        group.load([&a, &b], 3).await;
        two_workers_are_golden([&a, &b], 3).await;
        assert_eq!(a.status().await.steps, 24);
    }
}
