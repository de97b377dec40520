//! The thread that owns the device, the model and the collective.

use std::{sync::Arc, thread, time::Instant};

use metrics::Gauge;
use tessera_collective::{AbortHandle, CollectiveError};
use tessera_device::DeviceError;
use tessera_model::ModelError;
use tessera_proto::internal::{self as wire, load_event::Event, step_failure::Kind};
use tessera_service::metrics as names;
use tessera_types::{Rank, StepPlan, StepTimings};
use tokio::sync::{mpsc, watch};
use tonic::Status;
use tracing::{Span, info, warn};

use crate::{DeviceConfig, error::LoadError, fence::Fence, guard::guarded, holding::Holding, request::LoadRequest, work::Work};

/// Commands that may wait; coordinators have two plans under way.
const COMMANDS: usize = 8;

/// What the thread is told.
pub(crate) enum Command {
    /// Joins a group, which `abort` ends, and loads the weights unless they are held. Answers end with the result.
    Load { request: Box<LoadRequest>, abort: AbortHandle, answers: Answers<wire::LoadEvent>, span: Span },
    /// Runs a step that came at `given`; one answer.
    Step { plan: Box<StepPlan>, given: Instant, answers: Answers<wire::StepResult>, span: Span },
    /// Parts with a group that was left; any other command does so first.
    Leave,
}

pub(crate) type Answers<T> = mpsc::Sender<Result<T, Status>>;

/// A channel to the thread.
pub(crate) type Commands = mpsc::Sender<Command>;

/// What the worker holds, for those who ask.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Inventory {
    /// Model, degree and rank of the weights.
    pub(crate) fingerprint: Option<String>,
    pub(crate) weight_bytes: u64,
}

/// Starts the thread; it ends when the channel is dropped.
pub(crate) fn start(
    worker: Arc<str>,
    device: DeviceConfig,
    fence: Arc<Fence>,
    work: Work,
    inventory: watch::Sender<Inventory>,
) -> std::io::Result<Commands> {
    let (sender, mut commands) = mpsc::channel(COMMANDS);
    let weights = metrics::gauge!(names::RANK_WEIGHT_BYTES, "worker" => worker.to_string());
    let leave = sender.downgrade();
    fence.tell(move || {
        // Where there is no room, other commands wait.
        if let Some(commands) = leave.upgrade() {
            let _ = commands.try_send(Command::Leave);
        }
    });
    let mut owner = Owner { weights, device, fence, work, inventory, group: AbortHandle::new(), held: None };
    thread::Builder::new().name("rank".into()).spawn(move || {
        while let Some(command) = commands.blocking_recv() {
            owner.leave_what_ended();
            match command {
                Command::Leave => {}
                Command::Load { request, abort, answers, span } => {
                    let _entered = span.entered();
                    owner.answer_load(&request, abort, &answers);
                }
                Command::Step { plan, given, answers, span } => span.in_scope(|| owner.answer_step(&plan, given, &answers)),
            }
        }
    })?;
    Ok(sender)
}

struct Owner {
    weights: Gauge,
    device: DeviceConfig,
    fence: Arc<Fence>,
    work: Work,
    inventory: watch::Sender<Inventory>,
    /// What ends the group last joined.
    group: AbortHandle,
    held: Option<Holding>,
}

impl Owner {
    /// A collective that was aborted may wait for what is held here, and so may its device.
    fn leave_what_ended(&mut self) {
        if let Some(held) = self.held.as_mut().filter(|_| self.group.is_aborted()) {
            held.leave();
        }
    }

    fn answer_load(&mut self, request: &LoadRequest, abort: AbortHandle, answers: &Answers<wire::LoadEvent>) {
        let (start, epoch) = (Instant::now(), request.group.epoch);
        let loaded = self.load(request, abort, answers);
        self.take_stock();
        let answer = match loaded {
            Ok(loaded) => {
                let wire::Loaded { kv_blocks, bytes_read, .. } = loaded;
                let (rank, tp) = (request.group.rank, request.group.size);
                info!(%epoch, %rank, tp, kv_blocks, bytes_read, "loaded in {:.1?}", start.elapsed());
                Ok(event(Event::Loaded(loaded)))
            }
            Err(error) => {
                warn!(%epoch, %error, "not loaded");
                self.fence.leave(epoch);
                Err(error.into())
            }
        };
        if answers.try_send(answer).is_err() {
            // No one will send plans to a group that no one has heard of.
            self.fence.leave(epoch);
        }
    }

    fn load(
        &mut self,
        request: &LoadRequest,
        abort: AbortHandle,
        answers: &Answers<wire::LoadEvent>,
    ) -> Result<wire::Loaded, LoadError> {
        let epoch = request.group.epoch;
        self.group = abort.clone();
        let mut progress = |bytes_done, bytes_total| {
            // Progress that no one reads in time is overtaken by what follows; the last place is the result's.
            if answers.capacity() > 1 {
                let _ = answers.try_send(Ok(event(Event::Progress(wire::LoadProgress { bytes_done, bytes_total }))));
            }
        };
        let held = &mut self.held;
        let loaded = guarded(|| Holding::load(held, request, abort, &self.device, self.work.progress(), &mut progress));
        let loaded = loaded.unwrap_or_else(|panic| {
            self.held = None;
            Err(ModelError::from(DeviceError::Thread(panic)).into())
        })?;
        if self.fence.obeys(epoch) { Ok(loaded) } else { Err(LoadError::GivenUp(epoch)) }
    }

    fn take_stock(&self) {
        let held = self.held.as_ref();
        let (weight_bytes, fingerprint) = (held.map_or(0, Holding::weight_bytes), held.map(|held| held.fingerprint().to_owned()));
        self.weights.set(weight_bytes as f64);
        self.inventory.send_modify(|inventory| {
            inventory.weight_bytes = weight_bytes;
            inventory.fingerprint = fingerprint;
        });
    }

    fn answer_step(&mut self, plan: &StepPlan, given: Instant, answers: &Answers<wire::StepResult>) {
        let outcome = self.step(plan, given);
        let failed = outcome.is_err();
        let (output, failure) = match outcome {
            Ok(output) => (output, None),
            Err(failure) => (None, Some(failure)),
        };
        let result = wire::StepResult { epoch: plan.epoch.0, step: plan.step.0, failure, output };
        self.work.ended();
        let told = answers.try_send(Ok(result)).is_ok();
        if failed || !told {
            // The other ranks must not wait for this one.
            self.fence.leave(plan.epoch);
        }
    }

    /// The output, on rank 0 alone.
    fn step(&mut self, plan: &StepPlan, given: Instant) -> Result<Option<wire::StepOutput>, wire::StepFailure> {
        let Some(held) = self.held.as_mut().filter(|_| self.fence.obeys(plan.epoch)) else {
            let (newest, rank) = self.fence.now();
            let now = if rank.is_some() { format!("in the group of epoch {newest}") } else { "in no group".to_owned() };
            let message = format!("a plan of epoch {}, but this worker is {now}", plan.epoch);
            return Err(wire::StepFailure { kind: Kind::Epoch.into(), message });
        };
        match held.step(plan, given) {
            Ok(output) => {
                measure(output.timings);
                Ok((held.rank() == Rank(0)).then(|| wire::StepOutput::from(&output)))
            }
            Err(error) => {
                warn!(epoch = %plan.epoch, step = %plan.step, %error, "a step failed");
                if matches!(error, ModelError::Device(DeviceError::Thread(_))) {
                    // Nobody knows what it has left behind.
                    self.held = None;
                    self.take_stock();
                }
                Err(wire::StepFailure { kind: kind(&error).into(), message: error.to_string() })
            }
        }
    }
}

fn kind(error: &ModelError) -> Kind {
    match error {
        ModelError::Plan(_) => Kind::Plan,
        ModelError::Collective(CollectiveError::Device(_)) => Kind::Device,
        ModelError::Collective(_) => Kind::Collective,
        _ => Kind::Device,
    }
}

fn event(event: Event) -> wire::LoadEvent {
    wire::LoadEvent { event: Some(event) }
}

fn measure(timings: StepTimings) {
    let StepTimings { encode_us, forward_us, sample_us, collective_us } = timings;
    for (stage, us) in [("encode", encode_us), ("forward", forward_us), ("sample", sample_us), ("collective", collective_us)] {
        metrics::histogram!(names::RANK_STAGE_SECONDS, "stage" => stage).record(us as f64 / 1e6);
    }
}
