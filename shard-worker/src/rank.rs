//! The thread that owns the device, the model and the collective.

use std::{
    collections::VecDeque,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use metrics::Gauge;
use tessera_collective::{AbortHandle, CollectiveError, LastResort};
use tessera_device::DeviceError;
use tessera_model::ModelError;
use tessera_proto::internal::{self as wire, load_event::Event, step_failure::Kind};
use tessera_service::metrics as names;
use tessera_types::{Epoch, Rank, StepId, StepOutput, StepPlan, StepTimings};
use tokio::sync::{mpsc, watch};
use tonic::Status;
use tracing::{Span, info, warn};

use crate::{DeviceConfig, error::LoadError, fence::Fence, guard::guarded, holding::Holding, request::LoadRequest, work::Work};

/// Commands that may wait; coordinators have two plans under way.
const COMMANDS: usize = 8;
/// Steps that may be begun and not ended: the one that the device works on, and the one behind it.
const OPEN_STEPS: usize = 2;
/// What an answer may take to leave a process that ends.
const TELLING: Duration = Duration::from_millis(200);

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
    let peers = metrics::gauge!(names::RANK_HAS_PEERS, "worker" => worker.to_string());
    let leave = sender.downgrade();
    fence.tell(move || {
        // Where there is no room, other commands wait.
        if let Some(commands) = leave.upgrade() {
            let _ = commands.try_send(Command::Leave);
        }
    });
    let mut owner = Owner {
        weights,
        peers,
        device,
        fence,
        work,
        inventory,
        group: AbortHandle::new(),
        held: None,
        open: VecDeque::new(),
        broken: None,
    };
    thread::Builder::new().name("rank".into()).spawn(move || {
        while let Some(command) = owner.next(&mut commands) {
            owner.leave_what_ended();
            match command {
                Command::Leave => {}
                Command::Load { request, abort, answers, span } => {
                    let _entered = span.entered();
                    owner.answer_load(&request, abort, &answers);
                }
                Command::Step { plan, given, answers, span } => {
                    let asked = Asked { epoch: plan.epoch, step: plan.step, answers, span };
                    owner.begin_step(&plan, given, asked);
                }
            }
        }
    })?;
    Ok(sender)
}

struct Owner {
    weights: Gauge,
    peers: Gauge,
    device: DeviceConfig,
    fence: Arc<Fence>,
    work: Work,
    inventory: watch::Sender<Inventory>,
    /// What ends the group last joined.
    group: AbortHandle,
    held: Option<Holding>,
    /// Steps that are open, in the order in which they were begun.
    open: VecDeque<Asked>,
    /// Why the device is lost to this process.
    broken: Option<String>,
}

/// A step, and who waits for it.
struct Asked {
    epoch: Epoch,
    step: StepId,
    answers: Answers<wire::StepResult>,
    /// Ends when this is dropped.
    span: Span,
}

impl Owner {
    /// The next command. Until it comes, open steps are ended; when it comes while one is open, it may be a step to be begun
    /// behind that one.
    fn next(&mut self, commands: &mut mpsc::Receiver<Command>) -> Option<Command> {
        while !self.open.is_empty() {
            let has_room = self.open.len() < OPEN_STEPS;
            if !self.end_step(&mut || has_room && !commands.is_empty()) {
                break;
            }
        }
        self.end_if_broken();
        commands.blocking_recv()
    }

    /// A collective that was aborted may wait for what is held here, and so may its device.
    fn leave_what_ended(&mut self) {
        if self.group.is_aborted() {
            self.end_steps();
        }
        let Some(left) = self.held.as_mut().filter(|_| self.group.is_aborted()).map(Holding::leave) else { return };
        self.take_stock();
        // A collective may have met the device's failure first, and called it its own.
        if let Err(error) = left {
            self.note(&error);
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
                if let LoadError::Model(error) = &error {
                    self.note(error);
                }
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
        self.peers.set(f64::from(u8::from(held.is_some_and(Holding::has_peers))));
        self.inventory.send_modify(|inventory| {
            inventory.weight_bytes = weight_bytes;
            inventory.fingerprint = fingerprint;
        });
    }

    fn begin_step(&mut self, plan: &StepPlan, given: Instant, asked: Asked) {
        let _entered = asked.span.clone().entered();
        let follows = self.held.as_ref().is_none_or(|held| held.is_followed_by(plan));
        if !follows {
            self.end_steps();
        }
        match self.begin(plan, given).transpose() {
            None => self.open.push_back(asked),
            Some(outcome) => {
                self.end_steps();
                self.answer_step(&asked, outcome);
            }
        }
    }

    /// `None` where the step is open now.
    fn begin(&mut self, plan: &StepPlan, given: Instant) -> Result<Option<StepOutput>, wire::StepFailure> {
        let Some(held) = self.held.as_mut().filter(|_| self.fence.obeys(plan.epoch)) else {
            let (newest, rank) = self.fence.now();
            let now = if rank.is_some() { format!("in the group of epoch {newest}") } else { "in no group".to_owned() };
            let message = format!("a plan of epoch {}, but this worker is {now}", plan.epoch);
            return Err(wire::StepFailure { kind: Kind::Epoch.into(), message });
        };
        let begun = held.begin(plan, given);
        begun.map_err(|error| self.failed(plan.epoch, plan.step, &error))
    }

    fn end_steps(&mut self) {
        while !self.open.is_empty() {
            self.end_step(&mut || false);
        }
    }

    /// Ends the first open step, unless `tired` says true before that can be done. Whether it did.
    fn end_step(&mut self, tired: &mut dyn FnMut() -> bool) -> bool {
        let outcome = match self.held.as_mut().map(|held| held.wait(tired)) {
            Some(Ok(false)) => return false,
            Some(Ok(true)) => self.held.as_mut().map(Holding::end),
            Some(Err(error)) => Some(Err(error)),
            None => None,
        };
        let Some(asked) = self.open.pop_front() else { return true };
        let outcome = outcome.unwrap_or(Err(CollectiveError::Aborted.into()));
        let outcome = outcome.map_err(|error| self.failed(asked.epoch, asked.step, &error));
        self.answer_step(&asked, outcome);
        true
    }

    fn answer_step(&mut self, asked: &Asked, outcome: Result<StepOutput, wire::StepFailure>) {
        let failed = outcome.is_err();
        let (output, failure) = match outcome {
            Ok(output) => {
                measure(output.timings);
                // Rank 0 alone tells its output.
                let is_first = self.held.as_ref().is_some_and(|held| held.rank() == Rank(0));
                (is_first.then(|| wire::StepOutput::from(&output)), None)
            }
            Err(failure) => (None, Some(failure)),
        };
        let result = wire::StepResult { epoch: asked.epoch.0, step: asked.step.0, failure, output };
        self.work.ended();
        let told = asked.answers.try_send(Ok(result)).is_ok();
        if failed || !told {
            // The other ranks must not wait for this one.
            self.fence.leave(asked.epoch);
        }
    }

    fn failed(&mut self, epoch: Epoch, step: StepId, error: &ModelError) -> wire::StepFailure {
        warn!(%epoch, %step, %error, "a step failed");
        if matches!(error, ModelError::Device(DeviceError::Thread(_))) {
            // Nobody knows what it has left behind.
            self.held = None;
            self.take_stock();
        }
        self.note(error);
        wire::StepFailure { kind: kind(error).into(), message: error.to_string() }
    }

    /// A device that is lost to this process may work in another.
    fn note(&mut self, error: &ModelError) {
        if let ModelError::Device(broken @ DeviceError::Broken { .. }) = error {
            self.broken = Some(broken.to_string());
        }
    }

    /// Ends the process where its device is lost, once whoever waits has been told.
    fn end_if_broken(&self) {
        if let Some(why) = &self.broken {
            thread::sleep(TELLING);
            LastResort::default().follow(why);
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
