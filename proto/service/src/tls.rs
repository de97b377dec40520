//! TLS from files that may be replaced while the process runs: a connection made is left alone, each new one is made with
//! what the files hold then.

mod accept;
mod files;
mod rotating;

use std::{io, sync::Arc};

use rustls::{
    ClientConfig, ServerConfig,
    crypto::{CryptoProvider, ring},
    pki_types::ServerName,
    server::WebPkiClientVerifier,
    version::TLS13,
};
use tokio::net::TcpStream;
use tokio_rustls::{TlsConnector, client::TlsStream};
use tracing::warn;

pub use accept::Acceptor;
pub(crate) use accept::{Accepted, accept};
pub use files::{CertFiles, TlsError, TlsFiles};

use files::Source;
use rotating::{Files, Rotating};

use crate::seldom::Seldom;

/// What gRPC is called in a handshake.
const GRPC: &[u8] = b"h2";
/// The one that browsers and scripts may ask for instead.
const HTTP: &[u8] = b"http/1.1";

/// Mutual TLS between the roles: either side shows a certificate that the one CA signed. Clones share what was read.
#[derive(Clone)]
pub struct Tls {
    sides: Arc<Rotating<TlsFiles>>,
    complaints: Arc<Seldom>,
}

/// What either end of a connection needs.
#[derive(Clone)]
struct Sides {
    server: Arc<ServerConfig>,
    client: Arc<ClientConfig>,
}

impl Tls {
    /// Reads the files for the first time.
    ///
    /// # Errors
    /// When one cannot be read, or does not hold what it should.
    pub fn read(files: TlsFiles) -> Result<Self, TlsError> {
        Ok(Self { sides: Arc::new(Rotating::read(files)?), complaints: Arc::default() })
    }

    /// The side that is called: it refuses who shows no certificate of the CA.
    pub fn acceptor(&self) -> Acceptor {
        let sides = self.sides.clone();
        Acceptor::new(move || sides.current().server)
    }

    /// Connects to a host whose certificate must bear that name, or that address.
    pub(crate) async fn connect(&self, host: &str, port: u16) -> io::Result<TlsStream<TcpStream>> {
        let name = ServerName::try_from(host.to_owned()).map_err(io::Error::other)?;
        let stream = TcpStream::connect((host, port)).await?;
        stream.set_nodelay(true)?;
        let connected = TlsConnector::from(self.sides.current().client).connect(name, stream).await;
        connected.inspect_err(|error| {
            if self.complaints.may_speak() {
                warn!(%error, "no TLS connection to {host}:{port}");
            }
        })
    }
}

impl std::fmt::Debug for Tls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Tls")
    }
}

impl Files for TlsFiles {
    type Content = [Source; 3];
    type Made = Sides;

    fn read(&self) -> Result<[Source; 3], TlsError> {
        Ok([Source::read(&self.ca)?, Source::read(&self.cert)?, Source::read(&self.key)?])
    }

    fn make([ca, cert, key]: &[Source; 3]) -> Result<Sides, TlsError> {
        let roots = Arc::new(ca.roots()?);
        let verifier = WebPkiClientVerifier::builder_with_provider(roots.clone(), provider()).build();
        let verifier = verifier.map_err(|error| ca.wrong(error))?;
        // Both ends are Tessera's, so there is no older version to allow for.
        let server = ServerConfig::builder_with_provider(provider()).with_protocol_versions(&[&TLS13]);
        let server = server.map_err(|error| cert.wrong(error))?.with_client_cert_verifier(verifier);
        let mut server = server.with_single_cert(cert.certificates()?, key.key()?).map_err(|error| key.wrong(error))?;
        let client = ClientConfig::builder_with_provider(provider()).with_protocol_versions(&[&TLS13]);
        let client = client.map_err(|error| cert.wrong(error))?.with_root_certificates(roots);
        let mut client = client.with_client_auth_cert(cert.certificates()?, key.key()?).map_err(|error| key.wrong(error))?;
        server.alpn_protocols = vec![GRPC.into()];
        client.alpn_protocols = vec![GRPC.into()];
        Ok(Sides { server: Arc::new(server), client: Arc::new(client) })
    }
}

/// The front door's side: anyone may call.
impl Files for CertFiles {
    type Content = [Source; 2];
    type Made = Arc<ServerConfig>;

    fn read(&self) -> Result<[Source; 2], TlsError> {
        Ok([Source::read(&self.cert)?, Source::read(&self.key)?])
    }

    fn make([cert, key]: &[Source; 2]) -> Result<Arc<ServerConfig>, TlsError> {
        let config = ServerConfig::builder_with_provider(provider()).with_safe_default_protocol_versions();
        let config = config.map_err(|error| cert.wrong(error))?.with_no_client_auth();
        let mut config = config.with_single_cert(cert.certificates()?, key.key()?).map_err(|error| key.wrong(error))?;
        config.alpn_protocols = vec![GRPC.into(), HTTP.into()];
        Ok(Arc::new(config))
    }
}

/// Named here rather than found in the process: nobody else's choice must matter.
fn provider() -> Arc<CryptoProvider> {
    Arc::new(ring::default_provider())
}
