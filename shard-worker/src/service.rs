//! The gRPC service in front of the device thread.

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use parking_lot::Mutex;
use tessera_proto::internal::{self as wire, shard_worker_server};
use tessera_service::Health;
use tessera_types::{Epoch, StepPlan};
use tokio::sync::{mpsc, oneshot, watch};
use tokio_stream::{Stream, StreamExt, wrappers::ReceiverStream};
use tonic::{Request, Response, Status, Streaming};
use tracing::debug;

use crate::{
    fence::Fence,
    load::LoadRequest,
    rank::{Command, Commands, Loaded},
};

/// Messages that may wait for a coordinator: it has two plans under way, and progress may be dropped.
const ANSWERS: usize = 16;

#[derive(Clone)]
pub(crate) struct Service {
    id: Arc<str>,
    commands: Commands,
    fence: Arc<Fence>,
    health: Health,
    loaded: Arc<Mutex<Option<Loaded>>>,
    steps: Arc<AtomicU64>,
    /// What the weights held are, for the registry.
    fingerprint: Arc<watch::Sender<Option<String>>>,
}

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

impl Service {
    pub(crate) fn new(
        id: String,
        commands: Commands,
        fence: Arc<Fence>,
        health: Health,
        fingerprint: watch::Sender<Option<String>>,
    ) -> Self {
        let fingerprint = Arc::new(fingerprint);
        Self { id: id.into(), commands, fence, health, loaded: Arc::default(), steps: Arc::default(), fingerprint }
    }

    async fn command(&self, command: Command) -> Result<(), Status> {
        self.commands.send(command).await.map_err(|_| Status::unavailable("the device thread has ended"))
    }
}

#[tonic::async_trait]
impl shard_worker_server::ShardWorker for Service {
    type LoadStream = Answers<wire::LoadEvent>;
    type RunStream = Answers<wire::StepResult>;

    async fn load(&self, request: Request<wire::LoadRequest>) -> Result<Response<Self::LoadStream>, Status> {
        let request = LoadRequest::try_from(request.into_inner())?;
        let epoch = request.epoch;
        self.fence.enter(epoch).map_err(|newest| {
            Status::failed_precondition(format!("epoch {epoch} is over: this worker has seen epoch {newest}"))
        })?;
        let (progress, answers) = mpsc::channel(ANSWERS);
        let (done, loaded) = oneshot::channel();
        self.command(Command::Load { request: Box::new(request), progress, done }).await?;
        let service = self.clone();
        tokio::spawn(async move {
            // The thread drops the sender when loading fails.
            if let Ok(loaded) = loaded.await {
                service.fingerprint.send_replace(Some(loaded.fingerprint.clone()));
                *service.loaded.lock() = Some(loaded);
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(answers))))
    }

    async fn run(&self, request: Request<Streaming<wire::StepPlan>>) -> Result<Response<Self::RunStream>, Status> {
        let plans = request.into_inner();
        let (results, answers) = mpsc::channel(ANSWERS);
        let service = self.clone();
        tokio::spawn(async move { service.follow(plans, results).await });
        let (steps, health) = (self.steps.clone(), self.health.clone());
        let counted = ReceiverStream::new(answers).map(move |result| {
            steps.fetch_add(1, Ordering::Relaxed);
            health.progressed();
            result
        });
        Ok(Response::new(Box::pin(counted)))
    }

    async fn release(&self, request: Request<wire::ReleaseRequest>) -> Result<Response<wire::ReleaseResponse>, Status> {
        let epoch = Epoch(request.into_inner().epoch);
        self.leave(epoch).await?;
        Ok(Response::new(wire::ReleaseResponse {}))
    }

    async fn get_status(&self, _: Request<wire::GetStatusRequest>) -> Result<Response<wire::GetStatusResponse>, Status> {
        let loaded = self.loaded.lock().clone();
        Ok(Response::new(wire::GetStatusResponse {
            worker_id: self.id.to_string(),
            epoch: self.fence.newest().0,
            rank: loaded.as_ref().map(|loaded| loaded.rank.0.into()),
            device: "cpu".into(),
            weight_bytes: loaded.map_or(0, |loaded| loaded.weight_bytes),
            steps: self.steps.load(Ordering::Relaxed),
        }))
    }
}

impl Service {
    /// Passes plans to the device thread until the coordinator ends the stream; then its group is over.
    async fn follow(&self, mut plans: Streaming<wire::StepPlan>, results: mpsc::Sender<Result<wire::StepResult, Status>>) {
        let mut group = None;
        loop {
            let plan = match plans.message().await {
                Ok(Some(plan)) => StepPlan::try_from(plan),
                Ok(None) => break,
                Err(status) => {
                    debug!(%status, "the coordinator is gone");
                    break;
                }
            };
            let plan = match plan {
                Ok(plan) => plan,
                Err(error) => {
                    // A stream that takes no more answers is ending anyway.
                    let _ = results.try_send(Err(error.into()));
                    break;
                }
            };
            group = Some(plan.epoch);
            if self.command(Command::Step { plan: Box::new(plan), results: results.clone() }).await.is_err() {
                break;
            }
        }
        if let Some(epoch) = group {
            // Nothing is lost when the thread has ended already.
            let _ = self.leave(epoch).await;
        }
    }

    async fn leave(&self, epoch: Epoch) -> Result<(), Status> {
        self.fence.release(epoch);
        self.command(Command::Leave(epoch)).await
    }
}
