//! The side that is called.

use std::{
    io::{Error, ErrorKind, Result},
    sync::Arc,
    time::Duration,
};

use rustls::ServerConfig;
use tokio::{net::TcpStream, time::timeout};
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use tokio_util::either::Either;
use tracing::warn;

use super::{CertFiles, TlsError, rotating::Rotating};
use crate::seldom::Seldom;

/// Who has not shown by then who it is, is cut off.
const HANDSHAKE: Duration = Duration::from_secs(10);

/// A connection from a client, plain or secured.
pub(crate) type Accepted = Either<TcpStream, TlsStream<TcpStream>>;

/// Secures connections from clients. Clones share what was read.
#[derive(Clone)]
pub struct Acceptor {
    config: Arc<dyn Fn() -> Arc<ServerConfig> + Send + Sync>,
    complaints: Arc<Seldom>,
}

impl Acceptor {
    pub(super) fn new(config: impl Fn() -> Arc<ServerConfig> + Send + Sync + 'static) -> Self {
        Self { config: Arc::new(config), complaints: Arc::default() }
    }

    /// A front door's: it shows its certificate and asks for none.
    ///
    /// # Errors
    /// When a file cannot be read, or does not hold what it should.
    pub fn front(files: CertFiles) -> std::result::Result<Self, TlsError> {
        let config = Rotating::read(files)?;
        Ok(Self::new(move || config.current()))
    }

    async fn secure(&self, stream: TcpStream) -> Result<TlsStream<TcpStream>> {
        let handshake = TlsAcceptor::from((self.config)()).accept(stream);
        timeout(HANDSHAKE, handshake).await.unwrap_or_else(|_| Err(Error::new(ErrorKind::TimedOut, "no handshake in time")))
    }
}

/// Readies a connection that was just taken; where there is an acceptor, it is secured. Bounded in time.
pub(crate) async fn accept(acceptor: Option<&Acceptor>, stream: TcpStream) -> Result<Accepted> {
    stream.set_nodelay(true)?;
    let Some(acceptor) = acceptor else { return Ok(Either::Left(stream)) };
    let client = stream.peer_addr();
    let secured = acceptor.secure(stream).await.inspect_err(|error| {
        if acceptor.complaints.may_speak() {
            let client = client.map_or_else(|_| "a client".to_owned(), |client| client.to_string());
            warn!(%error, "no TLS connection from {client}");
        }
    });
    secured.map(Either::Right)
}

impl std::fmt::Debug for Acceptor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Acceptor")
    }
}
