//! A shard worker without arithmetic: it keeps each sequence's tokens, checks every plan against them, and fails,
//! hangs or dies when told to.

use std::{collections::HashMap, sync::Arc, time::Duration};

use parking_lot::Mutex;
use tessera_proto::internal::{self as wire, shard_worker_server::ShardWorker, step_failure::Kind};
use tessera_types::ModelSpec;
use tokio::sync::mpsc;
use tokio_stream::{StreamExt, wrappers::ReceiverStream};
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming};

use super::tokens::choose;

/// What a worker does wrong, once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// Reports that the step failed.
    Fail,
    /// Reports that it misses another rank.
    Complain,
    /// Says nothing any more.
    Hang,
    /// Breaks its stream.
    Die,
    /// Answers with another step's number.
    Confuse,
}

/// What the test sees and sets.
#[derive(Default)]
pub(crate) struct Control {
    /// Goes wrong in the step with this number.
    pub(crate) fault: Option<(u64, Fault)>,
    /// What its weights are known by.
    pub(crate) fingerprint: String,
    /// What it says it computes on, if it says so.
    pub(crate) device: String,
    /// Wants to leave.
    pub(crate) draining: bool,
    /// Has no NCCL.
    pub(crate) refuse_id: Option<Status>,
    /// How the last group met.
    pub(crate) collective: Option<wire::Collective>,
    /// Refuses to load.
    pub(crate) refuse_load: Option<Status>,
    /// Time a step takes.
    pub(crate) step_time: Duration,
    /// The newest epoch.
    pub(crate) seen: u64,
    pub(crate) loads: Vec<u64>,
    pub(crate) released: Vec<u64>,
    /// Sequences held now, by the last plan.
    pub(crate) held: usize,
    pub(crate) steps: u64,
    /// Tokens that it would rather have in a step at most; 0: it does not say.
    pub(crate) advice: u32,
    /// Tokens of a step that it has room for.
    pub(crate) room: u32,
    /// Tokens of the largest step.
    pub(crate) largest_step: u32,
}

#[derive(Clone, Default)]
pub(crate) struct FakeWorker {
    pub(crate) control: Arc<Mutex<Control>>,
    pub(crate) killed: CancellationToken,
    rank: Arc<Mutex<(u64, u32)>>,
}

pub(crate) const BLOCKS: u32 = 64;

pub(crate) fn spec() -> ModelSpec {
    let mut spec = ModelSpec::bench_1b();
    spec.decoder.vocab_size = 1000;
    spec.max_context = 512;
    spec
}

#[tonic::async_trait]
impl ShardWorker for FakeWorker {
    type LoadStream = ReceiverStream<Result<wire::LoadEvent, Status>>;
    type RunStream = ReceiverStream<Result<wire::StepResult, Status>>;

    async fn load(&self, request: Request<wire::LoadRequest>) -> Result<Response<Self::LoadStream>, Status> {
        use wire::load_event::Event;
        let request = request.into_inner();
        if let Some(status) = self.control.lock().refuse_load.clone() {
            return Err(status);
        }
        self.enter(request.epoch)?;
        *self.rank.lock() = (request.epoch, request.rank);
        let (advice, room) = {
            let mut control = self.control.lock();
            control.collective = request.collective;
            (control.advice, control.room)
        };
        let loaded = wire::Loaded {
            // Ranks differ in room; the group has what the least has.
            kv_blocks: BLOCKS + 7 * request.rank,
            model_spec: serde_json::to_string(&spec()).unwrap(),
            step_tokens: advice,
            most_step_tokens: room,
            model_fingerprint: self.control.lock().fingerprint.clone(),
            ..Default::default()
        };
        let (sender, receiver) = mpsc::channel(2);
        let progress = wire::LoadProgress { bytes_done: 50, bytes_total: 100 };
        for event in [Event::Progress(progress), Event::Loaded(loaded)] {
            sender.send(Ok(wire::LoadEvent { event: Some(event) })).await.unwrap();
        }
        Ok(Response::new(ReceiverStream::new(receiver)))
    }

    async fn run(&self, request: Request<Streaming<wire::StepPlan>>) -> Result<Response<Self::RunStream>, Status> {
        let (sender, receiver) = mpsc::channel(8);
        let (worker, (epoch, rank)) = (self.clone(), *self.rank.lock());
        tokio::spawn(worker.steps(request.into_inner(), sender, epoch, rank));
        Ok(Response::new(ReceiverStream::new(receiver)))
    }

    async fn release(&self, request: Request<wire::ReleaseRequest>) -> Result<Response<wire::ReleaseResponse>, Status> {
        self.control.lock().released.push(request.into_inner().epoch);
        Ok(Response::new(wire::ReleaseResponse {}))
    }

    async fn get_status(&self, _: Request<wire::GetStatusRequest>) -> Result<Response<wire::GetStatusResponse>, Status> {
        let rank = *self.rank.lock();
        let control = self.control.lock();
        let (epoch, progress) = (control.seen, control.steps);
        let rank = (rank.0 == epoch).then_some(rank.1);
        let (device, draining) = (control.device.clone(), control.draining);
        Ok(Response::new(wire::GetStatusResponse { epoch, rank, progress, device, draining, ..Default::default() }))
    }

    async fn new_collective_id(
        &self,
        request: Request<wire::NewCollectiveIdRequest>,
    ) -> Result<Response<wire::NewCollectiveIdResponse>, Status> {
        let control = self.control.lock();
        let epoch = request.into_inner().epoch;
        match &control.refuse_id {
            Some(status) => Err(status.clone()),
            None if epoch <= control.seen => Err(Status::failed_precondition("an old epoch")),
            None => Ok(Response::new(wire::NewCollectiveIdResponse { id: epoch.to_le_bytes().to_vec().into() })),
        }
    }

    async fn drain(&self, _: Request<wire::DrainWorkerRequest>) -> Result<Response<wire::DrainWorkerResponse>, Status> {
        Err(Status::unimplemented("a fake never leaves"))
    }
}

impl FakeWorker {
    fn enter(&self, epoch: u64) -> Result<(), Status> {
        let mut control = self.control.lock();
        if epoch <= control.seen {
            return Err(Status::failed_precondition("an old epoch"));
        }
        control.seen = epoch;
        control.loads.push(epoch);
        Ok(())
    }

    async fn steps(
        self,
        mut plans: Streaming<wire::StepPlan>,
        results: mpsc::Sender<Result<wire::StepResult, Status>>,
        epoch: u64,
        rank: u32,
    ) {
        let mut run = Run::default();
        while let Some(Some(Ok(plan))) = self.killed.run_until_cancelled(plans.next()).await {
            assert_eq!(plan.epoch, epoch);
            let (fault, step_time) = {
                let mut control = self.control.lock();
                control.steps += 1;
                let tokens = plan.chunks.iter().map(|chunk| chunk.len).sum();
                control.largest_step = control.largest_step.max(tokens);
                let fault = control.fault.take_if(|(step, _)| *step == plan.step).map(|(_, fault)| fault);
                (fault, control.step_time)
            };
            if !step_time.is_zero() {
                tokio::time::sleep(step_time).await;
            }
            let mut result = wire::StepResult { epoch, step: plan.step, failure: None, output: None };
            match fault {
                Some(Fault::Hang) => return std::future::pending().await,
                Some(Fault::Die) => return,
                Some(Fault::Fail) => result.failure = Some(failure(Kind::Device, "out of luck")),
                Some(Fault::Complain) => result.failure = Some(failure(Kind::Collective, "rank 1 left the group")),
                Some(Fault::Confuse) => result.step += 7,
                None => {}
            }
            match run.step(&plan) {
                Ok(output) if rank == 0 => result.output = Some(output),
                Ok(_) => {}
                Err(problem) => result.failure = Some(failure(Kind::Plan, &problem)),
            }
            self.control.lock().held = run.sequences.len();
            if results.send(Ok(result)).await.is_err() {
                return;
            }
        }
    }
}

fn failure(kind: Kind, message: &str) -> wire::StepFailure {
    wire::StepFailure { kind: kind.into(), message: message.into() }
}

#[derive(Default)]
struct Run {
    /// Tokens, how many of them are computed once the first chunk has come, and the seed.
    sequences: HashMap<u64, (Vec<u32>, Option<usize>, u64)>,
    step: u64,
}

impl Run {
    fn step(&mut self, plan: &wire::StepPlan) -> Result<wire::StepOutput, String> {
        self.step += 1;
        if plan.step != self.step {
            return Err(format!("step {} after {}", plan.step, self.step - 1));
        }
        for id in &plan.end {
            self.sequences.remove(id).ok_or("the end of an unknown sequence")?;
        }
        for start in &plan.start {
            let seed = start.sampling.as_ref().ok_or("no sampling")?.seed;
            self.sequences.insert(start.sequence, (start.tokens.clone(), None, seed));
        }
        let mut output = wire::StepOutput::default();
        for chunk in &plan.chunks {
            let (tokens, computed, seed) = self.sequences.get_mut(&chunk.sequence).ok_or("an unknown sequence")?;
            let end = (chunk.start + chunk.len) as usize;
            // The first may start behind what the cache has.
            if computed.is_some_and(|computed| computed != chunk.start as usize) || end > tokens.len() {
                return Err(format!("a chunk from {} of {} tokens, {computed:?} computed", chunk.start, chunk.len));
            }
            *computed = Some(end);
            if chunk.sample {
                let token = choose(tokens, *seed);
                tokens.push(token);
                output.sampled.push(wire::Sampled { sequence: chunk.sequence, token, logprob: None });
            }
        }
        Ok(output)
    }
}
