//! A connection that can be cut from this side, whatever its calls still do.

use std::{
    future::Future,
    io::{ErrorKind, IoSlice, Result},
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Sleep, sleep},
};
use tokio_util::{
    either::Either,
    sync::{CancellationToken, WaitForCancellationFutureOwned},
};
use tonic::transport::server::{Connected, TcpConnectInfo};

use crate::{places::Place, tls::Accepted};

/// Bytes by which a client begins to speak HTTP/2; until they have come, nothing else keeps time.
const PREFACE: usize = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".len();

/// A stream that reads as broken once its token is cancelled, or while its client has not begun to speak for too long.
/// The server gives every connection a task of its own, which a server that ends leaves behind; a broken stream ends the
/// task, and the calls with it.
pub(crate) struct Connection {
    stream: Accepted,
    cut: Pin<Box<WaitForCancellationFutureOwned>>,
    silence: Option<Silence>,
    _place: Place,
}

/// A client that has not begun to speak.
struct Silence {
    /// Of the preface.
    missing: usize,
    bound: Pin<Box<Sleep>>,
}

impl Connection {
    /// Of a client that must begin to speak `within` a time from now.
    pub(crate) fn new(stream: Accepted, place: Place, cut: &CancellationToken, within: Duration) -> Self {
        let silence = Some(Silence { missing: PREFACE, bound: Box::pin(sleep(within)) });
        Self { stream, cut: Box::pin(cut.clone().cancelled_owned()), silence, _place: place }
    }

    /// Counts what was heard.
    fn heard(&mut self, bytes: usize) {
        self.silence = self.silence.take().and_then(|silence| {
            let missing = silence.missing.saturating_sub(bytes);
            (missing > 0).then_some(Silence { missing, ..silence })
        });
    }
}

impl AsyncRead for Connection {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<Result<()>> {
        if self.cut.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Err(ErrorKind::ConnectionAborted.into()));
        }
        if self.silence.as_mut().is_some_and(|silence| silence.bound.as_mut().poll(cx).is_ready()) {
            return Poll::Ready(Err(ErrorKind::TimedOut.into()));
        }
        let before = buffer.filled().len();
        let read = ready!(Pin::new(&mut self.stream).poll_read(cx, buffer));
        self.heard(buffer.filled().len() - before);
        Poll::Ready(read)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(mut self: Pin<&mut Self>, cx: &mut Context<'_>, slices: &[IoSlice<'_>]) -> Poll<Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

impl Connected for Connection {
    type ConnectInfo = TcpConnectInfo;

    fn connect_info(&self) -> TcpConnectInfo {
        match &self.stream {
            Either::Left(plain) => plain.connect_info(),
            Either::Right(secured) => secured.get_ref().0.connect_info(),
        }
    }
}
