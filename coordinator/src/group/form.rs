//! Forming a group: choose, claim, load; again and again until it works.

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use futures::future::join_all;
use tessera_proto::internal::{
    self as wire, collective::Transport as WireTransport, model_source, shard_worker_client::ShardWorkerClient,
};
use tessera_registry::{Kept, Registry, RegistryError, WorkerRecord};
use tessera_service::Tls;
use tessera_types::{Epoch, Rank};
use tokio::{
    sync::watch,
    time::{sleep, timeout},
};
use tonic::{Status, transport::Uri};
use tracing::{info, warn};

use super::{
    FormError, Group, Member, RankError,
    choose::{Experience, choose},
    load::{Model, load},
    run::release,
};
use crate::{
    config::{Config, ModelSource, Transport},
    state::GroupState,
};

/// How long a worker that failed is doubtful: longer than its lease, if it is dead.
const DOUBT: Duration = Duration::from_secs(15);

/// Forms groups, one after the other.
pub(crate) struct Former {
    config: Arc<Config>,
    registry: Registry,
    tls: Option<Tls>,
    state: watch::Sender<GroupState>,
    ranks: Vec<String>,
    failed: Vec<(String, Instant)>,
}

impl Former {
    pub(crate) fn new(config: Arc<Config>, registry: Registry, tls: Option<Tls>, state: watch::Sender<GroupState>) -> Self {
        Self { config, registry, tls, state, ranks: Vec::new(), failed: Vec::new() }
    }

    /// Lets the last group go, then tries until there is a new one.
    ///
    /// # Errors
    /// Only what another attempt would not mend, and only before there was any group.
    pub(crate) async fn form(&mut self, last: Option<Group>) -> Result<Group, FormError> {
        if let Some(mut group) = last {
            group.hear_out().await;
            self.doubt(group.suspects());
            group.release().await;
        }
        let mut pause = self.config.timeouts.retry;
        loop {
            let error = match self.attempt().await {
                Ok(group) => return Ok(group),
                Err(error) if error.is_final() && self.ranks.is_empty() => return Err(error),
                Err(error) => error,
            };
            self.report(&error);
            sleep(pause).await;
            pause = (pause * 2).min(self.config.timeouts.retry_most);
        }
    }

    fn report(&mut self, error: &FormError) {
        let state = match error {
            FormError::Workers { free, needed } => GroupState::Waiting { free: *free, needed: *needed },
            error => GroupState::Lost { problem: error.to_string() },
        };
        if self.state.send_replace(state.clone()) != state {
            warn!(%error, "no group yet");
        }
    }

    /// Notes that workers failed, the last to fail at the end.
    fn doubt(&mut self, workers: impl IntoIterator<Item = String>) {
        let now = Instant::now();
        let workers: Vec<_> = workers.into_iter().collect();
        self.failed.retain(|(worker, since)| now.duration_since(*since) < DOUBT && !workers.contains(worker));
        self.failed.extend(workers.into_iter().map(|worker| (worker, now)));
    }

    async fn attempt(&mut self) -> Result<Group, FormError> {
        let call = self.config.timeouts.call;
        let (_, members) = bounded(call, self.registry.members()).await?;
        self.doubt([]);
        let doubtful = self.failed.iter().map(|(worker, _)| worker.clone()).collect();
        let needed = usize::from(self.config.tp);
        let experience = Experience { ranks: self.ranks.clone(), doubtful };
        let workers = choose(&members, needed, &experience).map_err(|free| FormError::Workers { free, needed })?;
        let lease = bounded(call, self.registry.lease(self.config.timeouts.lease)).await?;
        let formed = self.claim_and_load(&lease, workers).await;
        match formed {
            Ok((epoch, members, model)) => Ok(Group::new(epoch, members, model, lease, self.config.timeouts)),
            Err(error) => {
                // The claims go with the lease.
                let _ = timeout(call, lease.revoke()).await;
                Err(error)
            }
        }
    }

    async fn claim_and_load(
        &mut self,
        lease: &Kept,
        workers: Vec<WorkerRecord>,
    ) -> Result<(Epoch, Vec<Member>, Model), FormError> {
        let timeouts = self.config.timeouts;
        let ids: Vec<_> = workers.iter().map(|worker| worker.id.clone()).collect();
        let claimed = bounded(timeouts.call, self.registry.claim(lease.id(), &self.config.replica, &ids)).await?;
        let members = workers.into_iter().zip(0..).map(|(worker, rank)| join(worker, Rank(rank), self.tls.as_ref()));
        let members = members.collect::<Result<Vec<_>, _>>()?;
        let epoch = self.epoch(claimed, &members).await?;
        info!(%epoch, workers = ids.join(", "), "claimed");
        let collective = self.collective(&members).await?;
        let requests = members.iter().map(|member| self.request(member, epoch, &collective)).collect::<Result<_, _>>()?;
        let loaded = load(&members, requests, timeouts.load_stall, &self.state).await;
        match loaded {
            Ok(model) => {
                self.ranks = ids;
                info!(%epoch, kv_blocks = model.kv_blocks, "the group is ready");
                Ok((epoch, members, model))
            }
            Err(error) => {
                self.doubt_failed(&error);
                release(&members, epoch, timeouts.call).await;
                Err(error)
            }
        }
    }

    /// The claim's epoch, which is above all that workers have seen; unless the registry was set back since, as by a
    /// restored backup. The claim is held either way, so going above what they saw takes nothing from anyone.
    ///
    /// Asking has a second use: a worker that does not answer is found before the others load and wait for it.
    async fn epoch(&mut self, claimed: Epoch, members: &[Member]) -> Result<Epoch, FormError> {
        let seen = join_all(members.iter().map(|member| newest_epoch(member, self.config.timeouts.call))).await;
        let (seen, failed): (Vec<_>, Vec<_>) = seen.into_iter().partition(Result::is_ok);
        let ranks: Vec<_> = failed.into_iter().filter_map(Result::err).collect();
        if !ranks.is_empty() {
            let error = FormError::Load { ranks };
            self.doubt_failed(&error);
            return Err(error);
        }
        let newest = seen.into_iter().flatten().max().unwrap_or_default();
        Ok(claimed.max(Epoch(newest.0 + 1)))
    }

    /// Workers that another attempt should rather do without.
    fn doubt_failed(&mut self, error: &FormError) {
        if let FormError::Load { ranks } = error {
            self.doubt(ranks.iter().filter(|rank| !rank.is_final()).map(|rank| rank.worker.clone()));
        }
    }

    fn request(&self, member: &Member, epoch: Epoch, collective: &wire::Collective) -> Result<wire::LoadRequest, FormError> {
        let source = match &self.config.source {
            ModelSource::Folder(folder) => model_source::Source::Folder(folder.clone()),
            ModelSource::Dummy { spec, seed } => {
                let model_spec = serde_json::to_string(spec).map_err(|error| FormError::Shape(error.to_string()))?;
                model_source::Source::Dummy(wire::DummyModel { model_spec, seed: *seed })
            }
        };
        Ok(wire::LoadRequest {
            epoch: epoch.0,
            rank: member.rank.0.into(),
            tp: self.config.tp.into(),
            model: Some(wire::ModelSource { source: Some(source) }),
            dtype: self.config.dtype.clone(),
            kv_blocks: self.config.kv_blocks.unwrap_or(0),
            max_context: self.config.max_context.unwrap_or(0),
            collective: Some(collective.clone()),
        })
    }

    async fn collective(&self, members: &[Member]) -> Result<wire::Collective, FormError> {
        let one_host = members.iter().all(|member| member.worker.host == members[0].worker.host);
        let tcp = match self.config.transport {
            Transport::Auto => !one_host,
            Transport::Shm => false,
            Transport::Tcp => true,
        };
        let mut addresses = Vec::new();
        for member in members.iter().filter(|_| tcp) {
            addresses.push(rank_address(&member.worker, self.config.timeouts.call).await?.to_string());
        }
        Ok(wire::Collective {
            transport: if tcp { WireTransport::Tcp } else { WireTransport::Shm }.into(),
            group: self.config.replica.clone(),
            addresses,
            deadline_ms: self.config.timeouts.collective.as_millis() as u64,
        })
    }
}

fn join(worker: WorkerRecord, rank: Rank, tls: Option<&Tls>) -> Result<Member, FormError> {
    let channel = tessera_service::peer(&worker.address, tls);
    let address =
        |error: tessera_service::PeerError| FormError::Address { worker: worker.id.clone(), problem: error.to_string() };
    Ok(Member { rank, channel: channel.map_err(address)?, worker })
}

async fn newest_epoch(member: &Member, bound: Duration) -> Result<Epoch, RankError> {
    let mut client = ShardWorkerClient::new(member.channel.clone());
    let status = timeout(bound, client.get_status(wire::GetStatusRequest {})).await;
    let status = status.unwrap_or_else(|_| Err(Status::deadline_exceeded(format!("no status within {bound:?}"))));
    status.map(|status| Epoch(status.into_inner().epoch)).map_err(|status| RankError::new(member, &status))
}

/// Where a rank meets the others by TCP.
async fn rank_address(worker: &WorkerRecord, bound: Duration) -> Result<SocketAddr, FormError> {
    let problem =
        |problem: &str| FormError::Address { worker: worker.id.clone(), problem: format!("{}: {problem}", worker.address) };
    let uri: Uri = worker.address.parse().map_err(|_| problem("is not an address"))?;
    let (host, port) = uri.host().zip(uri.port_u16()).ok_or_else(|| problem("has no host and port"))?;
    let port = port.checked_add(Config::TCP_PORT_OFFSET).ok_or_else(|| problem("has too high a port"))?;
    let host = host.trim_matches(['[', ']']);
    let found = timeout(bound, tokio::net::lookup_host((host, port))).await;
    let mut found = found.map_err(|_| problem("was not resolved in time"))?.map_err(|error| problem(&error.to_string()))?;
    found.next().ok_or_else(|| problem("resolves to nothing"))
}

async fn bounded<T>(bound: Duration, call: impl Future<Output = Result<T, RegistryError>>) -> Result<T, RegistryError> {
    timeout(bound, call).await.unwrap_or_else(|_| Err(RegistryError::Unavailable(format!("no answer within {bound:?}"))))
}
