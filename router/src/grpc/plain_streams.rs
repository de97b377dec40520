//! Streams of deltas are not compressed: a message of thirty bytes grows by it, and takes seventy times as long.

use std::task::{Context, Poll};

use http::Request;
use tonic::server::NamedService;
use tower::Service;

/// The method whose answers are many and small.
pub(super) const GENERATE: &str = "/tessera.v1.Inference/Generate";

/// A service that takes and sends gzip, but for the stream of `Generate`: there it does as if the client had not
/// offered to take any, which a server is free to do.
#[derive(Clone)]
pub(crate) struct PlainStreams<S>(pub(super) S);

impl<S, B> Service<Request<B>> for PlainStreams<S>
where
    S: Service<Request<B>>,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.0.poll_ready(context)
    }

    fn call(&mut self, mut request: Request<B>) -> S::Future {
        if request.uri().path() == GENERATE {
            request.headers_mut().remove("grpc-accept-encoding");
        }
        self.0.call(request)
    }
}

impl<S: NamedService> NamedService for PlainStreams<S> {
    const NAME: &'static str = S::NAME;
}
