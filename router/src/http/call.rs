//! What is known of an HTTP call before its body is read, and the reading of it.

use std::time::Duration;

use axum::{body::Body, extract::Request, middleware::Next, response::Response};
use bytes::{Bytes, BytesMut};
use http::{HeaderName, HeaderValue, header};
use http_body_util::BodyExt;
use tokio::time::{Instant, timeout};

use crate::{
    Limits, RequestError,
    admission::{Arriving, Permit},
    request,
    trace::Trace,
};

static REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// How long a body may take to arrive.
pub(crate) const BODY_WITHIN: Duration = Duration::from_secs(60);

/// One HTTP call.
#[derive(Clone, Debug)]
pub(crate) struct Call {
    id: String,
    arrived: Instant,
    trace: Trace,
}

impl Call {
    /// Its name.
    pub(crate) fn id(&self) -> &str {
        &self.id
    }

    /// When its headers were read.
    pub(crate) fn arrived(&self) -> Instant {
        self.arrived
    }

    /// A request that asks for nothing yet.
    pub(crate) fn request(&self) -> request::Request {
        request::Request {
            model: String::new(),
            id: self.id.clone(),
            input: None,
            sampling: request::RawSampling::default(),
            priority: 0,
            return_token_ids: false,
            arrived: self.arrived,
            deadline: None,
            trace: self.trace.clone(),
        }
    }

    #[cfg(test)]
    pub(crate) fn for_tests() -> Self {
        Self { id: "test".into(), arrived: Instant::now(), trace: Trace::begin(&http::HeaderMap::new()) }
    }
}

/// Names the call, by the client's own name for it if that is fit for a header and a log.
pub(crate) async fn name(mut call: Request, next: Next) -> Response {
    let given = call.headers().get(&REQUEST_ID).and_then(|id| id.to_str().ok());
    let fit = given.filter(|id| request::is_fit_id(id));
    let id = fit.map_or_else(|| format!("{:032x}", rand::random::<u128>()), str::to_owned);
    let trace = Trace::begin(call.headers());
    let value = HeaderValue::from_str(&id).ok();
    call.extensions_mut().insert(Call { id, arrived: Instant::now(), trace });
    let mut response = next.run(call).await;
    if let Some(value) = value {
        response.headers_mut().insert(&REQUEST_ID, value);
    }
    response
}

/// Reads a body within the limits of size and time, on the permit's account as it comes.
pub(crate) async fn read(request: Request, limits: &Limits, permit: &Permit) -> Result<Bytes, RequestError> {
    let limit = limits.max_body_bytes;
    let length = request.headers().get(header::CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse::<usize>().ok());
    if length.is_some_and(|length| length > limit) {
        return Err(RequestError::too_large(limit));
    }
    let body = timeout(BODY_WITHIN, collect(request.into_body(), Arriving::new(limit), permit)).await;
    body.map_err(|_| RequestError::unreadable(format!("the body did not arrive within {BODY_WITHIN:?}")))?
}

async fn collect(mut body: Body, mut arriving: Arriving, permit: &Permit) -> Result<Bytes, RequestError> {
    let mut whole = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| RequestError::unreadable(format!("the body could not be read: {error}")))?;
        if let Ok(data) = frame.into_data() {
            arriving.take(data.len(), permit)?;
            whole.extend_from_slice(&data);
        }
    }
    Ok(whole.freeze())
}
