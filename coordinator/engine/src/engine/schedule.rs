//! Making a plan: decode tokens first, then prefill chunks, then newcomers, all within the step's budgets.

use std::time::Duration;

use tessera_types::{BlockId, Chunk, ImageKey, PlacedImage, PrefixHash, SequenceId, StepId, StepPlan};

use super::Engine;
use super::apply::InFlight;
use crate::blocks::blocks_for;
use crate::config::EngineConfig;
use crate::event::RequestNumber;
use crate::images::Pin;
use crate::queue::Place;
use crate::sequence::{Held, Sequence, Standing};

/// A plan in the making and what is left of its budgets.
struct Draft {
    plan: StepPlan,
    tokens_left: usize,
    patches_left: usize,
    /// Set when an image had to be put off. Younger sequences then pin nothing more, or they could keep the encoder
    /// cache from ever having room for it.
    images_closed: bool,
    /// Whose images the plan encodes, with their patches.
    encodes: Vec<(RequestNumber, usize)>,
    /// Images passed in this plan. They stay pinned until it is complete: a plan's forgetting comes before its chunks.
    passed: Vec<Pin>,
    /// Blocks that the plan fills.
    filled: Vec<(BlockId, PrefixHash)>,
}

impl Engine {
    /// The next plan; `None` while as many as allowed are under way, or when there is nothing to run.
    pub fn schedule(&mut self, now: Duration) -> Option<StepPlan> {
        if self.in_flight.len() >= self.config.pipeline_depth {
            return None;
        }
        let mut draft = Draft::new(self, &self.config);
        for id in self.service_order() {
            self.plan_chunk(id, &mut draft);
        }
        while draft.tokens_left > 0
            && let Some(id) = self.admit(now, &draft)
            && self.plan_chunk(id, &mut draft)
        {}
        (!draft.plan.chunks.is_empty()).then(|| self.dispatch(draft))
    }

    /// Running sequences that want to go on: those that decode, then those that prefill, both by admission.
    fn service_order(&self) -> Vec<SequenceId> {
        let remaining = |id: &SequenceId| self.sequences.get(id).filter(|s| s.wants_more()).map(Sequence::remaining);
        let mut order: Vec<_> = self.running.values().filter_map(|id| Some((remaining(id)? > 1, *id))).collect();
        order.sort_by_key(|(prefilling, _)| *prefilling);
        order.into_iter().map(|(_, id)| id).collect()
    }

    /// Admits the first in the queue if all its known tokens find blocks, and each running sequence one more: a
    /// newcomer should not make others give way at once. What the cache has of its beginning is not computed again;
    /// if the plan in the making computes more of it, the sequence waits for the next plan and finds that, too.
    fn admit(&mut self, now: Duration, draft: &Draft) -> Option<SequenceId> {
        if self.running.len() >= self.config.max_batch_sequences {
            return None;
        }
        let (place, id) = self.queue.first()?;
        let sequence = self.sequences.get_mut(&id)?;
        // A sequence that gave way with a token being chosen cannot start before the token is known.
        if sequence.in_flight > 0 {
            return None;
        }
        let request = self.requests.get_mut(&sequence.request)?;
        let mut held = Held::behind(self.pool.find(sequence.reusable()), &request.images);
        let (found, cached) = (held.blocks.len(), held.computed);
        let soon = sequence.reusable().get(found).is_some_and(|name| draft.fills(name));
        let needed = blocks_for(sequence.known()) - found;
        if soon || needed + self.running.len() > self.pool.free() {
            return None;
        }
        held.blocks.extend(self.pool.take(needed)?);
        sequence.held = held;
        request.stamps.admit(now, cached.min(sequence.prompt.len()));
        self.prefix_hit_tokens += cached as u64;
        let admission = match place {
            Place::Returning(admission) => admission,
            Place::New { .. } => {
                self.admissions += 1;
                self.admissions
            }
        };
        sequence.standing = Standing::Running(admission);
        self.running.insert(admission, id);
        self.queue.depart(now, place);
        Some(id)
    }

    /// Adds a chunk of the sequence to the plan, as long as budgets, images and blocks allow; false if none.
    fn plan_chunk(&mut self, id: SequenceId, draft: &mut Draft) -> bool {
        let Some(end) = self.reach(id, draft) else { return false };
        if !self.grow(id, end) {
            return false;
        }
        let Some(sequence) = self.sequences.get_mut(&id) else { return false };
        if !sequence.held.started {
            let images = self.requests.get(&sequence.request).map_or(&[][..], |request| &request.images);
            draft.plan.start.push(sequence.start(id, images));
            sequence.held.started = true;
        }
        let start = sequence.held.computed;
        let sample = end == start + sequence.remaining();
        let new_blocks = sequence.held.advance(end);
        sequence.in_flight += usize::from(sample);
        draft.passed.extend(sequence.held.passed());
        draft.filled.extend(sequence.take_full());
        draft.tokens_left -= end - start;
        draft.plan.chunks.push(Chunk { sequence: id, start: start as u32, len: (end - start) as u32, new_blocks, sample });
        true
    }

    /// How far the sequence's next chunk can go: as far as tokens are left in the budget, but not into an image whose
    /// encoding must wait. `None` if nowhere.
    fn reach(&mut self, id: SequenceId, draft: &mut Draft) -> Option<usize> {
        let sequence = self.sequences.get_mut(&id).filter(|s| matches!(s.standing, Standing::Running(_)))?;
        let request = self.requests.get(&sequence.request)?;
        let start = sequence.held.computed;
        let mut end = start + sequence.remaining().min(draft.tokens_left);
        while let Some(image) = request.images.get(sequence.held.images_pinned).filter(|image| (image.at as usize) < end) {
            let known = (!draft.images_closed).then(|| self.encoder.pin(image.key)).flatten();
            let pin = known.or_else(|| {
                let (pin, forgotten) = draft.room_for(image).then(|| self.encoder.insert(image.key, image.grid.patches()))??;
                draft.encode(sequence.request, image, forgotten);
                draft.plan.encode.extend(request.pixels.get(&image.key).cloned());
                Some(pin)
            });
            let Some(pin) = pin else {
                draft.images_closed = true;
                end = image.at as usize;
                break;
            };
            sequence.held.images_pinned += 1;
            sequence.held.pins.push_back((image.end(), pin));
        }
        (end > start).then_some(end)
    }

    /// Gets the sequence the blocks it needs up to `end`; younger sequences give way. False if it is the youngest
    /// itself: it then waits for its elders.
    ///
    /// A prompt's blocks were taken on admission, so only decoding sequences come here short of blocks. They are
    /// planned first and by age: who gives way is never in the plan already.
    fn grow(&mut self, id: SequenceId, end: usize) -> bool {
        loop {
            let Some(sequence) = self.sequences.get_mut(&id) else { return false };
            if let Some(blocks) = self.pool.take(sequence.held.missing(end)) {
                sequence.held.blocks.extend(blocks);
                return true;
            }
            let Some(youngest) = self.running.last_entry().map(|entry| *entry.get()).filter(|&youngest| youngest != id) else {
                return false;
            };
            self.give_way(youngest);
            self.preemptions += 1;
        }
    }

    /// Closes the plan and notes what its output will be about.
    ///
    /// Blocks that it fills can be found from now on, before it has run: ranks run plans in order, so that a later plan
    /// reads what this one wrote; and if this one fails, the group is lost and the cache with it.
    fn dispatch(&mut self, draft: Draft) -> StepPlan {
        let mut plan = draft.plan;
        plan.end = std::mem::take(&mut self.ended);
        self.step = plan.step;
        draft.filled.into_iter().for_each(|(id, name)| self.pool.name(id, name));
        self.in_flight.push_back(InFlight {
            step: plan.step,
            samples: plan.chunks.iter().filter(|chunk| chunk.sample).map(|chunk| chunk.sequence).collect(),
            encodes: draft.encodes,
        });
        plan
    }
}

impl Draft {
    fn new(engine: &Engine, config: &EngineConfig) -> Self {
        let plan = StepPlan {
            epoch: engine.epoch,
            step: StepId(engine.step.0 + 1),
            end: Vec::new(),
            forget_images: Vec::new(),
            start: Vec::new(),
            encode: Vec::new(),
            chunks: Vec::new(),
        };
        Self {
            plan,
            tokens_left: config.step_tokens,
            patches_left: config.step_patches,
            images_closed: false,
            encodes: Vec::new(),
            passed: Vec::new(),
            filled: Vec::new(),
        }
    }

    /// Whether the image may be encoded in this plan; the first always may, however large.
    fn room_for(&self, image: &PlacedImage) -> bool {
        !self.images_closed && (self.encodes.is_empty() || image.grid.patches() <= self.patches_left)
    }

    fn fills(&self, name: &PrefixHash) -> bool {
        self.filled.iter().any(|(_, filled)| filled == name)
    }

    fn encode(&mut self, request: RequestNumber, image: &PlacedImage, forgotten: Vec<ImageKey>) {
        self.plan.forget_images.extend(forgotten);
        self.patches_left = self.patches_left.saturating_sub(image.grid.patches());
        self.encodes.push((request, image.grid.patches()));
    }
}
