//! Answers to clients that may stop reading.
//!
//! A body is polled only while its client takes what it gave: one that nobody polls would keep its request, and all
//! that it holds, past every deadline. So a task beside it looks at it now and then.

use std::{
    pin::Pin,
    sync::{Arc, Weak},
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use hyper::body::{Body, Frame};
use parking_lot::Mutex;
use tokio::{
    task::AbortHandle,
    time::{Instant, sleep},
};
use tonic::codegen::StdError;

use crate::RequestError;

/// A body that is dropped when its client does not read for too long. Dropping this drops it at once.
pub(crate) struct Watched<B> {
    body: Arc<Mutex<Option<Kept<B>>>>,
    ended: bool,
    watch: AbortHandle,
}

struct Kept<B> {
    body: B,
    /// When it gave something that nobody came back for yet; `None` while it is itself waited for.
    unread_since: Option<Instant>,
}

impl<B: Send + 'static> Watched<B> {
    /// Watches `body`: its client may leave it unread for as long as `patience`, and about a quarter more.
    pub(crate) fn new(body: B, patience: Duration) -> Self {
        let body = Arc::new(Mutex::new(Some(Kept { body, unread_since: None })));
        let watch = tokio::spawn(watch(Arc::downgrade(&body), patience)).abort_handle();
        Self { body, ended: false, watch }
    }
}

async fn watch<B>(body: Weak<Mutex<Option<Kept<B>>>>, patience: Duration) {
    loop {
        sleep(patience / 4).await;
        let Some(body) = body.upgrade() else { return };
        let mut kept = body.lock();
        if kept.as_ref().and_then(|kept| kept.unread_since).is_some_and(|since| since.elapsed() >= patience) {
            let left = kept.take();
            drop(kept);
            drop(left);
            tracing::info!("a client left its answer unread for {patience:?}: its request was given up");
            return;
        }
    }
}

impl<B> Drop for Watched<B> {
    fn drop(&mut self) {
        self.watch.abort();
    }
}

impl<B: Body<Data = Bytes, Error: Into<StdError>> + Unpin> Body for Watched<B> {
    type Data = Bytes;
    type Error = StdError;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, StdError>>> {
        if self.ended {
            return Poll::Ready(None);
        }
        let frame = match &mut *self.body.lock() {
            Some(kept) => {
                kept.unread_since = None;
                let frame = ready!(Pin::new(&mut kept.body).poll_frame(context));
                kept.unread_since = Some(Instant::now());
                frame.map(|frame| frame.map_err(Into::into))
            }
            // Cut off, rather than ended as if this were all of it.
            None => Some(Err(RequestError::deadline("its client did not read").into())),
        };
        if !matches!(frame, Some(Ok(_))) {
            self.ended = true;
            self.body.lock().take();
        }
        Poll::Ready(frame)
    }
}
