//! A group that runs steps: the same plan to every rank, every rank's word for every step.

use std::{
    collections::VecDeque,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures::{
    StreamExt,
    future::join_all,
    stream::{BoxStream, SelectAll},
};
use prost::Message as _;
use tessera_engine::OutputError;
use tessera_proto::internal::{self as wire, shard_worker_client::ShardWorkerClient, step_failure::Kind};
use tessera_registry::Kept;
use tessera_service::metrics as names;
use tessera_types::{Epoch, ModelSpec, Rank, StepId, StepOutput, StepPlan};
use tokio::{
    sync::mpsc,
    time::{sleep_until, timeout},
};
use tonic::Status;
use tracing::{debug, warn};

use super::{Member, codec, load::Model};
use crate::config::Timeouts;

/// Plans that may wait in a rank's channel; more are never under way.
const PLANS: usize = 8;
/// After one rank's failure, how long the others' word on it is waited for.
const HEAR_OUT: Duration = Duration::from_millis(300);

/// Why a group is of no more use.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Loss {
    /// A rank's connection broke.
    #[error("rank {0} was lost: {1}")]
    Rank(Rank, String),
    /// A rank could not do its step.
    #[error("rank {rank} failed step {step} ({}): {problem}", kind.as_str_name())]
    Step { rank: Rank, step: StepId, kind: Kind, problem: String },
    /// The watchdog.
    #[error("step {step} was not done within {bound:?}; silent: {silent:?}")]
    Late { step: StepId, bound: Duration, silent: Vec<u16> },
    /// The output does not answer the plan.
    #[error(transparent)]
    Output(#[from] OutputError),
    /// The claim on the workers has ended.
    #[error("the lease on the workers was lost")]
    Lease,
}

/// A group whose ranks hold the model.
pub(crate) struct Group {
    pub(crate) epoch: Epoch,
    pub(crate) spec: Arc<ModelSpec>,
    pub(crate) kv_blocks: u32,
    members: Vec<Member>,
    plans: Vec<mpsc::Sender<Bytes>>,
    results: SelectAll<BoxStream<'static, (Rank, Result<wire::StepResult, Status>)>>,
    /// Steps under way, oldest first.
    steps: VecDeque<Step>,
    /// When the last step was done.
    done: Instant,
    lease: Kept,
    timeouts: Timeouts,
    /// Ranks that are to blame for a loss.
    suspects: Vec<Rank>,
}

struct Step {
    id: StepId,
    sent: Instant,
    allowed: Duration,
    answered: Vec<bool>,
    output: Option<StepOutput>,
}

impl Group {
    pub(super) fn new(epoch: Epoch, members: Vec<Member>, model: Model, lease: Kept, timeouts: Timeouts) -> Self {
        let mut plans = Vec::new();
        let mut results = SelectAll::new();
        for member in &members {
            let (sender, receiver) = mpsc::channel(PLANS);
            let rank = member.rank;
            results.push(codec::run(member.channel.clone(), receiver).map(move |result| (rank, result)).boxed());
            plans.push(sender);
        }
        let Model { spec, kv_blocks } = model;
        let (steps, done, suspects) = (VecDeque::new(), Instant::now(), Vec::new());
        Self { epoch, spec, kv_blocks, members, plans, results, steps, done, lease, timeouts, suspects }
    }

    /// Sends a plan to every rank. Never waits: a rank that does not take its plans has failed.
    pub(crate) fn send(&mut self, plan: StepPlan) -> Result<(), Loss> {
        let tokens: usize = plan.chunks.iter().map(|chunk| chunk.len as usize).sum();
        let patches: usize = plan.encode.iter().map(|image| image.grid.patches()).sum();
        metrics::histogram!(names::STEP_TOKENS).record(tokens as f64);
        let step = Step {
            id: plan.step,
            sent: Instant::now(),
            allowed: self.timeouts.step + self.timeouts.step_token * (tokens + patches) as u32,
            answered: vec![false; self.members.len()],
            output: None,
        };
        let bytes = Bytes::from(wire::StepPlan::from(plan).encode_to_vec());
        for (rank, plans) in self.plans.iter().enumerate() {
            if let Err(error) = plans.try_send(bytes.clone()) {
                let rank = Rank(rank as u16);
                self.suspects.push(rank);
                return Err(Loss::Rank(rank, format!("takes no plans: {error}")));
            }
        }
        self.steps.push_back(step);
        Ok(())
    }

    /// The output of the oldest step, once every rank has done it. Also notices, with no step under way, that a rank
    /// or the claim is lost. May be dropped and called again.
    pub(crate) async fn next(&mut self) -> Result<StepOutput, Loss> {
        loop {
            if let Some(output) = self.completed() {
                return Ok(output);
            }
            let due = self.due();
            let watchdog = async {
                match due {
                    Some(due) => sleep_until(due.into()).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                result = self.results.next() => self.note(result)?,
                () = watchdog => return Err(self.late()),
                () = self.lease.lost() => return Err(Loss::Lease),
            }
        }
    }

    fn completed(&mut self) -> Option<StepOutput> {
        let front = self.steps.front()?;
        if !front.answered.iter().all(|&answered| answered) {
            return None;
        }
        let step = self.steps.pop_front()?;
        metrics::histogram!(names::STEP_SECONDS).record(step.sent.elapsed().as_secs_f64());
        self.done = Instant::now();
        // Rank 0 always sends an output; were there none, the engine would say that tokens are missing.
        Some(step.output.unwrap_or(StepOutput { epoch: self.epoch, step: step.id, ..Default::default() }))
    }

    /// When the watchdog ends the oldest step: its time begins when the last one is done.
    fn due(&self) -> Option<Instant> {
        self.steps.front().map(|step| step.sent.max(self.done) + step.allowed)
    }

    fn note(&mut self, result: Option<(Rank, Result<wire::StepResult, Status>)>) -> Result<(), Loss> {
        let Some((rank, result)) = result else { return Err(Loss::Rank(Rank(0), "all runs have ended".into())) };
        let result = match result {
            Ok(result) => result,
            Err(status) => {
                self.suspects.push(rank);
                return Err(Loss::Rank(rank, format!("{}: {}", status.code(), status.message())));
            }
        };
        let (epoch, step) = (Epoch(result.epoch), StepId(result.step));
        if let Some(failure) = result.failure {
            let kind = failure.kind();
            if !matches!(kind, Kind::Collective) {
                self.suspects.push(rank);
            }
            return Err(Loss::Step { rank, step, kind, problem: failure.message });
        }
        let unexpected = || Loss::Rank(rank, format!("answers step {step} of epoch {epoch}, which is not under way"));
        let open = self.steps.iter_mut().find(|open| open.id == step && epoch == self.epoch);
        let open = open.filter(|open| !open.answered[usize::from(rank.0)]).ok_or_else(unexpected)?;
        open.answered[usize::from(rank.0)] = true;
        if let (Rank(0), Some(output)) = (rank, result.output) {
            open.output = Some(output.into_domain(epoch, step));
        }
        Ok(())
    }

    fn late(&mut self) -> Loss {
        let Some(step) = self.steps.front() else { return Loss::Lease };
        let silent: Vec<_> = (0..).zip(&step.answered).filter(|(_, answered)| !**answered).map(|(rank, _)| rank).collect();
        // When all are silent nobody knows whose fault it is.
        if silent.len() < self.members.len() {
            self.suspects.extend(silent.iter().copied().map(Rank));
        }
        Loss::Late { step: step.id, bound: step.allowed, silent }
    }

    /// After a loss, listens to the other ranks for a moment: the first to fail is seldom the one at fault.
    pub(super) async fn hear_out(&mut self) {
        let listen = async {
            for _ in 1..self.members.len() {
                let result = self.results.next().await;
                if let Err(loss) = self.note(result) {
                    debug!(%loss, "also");
                }
            }
        };
        // The time is up when a rank has nothing to say, which is no news.
        let _ = timeout(HEAR_OUT, listen).await;
    }

    /// Workers to do without if others are free.
    pub(super) fn suspects(&self) -> Vec<String> {
        let suspects = self.members.iter().filter(|member| self.suspects.contains(&member.rank));
        suspects.map(|member| member.worker.id.clone()).collect()
    }

    /// Lets the workers go. Those that do not answer are fenced off by the next epoch.
    pub(crate) async fn release(self) {
        drop((self.plans, self.results));
        release(&self.members, self.epoch, self.timeouts.call).await;
        if !matches!(timeout(self.timeouts.call, self.lease.revoke()).await, Ok(Ok(()))) {
            warn!(epoch = %self.epoch, "the claim on the workers stays until its lease ends");
        }
    }
}

/// Tells every member to leave the group.
pub(super) async fn release(members: &[Member], epoch: Epoch, bound: Duration) {
    join_all(members.iter().map(|member| async move {
        let mut client = ShardWorkerClient::new(member.channel.clone());
        let released = timeout(bound, client.release(wire::ReleaseRequest { epoch: epoch.0 })).await;
        if !matches!(released, Ok(Ok(_))) {
            debug!(%epoch, worker = member.worker.id, "was not released");
        }
    }))
    .await;
}
