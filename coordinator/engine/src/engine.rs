//! The engine: takes requests, makes plans, reads outputs.

mod apply;
mod schedule;

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::time::Duration;

use tessera_types::{Epoch, PrefixHash, SequenceId, StepId};

pub use self::apply::OutputError;
use crate::blocks::BlockPool;
use crate::config::{ConfigError, EngineConfig};
use crate::event::{Event, FinishReason, RequestNumber};
use crate::images::EncoderCache;
use crate::queue::{Admission, Place, Queue};
use crate::request::{NewRequest, NewSequence, Refusal, Request, Stamps};
use crate::sequence::{Held, Sequence, Standing};
use crate::stats::Stats;

/// One replica's scheduler. See the crate's page for what it promises.
#[derive(Debug)]
pub struct Engine {
    config: EngineConfig,
    epoch: Epoch,
    /// The last step planned.
    step: StepId,
    pool: BlockPool,
    encoder: EncoderCache,
    queue: Queue,
    /// Admitted sequences by order of admission.
    running: BTreeMap<u64, SequenceId>,
    sequences: HashMap<SequenceId, Sequence>,
    requests: HashMap<RequestNumber, Request>,
    deadlines: BTreeSet<(Duration, RequestNumber)>,
    in_flight: VecDeque<apply::InFlight>,
    /// Sequences that the ranks know and should forget.
    ended: Vec<SequenceId>,
    events: Vec<Event>,
    last_sequence: u64,
    last_request: u64,
    admissions: u64,
    preemptions: u64,
    prefix_hit_tokens: u64,
}

impl Engine {
    /// An engine with nothing to do, at epoch 0.
    pub fn new(config: EngineConfig) -> Result<Self, ConfigError> {
        config.validate()?;
        Ok(Self {
            epoch: Epoch(0),
            step: StepId(0),
            pool: BlockPool::new(config.kv_blocks),
            encoder: EncoderCache::new(config.encoder_tokens),
            queue: Queue::default(),
            running: BTreeMap::new(),
            sequences: HashMap::new(),
            requests: HashMap::new(),
            deadlines: BTreeSet::new(),
            in_flight: VecDeque::new(),
            ended: Vec::new(),
            events: Vec::new(),
            last_sequence: 0,
            last_request: 0,
            admissions: 0,
            preemptions: 0,
            prefix_hit_tokens: 0,
            config,
        })
    }

    /// Takes a request into the queue, or refuses it at once.
    pub fn submit(&mut self, now: Duration, request: NewRequest) -> Result<Admission, Refusal> {
        request.check(now, &self.config)?;
        let (waiting, count) = (self.queue.new_len(), request.sequences.len());
        // An empty queue takes any request, so that one with more sequences than the queue is long can be served.
        if waiting > 0 && waiting + count > self.config.queue_len {
            return Err(Refusal::QueueFull { waiting, retry_after: self.queue.retry_after(now, count) });
        }
        Ok(self.enqueue(now, request))
    }

    fn enqueue(&mut self, now: Duration, new: NewRequest) -> Admission {
        self.last_request += 1;
        let request = RequestNumber(self.last_request);
        let live: Vec<_> = (self.last_sequence + 1..).map(SequenceId).take(new.sequences.len()).collect();
        self.last_sequence += live.len() as u64;
        let queue_position = live.first().map_or(0, |&id| self.queue.before(Place::new(new.priority, id)));
        self.deadlines.extend(new.deadline.map(|deadline| (deadline, request)));
        let names = PrefixHash::of_prompt(&new.prompt, &new.images);
        let images = new.images.clone();
        self.requests.insert(
            request,
            Request {
                images: new.images,
                pixels: new.pixels.into_iter().map(|image| (image.key, image)).collect(),
                deadline: new.deadline,
                live: live.clone(),
                stamps: Stamps::new(now),
            },
        );
        let room = self.config.context() - new.prompt.len();
        for (&id, NewSequence { sampling, generated }) in live.iter().zip(new.sequences) {
            let place = Place::new(new.priority, id);
            let mut sequence = Sequence {
                request,
                prompt: new.prompt.clone(),
                max_new: room.min(sampling.max_new_tokens as usize),
                room,
                generated,
                names: names.clone(),
                sampling,
                standing: Standing::Waiting(place),
                in_flight: 0,
                next_prompt_logprob: 1,
                held: Held::default(),
            };
            sequence.name_blocks(&images);
            // A resumed sequence may have had its last token already.
            let end = sequence.end();
            self.sequences.insert(id, sequence);
            self.queue.insert(place, id);
            if let Some(reason) = end {
                self.finish(now, id, reason);
            }
        }
        Admission { request, sequences: live, queue_position }
    }

    /// Ends a sequence. Its blocks are free at once; one that has ended already is let be.
    pub fn cancel(&mut self, now: Duration, sequence: SequenceId) {
        self.finish(now, sequence, FinishReason::Cancelled);
    }

    /// Ends the requests whose deadline has passed.
    pub fn tick(&mut self, now: Duration) {
        while let Some(&(deadline, request)) = self.deadlines.first().filter(|(deadline, _)| *deadline <= now) {
            self.deadlines.remove(&(deadline, request));
            let live = self.requests.get(&request).map(|request| request.live.clone());
            live.iter().flatten().for_each(|&id| self.finish(now, id, FinishReason::DeadlineExceeded));
        }
    }

    /// The next time at which [`tick`](Self::tick) has something to do.
    pub fn next_deadline(&self) -> Option<Duration> {
        self.deadlines.first().map(|(deadline, _)| *deadline)
    }

    /// Starts over with a new group, whose ranks hold nothing and have `kv_blocks` blocks: plans under way are
    /// forgotten, and every sequence that ran goes back to be replayed from its prompt and the tokens so far.
    pub fn reset(&mut self, now: Duration, epoch: Epoch, kv_blocks: usize) {
        while let Some((_, id)) = self.running.pop_last() {
            self.give_way(id);
        }
        self.epoch = epoch;
        self.step = StepId(0);
        self.config.kv_blocks = kv_blocks;
        self.pool = BlockPool::new(kv_blocks);
        self.encoder = EncoderCache::new(self.config.encoder_tokens);
        self.in_flight.clear();
        self.ended.clear();
        let context = self.config.context();
        let mut over = Vec::new();
        for (&id, sequence) in &mut self.sequences {
            sequence.in_flight = 0;
            sequence.room = context.saturating_sub(sequence.prompt.len());
            over.extend(sequence.end().map(|reason| (id, reason)));
        }
        over.sort_unstable_by_key(|(id, _)| *id);
        over.into_iter().for_each(|(id, reason)| self.finish(now, id, reason));
    }

    /// Takes everything told since the last call.
    pub fn take_events(&mut self) -> Vec<Event> {
        std::mem::take(&mut self.events)
    }

    /// Whether there is nothing to do and nothing under way.
    pub fn is_idle(&self) -> bool {
        self.sequences.is_empty() && self.in_flight.is_empty()
    }

    /// The engine's state in numbers.
    pub fn stats(&self) -> Stats {
        Stats {
            running: self.running.len(),
            waiting: self.queue.len(),
            queued_tokens: self.sequences.values().map(Sequence::remaining).sum(),
            blocks_used: self.pool.used(),
            blocks_total: self.pool.total(),
            encoder_tokens: self.encoder.used(),
            in_flight: self.in_flight.len(),
            preemptions: self.preemptions,
            prefix_hit_tokens: self.prefix_hit_tokens,
        }
    }

    /// Gives plans that are made from now on so many tokens at most, at least one.
    pub fn bound_steps(&mut self, tokens: usize) {
        self.config.step_tokens = tokens.max(1);
    }

    /// The limits, with the cache's present size.
    pub fn config(&self) -> &EngineConfig {
        &self.config
    }

    /// Forgets a sequence and tells its end, and its request's with the last of them.
    fn finish(&mut self, now: Duration, id: SequenceId, reason: FinishReason) {
        let Some(sequence) = self.sequences.remove(&id) else { return };
        match sequence.standing {
            Standing::Waiting(place) => self.queue.remove(place),
            Standing::Running(admission) => drop(self.running.remove(&admission)),
        }
        self.ended.extend(sequence.held.started.then_some(id));
        self.events.push(Event::Finished { sequence: id, reason });
        let number = sequence.request;
        let Some(request) = self.requests.get_mut(&number) else { return };
        request.live.retain(|&live| live != id);
        if request.live.is_empty() {
            let (timings, cached_prompt_tokens) = (request.stamps.timings(now), request.stamps.cached);
            self.events.push(Event::RequestFinished { request: number, timings, cached_prompt_tokens });
            if let Some(deadline) = request.deadline {
                self.deadlines.remove(&(deadline, number));
            }
            self.requests.remove(&number);
        }
    }

    /// Takes from a sequence all that it holds and puts it first in the queue among those that came after it.
    fn give_way(&mut self, id: SequenceId) {
        let Some(sequence) = self.sequences.get_mut(&id) else { return };
        let Standing::Running(admission) = sequence.standing else { return };
        let held = std::mem::take(&mut sequence.held);
        self.ended.extend(held.started.then_some(id));
        let place = Place::Returning(admission);
        sequence.standing = Standing::Waiting(place);
        self.running.remove(&admission);
        self.queue.insert(place, id);
    }
}
