//! What stands before a call: its key is checked, and it is taken on, before any of its message is read.

use std::{
    future::{Future, ready},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use futures::{TryFutureExt, future::Either};
use http::{Request, Response, header};
use hyper::body::Frame;
use tokio::time::{Sleep, sleep};
use tonic::{Status, body::Body, server::NamedService};
use tower::Service;

use super::plain_streams::GENERATE;
use crate::{
    RequestError,
    admission::{Arriving, Permit},
    http::BODY_WITHIN,
    metrics::Front,
    router::Router,
    watched::Watched,
};

/// Bytes before a message, which tell its length.
const HEAD: usize = 5;

/// A service whose messages are counted and bounded on their way in, and whose streams are cut off when nobody reads.
#[derive(Clone)]
pub(crate) struct Intake<S> {
    service: S,
    router: Arc<Router>,
}

impl<S> Intake<S> {
    pub(super) fn new(service: S, router: Arc<Router>) -> Self {
        Self { service, router }
    }

    fn admit(&self, request: &Request<Body>) -> Result<Permit, RequestError> {
        let key = request.headers().get(header::AUTHORIZATION).map(|key| key.as_bytes());
        self.router.keys().check(key)?;
        self.router.receive(Front::Grpc)
    }
}

impl<S> Service<Request<Body>> for Intake<S>
where
    S: Service<Request<Body>, Response = Response<Body>>,
    S::Future: Send + 'static,
    S::Error: Send + 'static,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, S::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.service.poll_ready(context)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let permit = match self.admit(&request) {
            Ok(permit) => permit,
            Err(error) => return Box::pin(ready(Ok(Status::from(error).into_http()))),
        };
        let streams = request.uri().path() == GENERATE;
        let limits = self.router.limits();
        let (max_bytes, max_unread) = (limits.max_body_bytes, limits.max_unread);
        let message = |body| {
            let (arriving, by) = (Arriving::new(max_bytes + HEAD), Box::pin(sleep(BODY_WITHIN)));
            Body::new(Message { body, permit, arriving, by, first: true, max_bytes })
        };
        let answer = self.service.call(request.map(message));
        Box::pin(match streams {
            true => Either::Left(answer.map_ok(move |answer| answer.map(|body| Body::new(Watched::new(body, max_unread))))),
            false => Either::Right(answer),
        })
    }
}

impl<S: NamedService> NamedService for Intake<S> {
    const NAME: &'static str = S::NAME;
}

/// A message on its way in.
struct Message {
    body: Body,
    permit: Permit,
    arriving: Arriving,
    by: Pin<Box<Sleep>>,
    first: bool,
    max_bytes: usize,
}

/// What a message says of its length, in the head that is before it.
fn length(start: &[u8]) -> Option<usize> {
    let (_compressed, rest) = start.split_first()?;
    Some(u32::from_be_bytes(*rest.first_chunk()?) as usize)
}

impl hyper::body::Body for Message {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let this = &mut *self;
        let frame = Pin::new(&mut this.body).poll_frame(context);
        match &frame {
            Poll::Ready(Some(Ok(frame))) => {
                // What the message says of its length is as good as the length.
                let data = frame.data_ref().map_or(&[][..], |data| data);
                let told = if std::mem::take(&mut this.first) { length(data).unwrap_or_default() } else { 0 };
                let refusal = if told > this.max_bytes { Err(RequestError::too_large(this.max_bytes)) } else { Ok(()) };
                if let Err(error) = refusal.and_then(|()| this.arriving.take(data.len(), &this.permit)) {
                    return Poll::Ready(Some(Err(error.into())));
                }
            }
            Poll::Pending if this.by.as_mut().poll(context).is_ready() => {
                let error = RequestError::unreadable(format!("the message did not arrive within {BODY_WITHIN:?}"));
                return Poll::Ready(Some(Err(error.into())));
            }
            _ => {}
        }
        frame
    }
}
