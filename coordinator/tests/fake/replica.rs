//! A coordinator with fake workers, and a client of it.

use std::{net::SocketAddr, time::Duration};

use tessera_coordinator::{Config, Coordinator, GroupState, ModelSource, ReplicaState, RunError};
use tessera_proto::internal::{
    self as wire, coordinator_client::CoordinatorClient, generate_event::Event, shard_worker_server::ShardWorkerServer,
};
use tessera_registry::{Kept, MemoryStore, Registry, WorkerRecord, WorkerState};
use tessera_types::SamplingParams;
use tokio::{net::TcpListener, sync::watch, task::JoinHandle, time::timeout};
use tokio_util::sync::CancellationToken;
use tonic::{
    Status, Streaming,
    transport::{Channel, Server, server::TcpIncoming},
};

use super::worker::{Control, FakeWorker, spec};

/// Nothing in these tests takes so long unless it hangs.
pub(crate) const BOUND: Duration = Duration::from_secs(20);

pub(crate) struct Replica {
    pub(crate) workers: Vec<FakeWorker>,
    pub(crate) client: CoordinatorClient<Channel>,
    pub(crate) group: watch::Receiver<GroupState>,
    pub(crate) state: watch::Receiver<ReplicaState>,
    pub(crate) registry: Registry,
    pub(crate) stop: CancellationToken,
    pub(crate) running: JoinHandle<Result<(), RunError>>,
    servers: Vec<JoinHandle<()>>,
    leases: Vec<Kept>,
}

pub(crate) fn config(tp: u16) -> Config {
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    let mut config = Config::new("replica", any, "model", ModelSource::Folder("/nowhere".into()), tp);
    config.step_tokens = Some(32);
    config.max_sequences = 4;
    config.timeouts.stall = Duration::from_secs(10);
    config.timeouts.load_stall = Duration::from_secs(2);
    config
}

impl Replica {
    /// A coordinator with so many workers registered.
    pub(crate) async fn start(config: Config, workers: usize, prepare: impl Fn(&mut Control)) -> Self {
        Self::start_on("cpu", config, workers, prepare).await
    }

    /// The same, with workers on another device.
    pub(crate) async fn start_on(device: &str, config: Config, workers: usize, prepare: impl Fn(&mut Control)) -> Self {
        Self::start_in(Registry::new(MemoryStore::new()), device, config, workers, prepare).await
    }

    /// The same, where the cluster meets in another registry.
    pub(crate) async fn start_in(
        registry: Registry,
        device: &str,
        config: Config,
        workers: usize,
        prepare: impl Fn(&mut Control),
    ) -> Self {
        let (mut fakes, mut servers, mut leases) = (Vec::new(), Vec::new(), Vec::new());
        for n in 0..workers {
            let (fake, server, lease) = start_worker(&registry, n, device).await;
            prepare(&mut fake.control.lock());
            fakes.push(fake);
            servers.push(server);
            leases.push(lease);
        }
        let coordinator = Coordinator::bind(config, registry.clone()).await.unwrap();
        let (group, state) = (coordinator.group(), coordinator.state());
        let client = CoordinatorClient::new(tessera_service::peer(&coordinator.address().to_string(), None).unwrap());
        let stop = CancellationToken::new();
        let running = tokio::spawn(coordinator.run(stop.clone()));
        Self { workers: fakes, client, group, state, registry, stop, running, servers, leases }
    }

    /// The same, once it is ready.
    pub(crate) async fn ready(config: Config, workers: usize) -> Self {
        let mut replica = Self::start(config, workers, |_| {}).await;
        replica.until(|state| state.condition.ready).await;
        replica
    }

    pub(crate) async fn until(&mut self, wanted: impl FnMut(&ReplicaState) -> bool) -> ReplicaState {
        timeout(BOUND, self.state.wait_for(wanted)).await.expect("in time").unwrap().clone()
    }

    pub(crate) fn control(&self, worker: usize) -> parking_lot::MutexGuard<'_, Control> {
        self.workers[worker].control.lock()
    }

    /// Kills a worker's process, as far as others can see: its run breaks, and nobody listens on its address any more.
    pub(crate) fn kill(&mut self, worker: usize) {
        self.servers[worker].abort();
        self.workers[worker].killed.cancel();
    }

    /// Takes a dead worker's record away, as the end of its lease does.
    pub(crate) async fn forget(&mut self, worker: usize) {
        self.leases.remove(worker).revoke().await.unwrap();
    }

    /// Has a worker's record say that it leaves.
    pub(crate) async fn retire(&self, worker: usize) {
        let id = format!("worker-{worker}");
        let record = self.registry.members().await.unwrap().1.workers[&id].clone();
        let record = WorkerRecord { state: WorkerState::Draining, ..record };
        self.registry.put_worker(self.leases[worker].id(), &record).await.unwrap();
    }

    pub(crate) async fn generate(&mut self, request: wire::GenerateRequest) -> Result<Streaming<wire::GenerateEvent>, Status> {
        timeout(BOUND, self.client.generate(request)).await.expect("in time").map(tonic::Response::into_inner)
    }
}

async fn start_worker(registry: &Registry, n: usize, device: &str) -> (FakeWorker, JoinHandle<()>, Kept) {
    let fake = FakeWorker::default();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let service = ShardWorkerServer::new(fake.clone());
    let serving = Server::builder().add_service(service).serve_with_incoming(TcpIncoming::from(listener));
    let server = tokio::spawn(async move { serving.await.unwrap() });
    let lease = registry.lease(Duration::from_secs(5)).await.unwrap();
    let record = WorkerRecord {
        id: format!("worker-{n}"),
        address: format!("http://{address}"),
        device: device.into(),
        memory_bytes: 1 << 30,
        host: "here".into(),
        fingerprint: None,
        state: WorkerState::Ready,
        instance: 0,
    };
    registry.put_worker(lease.id(), &record).await.unwrap();
    (fake, server, lease)
}

pub(crate) fn prompt(tokens: u32) -> Vec<u32> {
    (100..100 + tokens).collect()
}

/// One sequence that only ends by length.
pub(crate) fn request(id: &str, prompt_tokens: u32, max_new: u32) -> wire::GenerateRequest {
    let sampling = SamplingParams { max_new_tokens: max_new, stop_tokens: Vec::new(), seed: 5, ..Default::default() };
    sampling.validate(spec().decoder.vocab_size).unwrap();
    wire::GenerateRequest {
        request_id: id.into(),
        prompt: prompt(prompt_tokens),
        sequences: vec![wire::SequenceRequest { sampling: Some((&sampling).into()), generated: Vec::new() }],
        ..Default::default()
    }
}

/// A stream's events as a client counts them.
#[derive(Debug, Default)]
pub(crate) struct Heard {
    pub(crate) tokens: Vec<u32>,
    pub(crate) finished: Option<wire::Finished>,
    pub(crate) timings: Option<wire::Timings>,
    pub(crate) error: Option<Status>,
}

impl Heard {
    /// Takes the next event; false at the end.
    pub(crate) async fn next(&mut self, stream: &mut Streaming<wire::GenerateEvent>) -> bool {
        let message = timeout(BOUND, stream.message()).await.expect("in time");
        match message.map(|message| message.map(|message| message.event.expect("an event"))) {
            Ok(Some(Event::Token(token))) => {
                assert_eq!(token.position as usize, self.tokens.len(), "a token lost or repeated");
                self.tokens.push(token.token);
            }
            Ok(Some(Event::Finished(finished))) => self.finished = Some(finished),
            Ok(Some(Event::Timings(timings))) => self.timings = Some(timings),
            Ok(Some(Event::Accepted(_) | Event::Resumed(_) | Event::PromptLogprobs(_))) => {}
            Ok(None) => return false,
            Err(status) => {
                self.error = Some(status);
                return false;
            }
        }
        true
    }

    /// Everything to the end.
    pub(crate) async fn all(mut stream: Streaming<wire::GenerateEvent>) -> Self {
        let mut heard = Self::default();
        while heard.next(&mut stream).await {}
        heard
    }
}
