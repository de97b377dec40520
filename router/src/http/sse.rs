//! Server-sent events: a session's chunks as a response body.

use std::{convert::Infallible, pin::Pin, time::Duration};

use axum::{body::Body, response::Response};
use bytes::Bytes;
use futures::{FutureExt, Stream, StreamExt};
use http::{HeaderValue, header};
use serde::Serialize;
use tokio::time::{Instant, Sleep, sleep};

use super::{chunks::Chunks, error};
use crate::{RequestError, event::Event};

/// A stream that says nothing for so long sends a comment, so that proxies keep it open.
const KEEP_ALIVE: Duration = Duration::from_secs(15);
/// Events that are ready together go out together, up to so many.
const TOGETHER: usize = 32;

/// Appends `data: {…}` as one event.
pub(crate) fn write_data(body: &impl Serialize, out: &mut Vec<u8>) {
    out.extend_from_slice(b"data: ");
    if serde_json::to_writer(&mut *out, body).is_err() {
        // Nothing that is written here has a form JSON lacks.
        tracing::error!("a chunk could not be written as JSON");
    }
    out.extend_from_slice(b"\n\n");
}

/// A response that streams the events as chunks. An error on the way is an event too, since the status is sent.
pub(crate) fn respond(events: impl Stream<Item = Result<Event, RequestError>> + Send + 'static, chunks: Chunks) -> Response {
    let sender = Sender { events: Box::pin(events), chunks, quiet: Box::pin(sleep(KEEP_ALIVE)), spoke: Instant::now(), done: false };
    let bytes = futures::stream::unfold(sender, |mut sender| async move {
        let bytes = sender.next().await?;
        Some((Ok::<_, Infallible>(bytes), sender))
    });
    let mut response = Response::new(Body::from_stream(bytes));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream; charset=utf-8"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
    response
}

struct Sender {
    events: Pin<Box<dyn Stream<Item = Result<Event, RequestError>> + Send>>,
    chunks: Chunks,
    quiet: Pin<Box<Sleep>>,
    spoke: Instant,
    done: bool,
}

impl Sender {
    async fn next(&mut self) -> Option<Bytes> {
        if self.done {
            return None;
        }
        loop {
            let mut out = Vec::with_capacity(512);
            tokio::select! {
                biased;
                event = self.events.next() => self.write(event, &mut out),
                // The timer is set anew only when it fires, not for every token.
                () = &mut self.quiet => {
                    let due = self.spoke + KEEP_ALIVE;
                    if due <= Instant::now() {
                        out.extend_from_slice(b": keep-alive\n\n");
                        self.spoke = Instant::now();
                    }
                    self.quiet.as_mut().reset(self.spoke + KEEP_ALIVE);
                }
            }
            for _ in 1..TOGETHER {
                if self.done {
                    break;
                }
                let Some(event) = self.events.next().now_or_never() else { break };
                self.write(event, &mut out);
            }
            if !out.is_empty() {
                return Some(out.into());
            }
        }
    }

    fn write(&mut self, event: Option<Result<Event, RequestError>>, out: &mut Vec<u8>) {
        self.spoke = Instant::now();
        match event {
            Some(Ok(event)) => self.chunks.write(&event, out),
            Some(Err(error)) => write_data(&error::body(&error), out),
            None => {
                out.extend_from_slice(b"data: [DONE]\n\n");
                self.done = true;
            }
        }
    }
}
