//! `tessera.v1.Inference`.

mod deadline;
mod intake;
mod plain_streams;
mod reply;
mod request;

use std::{pin::Pin, sync::Arc};

use futures::{Stream, StreamExt};
use tessera_proto::v1::{
    CountTokensRequest, CountTokensResponse, GenerateOnceResponse, GenerateRequest, GenerateResponse, GetModelInfoRequest,
    GetModelInfoResponse, TokenizeRequest, TokenizeResponse,
    inference_server::{Inference, InferenceServer},
};
use tonic::{Request, Response, Status, codec::CompressionEncoding};

use self::{intake::Intake, plain_streams::PlainStreams, reply::Teller};
use crate::{metrics, router::Router};

/// The service, ready to be added to a server.
pub(crate) fn service(router: Arc<Router>) -> Intake<PlainStreams<InferenceServer<impl Inference>>> {
    let limit = router.limits().max_body_bytes;
    let service = InferenceServer::new(Front { router: router.clone() })
        .accept_compressed(CompressionEncoding::Gzip)
        .send_compressed(CompressionEncoding::Gzip)
        .max_decoding_message_size(limit)
        .max_encoding_message_size(tessera_proto::MAX_MESSAGE_BYTES);
    Intake::new(PlainStreams(service), router)
}

struct Front {
    router: Arc<Router>,
}

#[tonic::async_trait]
impl Inference for Front {
    type GenerateStream = Pin<Box<dyn Stream<Item = Result<GenerateResponse, Status>> + Send>>;

    async fn generate(&self, call: Request<GenerateRequest>) -> Result<Response<Self::GenerateStream>, Status> {
        let tells_resumed = call.get_ref().tell_resumed;
        let request = request::read(call);
        let entry = self.router.enter(metrics::Front::Grpc, request.arrived)?;
        let (accepted, session) = self.router.generate(entry, request).await?;
        let teller = Teller::new(session.prepared(), self.router.model_name(), tells_resumed);
        let accepted = teller.accepted(accepted);
        let events = session.events().filter_map(move |event| {
            let told = event.map(|event| teller.event(event)).map_err(Status::from);
            std::future::ready(told.transpose())
        });
        let first = futures::stream::once(std::future::ready(Ok(accepted)));
        Ok(Response::new(Box::pin(first.chain(events))))
    }

    async fn generate_once(&self, call: Request<GenerateRequest>) -> Result<Response<GenerateOnceResponse>, Status> {
        let request = request::read(call);
        let entry = self.router.enter(metrics::Front::Grpc, request.arrived)?;
        let (accepted, session) = self.router.generate(entry, request).await?;
        let teller = Teller::new(session.prepared(), self.router.model_name(), false);
        Ok(Response::new(teller.once(accepted, session.events()).await?))
    }

    async fn count_tokens(&self, call: Request<CountTokensRequest>) -> Result<Response<CountTokensResponse>, Status> {
        let call = call.into_inner();
        let input = request::counted(call.input);
        let sizes = call.image_sizes.into_iter().map(|size| (size.width, size.height)).collect();
        let count = self.router.count(&call.model, input, sizes).await?;
        Ok(Response::new(reply::count(&count, call.max_new_tokens.unwrap_or(1))))
    }

    async fn tokenize(&self, call: Request<TokenizeRequest>) -> Result<Response<TokenizeResponse>, Status> {
        let call = call.into_inner();
        let tokens = self.router.tokenize(&call.model, call.text).await?;
        let tokenizer = self.router.tokenizer();
        Ok(Response::new(TokenizeResponse {
            ids: tokens.iter().map(|token| token.0).collect(),
            tokens: tokens.iter().map(|&token| tokenizer.token_bytes(token).to_vec().into()).collect(),
        }))
    }

    async fn get_model_info(&self, _: Request<GetModelInfoRequest>) -> Result<Response<GetModelInfoResponse>, Status> {
        Ok(Response::new(reply::model_info(&self.router)))
    }
}
