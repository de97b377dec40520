//! A group that runs steps: the same plan to every rank, every rank's word for every step.

use std::{
    collections::{BTreeSet, VecDeque},
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
use tessera_service::{metrics as names, reason};
use tessera_types::{Epoch, ModelSpec, Rank, StepId, StepOutput, StepPlan};
use tokio::{
    sync::mpsc,
    time::{sleep_until, timeout},
};
use tonic::Status;
use tracing::debug;

use super::{
    Member,
    claim::Claim,
    codec,
    load::Model,
    pulse::{Beat, Pulse, pulse},
};
use crate::config::{StepTokens, Timeouts};

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
    /// No rank gets on with a step.
    #[error("no rank got on with step {step} for {bound:?}; behind the others: {behind:?}")]
    Late { step: StepId, bound: Duration, behind: Vec<u16> },
    /// The output does not answer the plan.
    #[error(transparent)]
    Output(#[from] OutputError),
    /// Another coordinator has the workers.
    #[error("another replica has claimed the workers")]
    Claim,
    /// A worker wants to leave, and the group can do without it.
    #[error("a worker leaves")]
    Leaving,
    /// There are workers enough for the degree asked for.
    #[error("workers have come; the group grows")]
    Grow,
}

impl Loss {
    /// Whether nothing failed.
    pub(crate) fn is_planned(&self) -> bool {
        matches!(self, Self::Leaving | Self::Grow)
    }

    /// Whether it is known who is to blame: a rank that is gone, rather than one that complains of another.
    fn is_clear(&self) -> bool {
        matches!(self, Self::Rank(..) | Self::Late { .. } | Self::Claim) || self.is_planned()
    }
}

/// A group whose ranks hold the model.
pub(crate) struct Group {
    pub(crate) epoch: Epoch,
    pub(crate) spec: Arc<ModelSpec>,
    /// What its weights are known by.
    pub(crate) fingerprint: String,
    pub(crate) kv_blocks: u32,
    pub(crate) step_tokens: StepTokens,
    members: Vec<Member>,
    plans: Vec<mpsc::Sender<Bytes>>,
    results: SelectAll<BoxStream<'static, (Rank, Result<wire::StepResult, Status>)>>,
    beats: SelectAll<Pulse>,
    /// By rank.
    ranks: Vec<RankState>,
    /// Steps under way, oldest first.
    steps: VecDeque<Step>,
    /// When a step was done last, or any rank got on with one.
    moved: Instant,
    formed: Instant,
    claim: Claim,
    timeouts: Timeouts,
    /// Ranks that are to blame for a loss.
    suspects: BTreeSet<Rank>,
}

/// What is known of a rank while the group runs.
#[derive(Clone, Copy, Debug)]
struct RankState {
    /// Its progress when the group was formed, and now.
    before: u64,
    now: u64,
    draining: bool,
}

struct Step {
    id: StepId,
    sent: Instant,
    answered: Vec<bool>,
    output: Option<StepOutput>,
}

impl Group {
    pub(super) fn new(epoch: Epoch, members: Vec<Member>, model: Model, claim: Claim, timeouts: Timeouts) -> Self {
        let mut plans = Vec::new();
        let (mut results, mut beats) = (SelectAll::new(), SelectAll::new());
        for member in &members {
            let (sender, receiver) = mpsc::channel(PLANS);
            let rank = member.rank;
            results.push(codec::run(member.channel.clone(), epoch, receiver).map(move |result| (rank, result)).boxed());
            plans.push(sender);
            beats.push(pulse(member, epoch, timeouts));
        }
        let state = |member: &Member| RankState { before: member.progress, now: member.progress, draining: false };
        let ranks = members.iter().map(state).collect();
        let Model { spec, fingerprint, kv_blocks, step_tokens } = model;
        let (steps, suspects, now) = (VecDeque::new(), BTreeSet::new(), Instant::now());
        let (moved, formed) = (now, now);
        Self {
            epoch,
            spec,
            fingerprint,
            kv_blocks,
            step_tokens,
            members,
            plans,
            results,
            beats,
            ranks,
            steps,
            moved,
            formed,
            claim,
            timeouts,
            suspects,
        }
    }

    /// Its degree.
    pub(crate) fn size(&self) -> usize {
        self.members.len()
    }

    /// Its workers, by rank.
    pub(crate) fn workers(&self) -> Vec<String> {
        self.members.iter().map(|member| member.worker.id.clone()).collect()
    }

    /// How long it has lived.
    pub(crate) fn age(&self) -> Duration {
        self.formed.elapsed()
    }

    /// How many of its workers want to leave.
    pub(crate) fn leaving(&self) -> usize {
        self.ranks.iter().filter(|rank| rank.draining).count()
    }

    /// Sends a plan to every rank. Never waits: a rank that does not take its plans has failed.
    pub(crate) fn send(&mut self, plan: StepPlan) -> Result<(), Loss> {
        let tokens: usize = plan.chunks.iter().map(|chunk| chunk.len as usize).sum();
        metrics::histogram!(names::STEP_TOKENS).record(tokens as f64);
        let answered = vec![false; self.members.len()];
        let step = Step { id: plan.step, sent: Instant::now(), answered, output: None };
        let bytes = Bytes::from(wire::StepPlan::from(plan).encode_to_vec());
        for (rank, plans) in self.plans.iter().enumerate() {
            if let Err(error) = plans.try_send(bytes.clone()) {
                let rank = Rank(rank as u16);
                self.suspects.insert(rank);
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
                Some((rank, beat)) = self.beats.next() => self.feel(rank, beat)?,
                () = watchdog => return Err(self.late()),
                () = self.claim.lost() => return Err(Loss::Claim),
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
        self.moved = Instant::now();
        // Rank 0 always sends an output; were there none, the engine would say that tokens are missing.
        Some(step.output.unwrap_or(StepOutput { epoch: self.epoch, step: step.id, ..Default::default() }))
    }

    /// When the watchdog ends the oldest step: steps may take their time, but some rank must get on.
    fn due(&self) -> Option<Instant> {
        self.steps.front().map(|step| step.sent.max(self.moved) + self.timeouts.stall)
    }

    fn feel(&mut self, rank: Rank, beat: Result<Beat, String>) -> Result<(), Loss> {
        let Beat { progress, draining } = beat.map_err(|problem| {
            self.suspects.insert(rank);
            Loss::Rank(rank, problem)
        })?;
        let state = &mut self.ranks[usize::from(rank.0)];
        if state.now != progress {
            self.moved = Instant::now();
        }
        (state.now, state.draining) = (progress, draining);
        Ok(())
    }

    fn note(&mut self, result: Option<(Rank, Result<wire::StepResult, Status>)>) -> Result<(), Loss> {
        let Some((rank, result)) = result else { return Err(Loss::Rank(Rank(0), "all runs have ended".into())) };
        let result = match result {
            Ok(result) => result,
            Err(status) => {
                self.suspects.insert(rank);
                return Err(Loss::Rank(rank, format!("{}: {}", status.code(), reason(&status))));
            }
        };
        let (epoch, step) = (Epoch(result.epoch), StepId(result.step));
        if let Some(failure) = result.failure {
            let kind = failure.kind();
            // One that misses another, or was let go over that, is not to blame.
            if !matches!(kind, Kind::Collective | Kind::Epoch) {
                self.suspects.insert(rank);
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

    /// A rank that hangs has got less far than those that wait for it. Where all have got as far, nobody knows.
    fn late(&mut self) -> Loss {
        let Some(step) = self.steps.front() else { return Loss::Claim };
        let done = |rank: &RankState| rank.now.saturating_sub(rank.before);
        let farthest = self.ranks.iter().map(done).max().unwrap_or(0);
        let silent = (0..).zip(&step.answered).zip(&self.ranks).filter(|((_, answered), _)| !**answered);
        let behind: Vec<u16> = silent.filter(|(_, rank)| done(rank) < farthest).map(|((rank, _), _)| rank).collect();
        self.suspects.extend(behind.iter().copied().map(Rank));
        Loss::Late { step: step.id, bound: self.timeouts.stall, behind }
    }

    /// After a loss that does not tell who is to blame, listens to the other ranks for a moment: the first to fail is
    /// seldom the one.
    pub(crate) async fn hear_out(&mut self, loss: &Loss) {
        if loss.is_clear() {
            return;
        }
        let listen = async {
            let mut silent: BTreeSet<_> = self.members.iter().map(|member| member.rank).collect();
            if let Loss::Step { rank, .. } = loss {
                silent.remove(rank);
            }
            while !silent.is_empty() {
                let result = self.results.next().await;
                let Some(rank) = result.as_ref().map(|(rank, _)| *rank) else { return };
                // An answer to an earlier step says nothing of this one.
                let has_said = match self.note(result) {
                    Ok(()) => self.steps.iter().all(|step| step.answered[usize::from(rank.0)]),
                    Err(loss) => {
                        debug!(%loss, "also");
                        true
                    }
                };
                if has_said {
                    silent.remove(&rank);
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

    /// Which ranks are to blame for its loss, as far as that is known, and why it was lost.
    pub(crate) fn lost(&self, loss: &Loss) -> (Vec<Rank>, String) {
        let missing = self.members.iter().filter(|member| self.suspects.contains(&member.rank));
        let named: Vec<_> = missing.map(|member| format!("rank {} (worker {})", member.rank, member.worker.id)).collect();
        let problem = match loss {
            loss if named.is_empty() => loss.to_string(),
            Loss::Rank(_, problem) => format!("lost {}: {problem}", named.join(", ")),
            loss => format!("lost {}: {loss}", named.join(", ")),
        };
        (self.suspects.iter().copied().collect(), problem)
    }

    /// Lets the workers go. Those that failed are told, too, but not waited for: the next epoch fences them off.
    pub(crate) async fn release(self) {
        drop((self.plans, self.results, self.beats));
        let (failed, sound): (Vec<_>, Vec<_>) = self.members.into_iter().partition(|member| self.suspects.contains(&member.rank));
        let (epoch, call) = (self.epoch, self.timeouts.call);
        tokio::spawn(async move { release(&failed, epoch, call).await });
        tokio::join!(release(&sound, epoch, call), self.claim.release());
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
