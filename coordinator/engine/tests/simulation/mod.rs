//! What the tests run the engine against: a worker that believes nothing, and a client that counts every token.
// Each test file compiles this on its own and uses a part of it.
#![allow(dead_code)]

pub(crate) mod client;
pub(crate) mod reference;
pub(crate) mod worker;

use std::collections::VecDeque;
use std::time::Duration;

use tessera_engine::{Engine, EngineConfig};
use tessera_types::{Epoch, StepOutput, StepPlan};

use client::Client;
use worker::Worker;

/// An engine, its group, and the outputs on their way back.
pub(crate) struct Cluster {
    pub(crate) engine: Engine,
    pub(crate) worker: Worker,
    pub(crate) client: Client,
    pub(crate) travelling: VecDeque<StepOutput>,
    /// Outputs of groups given up, which may still arrive.
    pub(crate) stale: VecDeque<StepOutput>,
    pub(crate) now: Duration,
    epoch: u64,
}

impl Cluster {
    pub(crate) fn new(config: EngineConfig) -> Self {
        let mut engine = Engine::new(config.clone()).unwrap();
        engine.reset(Duration::ZERO, Epoch(1), config.kv_blocks);
        Self {
            engine,
            worker: Worker::new(Epoch(1), config),
            client: Client::default(),
            travelling: VecDeque::new(),
            stale: VecDeque::new(),
            now: Duration::ZERO,
            epoch: 1,
        }
    }

    /// Plans a step and runs it on the worker at once; its output then travels.
    pub(crate) fn plan(&mut self) -> Option<StepPlan> {
        let plan = self.engine.schedule(self.now)?;
        let depth = self.engine.config().pipeline_depth;
        self.travelling.push_back(self.worker.run(&plan));
        assert!(self.travelling.len() <= depth, "more plans under way than allowed");
        assert_eq!(self.engine.stats().in_flight, self.travelling.len());
        Some(plan)
    }

    /// Lets the oldest output arrive.
    pub(crate) fn deliver(&mut self) {
        if let Some(output) = self.travelling.pop_front() {
            self.now += Duration::from_millis(1);
            self.engine.apply(self.now, output).unwrap();
            self.listen();
        }
    }

    pub(crate) fn listen(&mut self) {
        self.client.hear(self.engine.take_events());
    }

    /// Loses the group with everything on its way; a new one forms.
    pub(crate) fn lose_group(&mut self, kv_blocks: usize) {
        self.stale.append(&mut self.travelling);
        self.epoch += 1;
        self.engine.reset(self.now, Epoch(self.epoch), kv_blocks);
        self.worker = Worker::new(Epoch(self.epoch), self.engine.config().clone());
        self.listen();
    }

    /// Runs until nothing is left; a step in which nothing can be planned though work waits is a failure.
    pub(crate) fn drain(&mut self) {
        for _ in 0..100_000 {
            while self.plan().is_some() {}
            if self.travelling.is_empty() {
                assert!(self.engine.is_idle(), "stuck: {:?}", self.engine.stats());
                return;
            }
            self.deliver();
        }
        panic!("never done: {:?}", self.engine.stats());
    }
}
