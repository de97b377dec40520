//! Plans go to every rank as the same bytes, encoded once; results come back as messages.

use bytes::{BufMut, Bytes};
use futures::{StreamExt, TryFutureExt, stream::BoxStream};
use tessera_proto::{EPOCH_METADATA as EPOCH, MAX_MESSAGE_BYTES, internal::StepResult};
use tessera_service::trace_context;
use tessera_types::Epoch;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{
    Request, Status,
    client::Grpc,
    codec::{Codec, EncodeBuf, Encoder},
    codegen::http::uri::PathAndQuery,
    metadata::MetadataValue,
    transport::Channel,
};
use tonic_prost::ProstDecoder;
use tracing::{Instrument, info_span};

const RUN: &str = "/tessera.internal.v1.ShardWorker/Run";

/// Sends encoded plans as they are.
#[derive(Clone, Copy, Default)]
struct PlanCodec;

impl Codec for PlanCodec {
    type Encode = Bytes;
    type Decode = StepResult;
    type Encoder = Self;
    type Decoder = ProstDecoder<StepResult>;

    fn encoder(&mut self) -> Self::Encoder {
        Self
    }

    fn decoder(&mut self) -> Self::Decoder {
        ProstDecoder::default()
    }
}

impl Encoder for PlanCodec {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, plan: Bytes, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        buffer.put(plan);
        Ok(())
    }
}

/// A rank's results for the plans sent. Never waits for the rank to answer before plans flow; the stream's end is an
/// error, since only the coordinator ends a run. A span lasts as long as the run; the rank's steps belong to it.
pub(super) fn run(
    channel: Channel,
    epoch: Epoch,
    plans: mpsc::Receiver<Bytes>,
) -> BoxStream<'static, Result<StepResult, Status>> {
    let span = info_span!("run");
    let opened = async move {
        let mut grpc =
            Grpc::new(channel).max_decoding_message_size(MAX_MESSAGE_BYTES).max_encoding_message_size(MAX_MESSAGE_BYTES);
        grpc.ready().await.map_err(|error| Status::unavailable(format!("cannot be reached: {error}")))?;
        let mut plans = Request::new(ReceiverStream::new(plans));
        trace_context::inject(plans.metadata_mut());
        plans.metadata_mut().insert(EPOCH, MetadataValue::from(epoch.0));
        grpc.streaming(plans, PathAndQuery::from_static(RUN), PlanCodec).await.map(tonic::Response::into_inner)
    };
    let opened = opened.instrument(span.clone());
    let ended = async move {
        drop(span);
        Err(Status::unavailable("the rank ended its run"))
    };
    let ended = futures::stream::once(ended);
    opened.try_flatten_stream().chain(ended).boxed()
}
