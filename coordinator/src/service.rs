//! The gRPC service that routers call.

use std::time::Duration;

use tessera_proto::internal::{self as wire, coordinator_server};
use tokio::{
    sync::{mpsc, oneshot, watch},
    time::timeout,
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Request, Response, Status};
use tracing::Instrument;

use crate::{admission::Ask, config::Config, session::Message, state::ReplicaState, status::away};

/// What the driver is asked to do.
pub(crate) enum Command {
    /// Run a request; the answer is its stream, or why not.
    Submit(Box<Ask>, oneshot::Sender<Result<mpsc::Receiver<Message>, Status>>),
    /// End one sequence of a request.
    Stop { request: String, index: u32 },
    /// Take nothing new, let what runs end within the bound, and end.
    Drain { bound: Option<Duration> },
}

/// Commands that may wait for the driver.
pub(crate) const COMMANDS: usize = 256;
/// The driver takes commands between steps' outputs; it is never away for so long.
const ANSWER: Duration = Duration::from_secs(10);

/// The service; all it does is ask the driver.
pub(crate) struct Service {
    pub(crate) commands: mpsc::Sender<Command>,
    pub(crate) state: watch::Receiver<ReplicaState>,
    pub(crate) replica: String,
    pub(crate) model: String,
    pub(crate) dtype: String,
    pub(crate) quantization: String,
    pub(crate) kv_cache_dtype: String,
    pub(crate) tp: u16,
}

impl Service {
    pub(crate) fn new(config: &Config, commands: mpsc::Sender<Command>, state: watch::Receiver<ReplicaState>) -> Self {
        let (replica, model) = (config.replica.clone(), config.model.clone());
        let (dtype, quantization, kv_cache_dtype) =
            (config.dtype.clone(), config.quantization.clone(), config.kv_cache_dtype.clone());
        Self { commands, state, replica, model, dtype, quantization, kv_cache_dtype, tp: config.tp }
    }

    async fn ask(&self, command: Command) -> Result<(), Status> {
        match timeout(ANSWER, self.commands.send(command)).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => Err(away("the replica is stopping")),
            Err(_) => {
                let problem = "the replica takes no requests for the moment";
                Err(tessera_proto::retry_after(Code::ResourceExhausted, problem, ANSWER))
            }
        }
    }

    async fn submit(&self, message: wire::GenerateRequest) -> Result<mpsc::Receiver<Message>, Status> {
        let Some(spec) = self.state.borrow().spec.clone() else { return Err(away("the group is forming")) };
        let ask = Ask::read(message, &spec)?;
        let (reply, answer) = oneshot::channel();
        self.ask(Command::Submit(Box::new(ask), reply)).await?;
        match timeout(ANSWER, answer).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(_)) => Err(away("the replica is stopping")),
            Err(_) => Err(away("the replica did not answer in time")),
        }
    }
}

#[tonic::async_trait]
impl coordinator_server::Coordinator for Service {
    type GenerateStream = ReceiverStream<Message>;

    async fn generate(&self, request: Request<wire::GenerateRequest>) -> Result<Response<Self::GenerateStream>, Status> {
        let (metadata, _, message) = request.into_parts();
        let span = tracing::info_span!("submit", request = message.request_id);
        tessera_service::trace_context::adopt_metadata(&span, &metadata);
        let stream = self.submit(message).instrument(span).await?;
        Ok(Response::new(ReceiverStream::new(stream)))
    }

    async fn stop_sequence(
        &self,
        request: Request<wire::StopSequenceRequest>,
    ) -> Result<Response<wire::StopSequenceResponse>, Status> {
        let wire::StopSequenceRequest { request_id, index } = request.into_inner();
        self.ask(Command::Stop { request: request_id, index }).await?;
        Ok(Response::new(wire::StopSequenceResponse {}))
    }

    async fn get_info(&self, _: Request<wire::GetInfoRequest>) -> Result<Response<wire::GetInfoResponse>, Status> {
        let state = self.state.borrow().clone();
        let condition = state.condition;
        let spec = state.spec.as_deref().map(serde_json::to_string).transpose();
        Ok(Response::new(wire::GetInfoResponse {
            model: self.model.clone(),
            epoch: state.epoch.0,
            // Fewer, perhaps, than asked for.
            tp: if state.workers.is_empty() { self.tp.into() } else { state.workers.len() as u32 },
            max_context: condition.max_context as u32,
            kv_blocks: condition.kv_blocks as u32,
            kv_blocks_used: condition.kv_blocks_used as u32,
            running: condition.running as u32,
            waiting: condition.waiting as u32,
            queued_tokens: condition.queued_tokens as u64,
            ready: condition.ready,
            dtype: self.dtype.clone(),
            quantization: self.quantization.clone(),
            kv_cache_dtype: self.kv_cache_dtype.clone(),
            model_spec: spec.map_err(|error| Status::internal(error.to_string()))?.unwrap_or_default(),
            draining: condition.draining,
            workers: state.workers,
            groups: state.groups,
            last_loss: state.last_loss,
            model_fingerprint: state.fingerprint,
            group_age_ms: state.formed.map_or(0, |formed| formed.elapsed().as_millis() as u64),
            replica: self.replica.clone(),
            lost_ranks: state.lost.iter().map(|rank| rank.0.into()).collect(),
            problem: state.problem,
            registry_away_ms: state.registry_away.map_or(0, |since| since.elapsed().as_millis() as u64),
        }))
    }

    async fn drain(&self, request: Request<wire::DrainRequest>) -> Result<Response<wire::DrainResponse>, Status> {
        let bound = Some(request.into_inner().timeout_ms).filter(|&ms| ms > 0).map(Duration::from_millis);
        self.ask(Command::Drain { bound }).await?;
        Ok(Response::new(wire::DrainResponse {}))
    }
}
