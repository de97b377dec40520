//! Forming a group: choose, claim, load; again and again until it works.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use futures::future::join_all;
use tessera_proto::internal::{self as wire, shard_worker_client::ShardWorkerClient};
use tessera_registry::{Followed, Membership, Registry, RegistryError, WorkerRecord, WorkerState};
use tessera_service::{Complaint, Tls};
use tessera_types::{Epoch, Rank};
use tokio::{
    sync::watch,
    time::{sleep, timeout},
};
use tonic::Status;
use tracing::{info, warn};

use super::{
    FormError, Group, Loss, Member, RankError,
    choose::{Experience, choose},
    claim::{Claim, Holder},
    degree::Degree,
    doubts::Doubts,
    load::{Model, load},
    request::{collective, request, weights},
    run::release,
};
use crate::{bounded::bounded, config::Config, state::GroupState};

/// A group that is lost sooner than this was no good.
const SHORT: Duration = Duration::from_secs(1);
/// A group is not disturbed sooner than this after it was formed, only to become larger.
const SETTLE: Duration = Duration::from_secs(3);

/// How long workers must have been free before a coordinator that never had a group takes them from under the others' eyes.
const COURTESY: Duration = Duration::from_millis(150);

/// Forms groups, one after the other.
pub(crate) struct Former {
    config: Arc<Config>,
    registry: Registry,
    members: Followed,
    tls: Option<Tls>,
    state: watch::Sender<GroupState>,
    /// Workers of the last group, by rank.
    ranks: Vec<String>,
    /// The ranks that the last group lost, and why it ended; nothing while there is a group.
    lost: (Vec<Rank>, String),
    doubts: Doubts,
    degree: Degree,
    /// Before the next attempt.
    pause: Duration,
    complaint: Complaint,
}

/// The other replicas of the model.
pub(crate) struct Siblings {
    members: watch::Receiver<Option<Arc<Membership>>>,
    replica: String,
    model: String,
}

impl Siblings {
    /// Whether one of them takes requests.
    pub(crate) fn serve(&self) -> bool {
        let members = self.members.borrow();
        let others = members.iter().flat_map(|members| members.replicas.values());
        others.filter(|other| other.id != self.replica).any(|other| other.model == self.model && other.ready && !other.draining)
    }
}

impl Former {
    pub(crate) fn new(config: Arc<Config>, registry: Registry, tls: Option<Tls>, state: watch::Sender<GroupState>) -> Self {
        let (members, pause) = (registry.follow(), config.timeouts.retry);
        let (ranks, lost, doubts, complaint) = Default::default();
        let degree = Degree::new(config.tp.into(), config.elastic, Instant::now());
        Self { config, registry, members, tls, state, ranks, lost, doubts, degree, pause, complaint }
    }

    /// Lets the last group go, then tries until there is a new one.
    ///
    /// # Errors
    /// Only what another attempt would not mend, and only before there was any group.
    pub(crate) async fn form(&mut self, last: Option<(Group, Loss)>) -> Result<Group, FormError> {
        if let Some((group, loss)) = last {
            self.lost = group.lost(&loss);
            self.doubt(group.suspects());
            let short = group.age() < SHORT && !loss.is_planned();
            group.release().await;
            if matches!(loss, Loss::Claim) {
                // Another replica serves with them; this one has lost nothing that it would have to make good.
                self.lost = Default::default();
            }
            if short {
                self.rest().await;
            } else {
                self.pause = self.config.timeouts.retry;
            }
        }
        loop {
            self.let_others_go_first().await;
            let error = match self.attempt().await {
                Ok(group) => {
                    self.lost = Default::default();
                    self.complaint.settle();
                    return Ok(group);
                }
                Err(error) if error.is_final() && self.ranks.is_empty() => return Err(error),
                Err(error) => error,
            };
            self.report(&error);
            match error {
                // Whoever comes or is let go ends the wait.
                FormError::Workers { .. } => drop(timeout(self.config.timeouts.retry_most, self.members.changed()).await),
                // Another coordinator was faster; the others may want the same again.
                FormError::Registry(RegistryError::Taken) => sleep(self.config.timeouts.retry.mul_f64(rand::random())).await,
                _ => self.rest().await,
            }
        }
    }

    /// Workers that are free for a moment may be a group's that is being re-formed: a spare does not take them from it.
    async fn let_others_go_first(&self) {
        let is_spare = self.ranks.is_empty() && self.spares() >= usize::from(self.config.tp);
        let has_others = self.members.now().is_some_and(|members| self.has_others(&members));
        if is_spare && has_others {
            sleep(COURTESY).await;
        }
    }

    fn has_others(&self, members: &Membership) -> bool {
        members.replicas.keys().any(|replica| *replica != self.config.replica)
    }

    async fn rest(&mut self) {
        sleep(self.pause).await;
        self.pause = (self.pause * 2).min(self.config.timeouts.retry_most);
    }

    fn report(&mut self, error: &FormError) {
        let state = match error {
            // Who has lost nothing stands by.
            FormError::Workers { free, needed } if self.lost.1.is_empty() => GroupState::Waiting { free: *free, needed: *needed },
            error => self.without_a_group(Some(error)),
        };
        self.state.send_replace(state);
        if self.complaint.is_due(&error.kind(), Instant::now()) {
            warn!(%error, "no group yet");
        }
    }

    /// What there was, and what keeps the next group from being formed.
    fn without_a_group(&self, error: Option<&FormError>) -> GroupState {
        let (ranks, loss) = self.lost.clone();
        let problem = match error {
            None => loss,
            Some(error) if loss.is_empty() => error.to_string(),
            Some(error) => format!("{loss}; no new group: {error}"),
        };
        GroupState::Lost { ranks, problem }
    }

    /// Notes that workers failed, the last to fail at the end.
    fn doubt(&mut self, workers: impl IntoIterator<Item = String>) {
        self.doubts.note(workers, self.members.now().as_deref(), Instant::now());
    }

    /// Workers that could be claimed now and have not failed lately.
    fn spares(&self) -> usize {
        let Some(members) = self.members.now() else { return 0 };
        let (ready, now) = (members.free_workers().filter(|worker| worker.state == WorkerState::Ready), Instant::now());
        ready.filter(|worker| !self.doubts.doubts(worker, now)).count()
    }

    /// What to do about a group that runs, but could be another. While the registry is away none could be formed.
    pub(crate) fn better(&self, group: &Group) -> Option<Loss> {
        if self.registry.away_since().is_some() {
            return None;
        }
        let (elastic, tp) = (self.config.elastic, usize::from(self.config.tp));
        // Asked between any two steps: who is free is counted only when it matters.
        let leaving = group.leaving();
        if leaving > 0 {
            let shrinks = elastic && group.size() > leaving;
            return (shrinks || self.spares() >= leaving || self.siblings().serve()).then_some(Loss::Leaving);
        }
        let small = elastic && group.size() < tp && group.age() > SETTLE;
        (small && group.size() + self.spares() >= tp).then_some(Loss::Grow)
    }

    /// Other replicas, as the registry last told of them.
    pub(crate) fn siblings(&self) -> Siblings {
        let (replica, model) = (self.config.replica.clone(), self.config.model.clone());
        Siblings { members: self.members.watch(), replica, model }
    }

    /// The membership as last heard. While the registry is away nobody can be claimed, and whoever seems to be free, or
    /// wanting, was so before.
    async fn known_members(&mut self) -> Result<Arc<Membership>, RegistryError> {
        let call = self.config.timeouts.call;
        if self.registry.away_since().is_some() {
            bounded(call, self.registry.members()).await?;
        }
        if self.members.now().is_none() {
            let _ = timeout(call, self.members.changed()).await;
        }
        self.members.now().ok_or_else(|| RegistryError::Unavailable("it was not read yet".into()))
    }

    async fn attempt(&mut self) -> Result<Group, FormError> {
        let members = self.known_members().await?;
        let now = Instant::now();
        let needed = self.degree.next(self.spares(), self.ranks.is_empty(), now);
        let experience = Experience {
            ranks: self.ranks.clone(),
            doubtful: self.doubts.among(&members, now),
            wanted: (0..needed)
                .map(|rank| weights(&self.config, rank, needed).map(|request| request.fingerprint()))
                .collect::<Result<_, _>>()?,
            among: self.has_others(&members).then(|| self.config.replica.clone()),
        };
        let workers = choose(&members, needed, &experience).map_err(|free| FormError::Workers { free, needed })?;
        let (epoch, claim) = Claim::take(Holder {
            registry: self.registry.clone(),
            replica: self.config.replica.clone(),
            workers: workers.iter().map(|worker| worker.id.clone()).collect(),
            ttl: self.config.timeouts.lease,
            call: self.config.timeouts.call,
        })
        .await?;
        let loaded = tokio::select! {
            loaded = self.load(epoch, workers) => loaded,
            () = claim.lost() => Err(RegistryError::Taken.into()),
        };
        match loaded {
            Ok((members, model)) => Ok(Group::new(epoch, members, model, claim, self.config.timeouts)),
            Err(error) => {
                claim.release().await;
                Err(error)
            }
        }
    }

    async fn load(&mut self, epoch: Epoch, workers: Vec<WorkerRecord>) -> Result<(Vec<Member>, Model), FormError> {
        let timeouts = self.config.timeouts;
        let ids: Vec<_> = workers.iter().map(|worker| worker.id.clone()).collect();
        info!(%epoch, workers = ids.join(", "), "claimed");
        let members = self.meet(epoch, workers).await?;
        let collective = collective(&self.config, &members, epoch).await.inspect_err(|error| self.doubt_failed(error))?;
        let requests = members.iter().map(|member| request(&self.config, member, epoch, members.len(), &collective));
        let requests = requests.collect::<Result<_, _>>()?;
        match load(&members, requests, timeouts.load_stall, &self.state).await {
            Ok(model) => {
                self.ranks = ids;
                self.degree.did();
                let step_tokens = self.config.step_tokens(model.step_tokens);
                info!(%epoch, kv_blocks = model.kv_blocks, tp = members.len(), step_tokens, "the group is ready");
                if let Some(cut) = self.config.step_tokens_cut(model.step_tokens) {
                    warn!(%epoch, "{cut}");
                }
                Ok((members, model))
            }
            Err(error) => {
                self.doubt_failed(&error);
                release(&members, epoch, timeouts.call).await;
                // What so few ranks cannot do, more may.
                let too_small = error.is_want_of_memory() || error.is_final();
                if too_small && self.degree.is_too_small(members.len(), Instant::now()) {
                    return Err(FormError::TooFew { ranks: members.len(), problem: error.to_string() });
                }
                Err(error)
            }
        }
    }

    /// Asks every worker how it is: one that does not answer is found before the others load and wait for it, and one
    /// that has seen a newer epoch shows that this claim is not the newest, so that it must not be driven.
    async fn meet(&mut self, epoch: Epoch, workers: Vec<WorkerRecord>) -> Result<Vec<Member>, FormError> {
        let members = workers.into_iter().zip(0..).map(|(worker, rank)| join(worker, Rank(rank), self.tls.as_ref()));
        let mut members = members.collect::<Result<Vec<_>, _>>()?;
        let states = join_all(members.iter().map(|member| status(member, self.config.timeouts.call))).await;
        let mut failed = Vec::new();
        for (member, state) in members.iter_mut().zip(states) {
            match state {
                Ok(state) if state.epoch >= epoch.0 => return Err(FormError::Fenced { epoch, newest: Epoch(state.epoch) }),
                Ok(state) => member.is(state),
                Err(error) => failed.push(error),
            }
        }
        if failed.is_empty() {
            return Ok(members);
        }
        let error = FormError::Load { ranks: failed };
        self.doubt_failed(&error);
        Err(error)
    }

    /// Workers that another attempt should rather do without.
    fn doubt_failed(&mut self, error: &FormError) {
        if let FormError::Load { ranks } = error {
            self.doubt(ranks.iter().filter(|rank| !rank.is_final()).map(|rank| rank.worker.clone()));
        }
    }
}

fn join(worker: WorkerRecord, rank: Rank, tls: Option<&Tls>) -> Result<Member, FormError> {
    let channel = tessera_service::peer(&worker.address, tls);
    let address =
        |error: tessera_service::PeerError| FormError::Address { worker: worker.id.clone(), problem: error.to_string() };
    Ok(Member { rank, channel: channel.map_err(address)?, worker, progress: 0 })
}

async fn status(member: &Member, bound: Duration) -> Result<wire::GetStatusResponse, RankError> {
    let mut client = ShardWorkerClient::new(member.channel.clone());
    let status = timeout(bound, client.get_status(wire::GetStatusRequest {})).await;
    let status = status.unwrap_or_else(|_| Err(Status::deadline_exceeded(format!("no status within {bound:?}"))));
    status.map(tonic::Response::into_inner).map_err(|status| RankError::new(member, &status))
}
