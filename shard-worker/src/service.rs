//! The gRPC service in front of the device thread. It never waits for arithmetic.

use std::{
    pin::Pin,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use tessera_collective::Transport;
use tessera_proto::{
    EPOCH_METADATA,
    internal::{self as wire, load_event::Event, shard_worker_server},
};
use tessera_registry::device_kind;
use tessera_service::trace_context;
use tessera_types::Epoch;
use tokio::{
    sync::{mpsc, watch},
    time::timeout,
};
use tokio_stream::{Stream, StreamExt, wrappers::ReceiverStream};
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming};
use tracing::info_span;

use crate::{
    error::LoadError,
    fence::Fence,
    ids::Ids,
    rank::{Command, Commands, Inventory},
    request::{LoadRequest, ModelId},
    run::Run,
    work::Work,
};

/// Messages that may wait for a coordinator. It has two plans under way; progress of loading may be dropped.
const ANSWERS: usize = 16;
/// How long the device thread may take to end what it does for a group that is gone.
const ROOM: Duration = Duration::from_secs(30);

#[derive(Clone)]
pub(crate) struct Service {
    pub(crate) id: Arc<str>,
    pub(crate) device: Arc<str>,
    pub(crate) commands: Commands,
    pub(crate) fence: Arc<Fence>,
    pub(crate) inventory: watch::Receiver<Inventory>,
    pub(crate) ids: Ids,
    pub(crate) work: Work,
    /// Told of an epoch whose coordinator is gone.
    pub(crate) left: watch::Sender<Epoch>,
    pub(crate) draining: CancellationToken,
}

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl shard_worker_server::ShardWorker for Service {
    type LoadStream = Answers<wire::LoadEvent>;
    type RunStream = Answers<wire::StepResult>;

    async fn load(&self, request: Request<wire::LoadRequest>) -> Result<Response<Self::LoadStream>, Status> {
        let span = info_span!("load", epoch = request.get_ref().epoch, rank = request.get_ref().rank);
        trace_context::adopt_metadata(&span, request.metadata());
        let request = LoadRequest::try_from(request.into_inner())?;
        let (epoch, rank) = (request.group.epoch, request.group.rank);
        let abort = self.fence.enter(epoch, rank).map_err(|newest| LoadError::Stale { epoch, newest })?;
        let (answers, events) = mpsc::channel(ANSWERS);
        let id = if let Transport::Nccl { id } = &request.group.transport { Some(*id) } else { None };
        let ids = self.ids.clone();
        let command = Command::Load { request: Box::new(request), abort, answers, span };
        // Whatever the thread is in the middle of, entering the epoch has ended: there will soon be room.
        let sent = timeout(ROOM, self.commands.send(command)).await;
        sent.map_err(|_| Status::unavailable("the device thread is busy"))?
            .map_err(|_| Status::unavailable("the device thread has ended"))?;
        let events = ReceiverStream::new(events).map(move |event| {
            // Whoever has loaded has met the others.
            if let (Ok(wire::LoadEvent { event: Some(Event::Loaded(_)) }), Some(id)) = (&event, &id) {
                ids.met(id);
            }
            event
        });
        Ok(Response::new(Box::pin(events)))
    }

    async fn run(&self, request: Request<Streaming<wire::StepPlan>>) -> Result<Response<Self::RunStream>, Status> {
        let (answers, results) = mpsc::channel(ANSWERS);
        let span = info_span!("run");
        trace_context::adopt_metadata(&span, request.metadata());
        let epoch = request.metadata().get(EPOCH_METADATA).and_then(|epoch| epoch.to_str().ok()?.parse().ok()).map(Epoch);
        let (commands, fence, work, left) = (self.commands.clone(), self.fence.clone(), self.work.clone(), self.left.clone());
        let run = Run { commands, fence, work, left, answers, span };
        tokio::spawn(run.follow(request.into_inner(), epoch));
        Ok(Response::new(Box::pin(ReceiverStream::new(results))))
    }

    async fn release(&self, request: Request<wire::ReleaseRequest>) -> Result<Response<wire::ReleaseResponse>, Status> {
        self.fence.leave(Epoch(request.into_inner().epoch));
        Ok(Response::new(wire::ReleaseResponse {}))
    }

    async fn get_status(&self, _: Request<wire::GetStatusRequest>) -> Result<Response<wire::GetStatusResponse>, Status> {
        let (epoch, rank) = self.fence.now();
        let weight_bytes = self.inventory.borrow().weight_bytes;
        Ok(Response::new(wire::GetStatusResponse {
            worker_id: self.id.to_string(),
            epoch: epoch.0,
            rank: rank.map(|rank| rank.0.into()),
            device: self.device.to_string(),
            weight_bytes,
            steps: self.work.steps(),
            progress: self.work.progress().load(Ordering::Relaxed),
            draining: self.draining.is_cancelled(),
        }))
    }

    async fn new_collective_id(
        &self,
        request: Request<wire::NewCollectiveIdRequest>,
    ) -> Result<Response<wire::NewCollectiveIdResponse>, Status> {
        let wire::NewCollectiveIdRequest { epoch, model, tp } = request.into_inner();
        let epoch = Epoch(epoch);
        self.fence.admits(epoch).map_err(|newest| LoadError::Stale { epoch, newest })?;
        if device_kind(&self.device) != "cuda" {
            let problem = format!("this worker computes on `{}`: only ranks on `cuda` meet by NCCL", self.device);
            return Err(Status::failed_precondition(problem));
        }
        let model = model.map(ModelId::try_from).transpose()?;
        let make = move || {
            if let Some(model) = model {
                model.check(tp as usize)?;
            }
            Ok(tessera_collective::nccl_id()?)
        };
        Ok(Response::new(wire::NewCollectiveIdResponse { id: self.ids.make(make).await?.to_vec().into() }))
    }

    async fn drain(&self, _: Request<wire::DrainWorkerRequest>) -> Result<Response<wire::DrainWorkerResponse>, Status> {
        self.draining.cancel();
        Ok(Response::new(wire::DrainWorkerResponse {}))
    }
}
