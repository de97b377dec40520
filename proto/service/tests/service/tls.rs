//! Mutual TLS: who is let in, whom is called, and what happens when the files are replaced.

use std::{fs, io, path::Path, sync::Arc, time::Duration};

use parking_lot::Mutex;
use rustls::pki_types::CertificateDer;
use tempfile::{TempDir, tempdir};
use tessera_service::{Acceptor, CertFiles, Phase, Tls, TlsFiles, bind, peer, serve_status};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;
use tonic::{Code, Status, transport::Channel};
use tonic_health::pb::{HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient};

use crate::{
    pki::{Authority, Issued},
    support::{Process, loopback, soon},
};

const LOCAL: &str = "127.0.0.1";

/// A server with files of its own.
struct Server {
    process: Process,
    files: TlsFiles,
    _folder: TempDir,
}

impl Server {
    async fn start(authority: &Authority, issued: &Issued) -> Self {
        let folder = tempdir().unwrap();
        let files = authority.files(folder.path(), issued);
        let tls = Tls::read(files.clone()).unwrap();
        let bound = loopback().await.secured(Some(tls.acceptor()));
        let process = Process::start_on(bound, Duration::from_secs(3600), Duration::ZERO).await;
        Self { process, files, _folder: folder }
    }

    fn uri(&self) -> String {
        format!("https://{}", self.process.address)
    }

    /// The certificate that a new connection is shown, by a client that has none: all it learns is that.
    async fn shown(&self, authority: &Authority) -> CertificateDer<'static> {
        let stream = soon(authority.visit(self.process.address)).await.unwrap();
        stream.get_ref().1.peer_certificates().unwrap()[0].clone()
    }
}

fn client(folder: &Path, trusts: &Authority, issued: &Issued) -> Tls {
    Tls::read(trusts.files(folder, issued)).unwrap()
}

/// Whether a call is answered.
async fn check(channel: Channel) -> Result<(), Status> {
    soon(HealthClient::new(channel).check(HealthCheckRequest::default())).await.map(drop)
}

#[tokio::test]
async fn roles_of_one_authority_answer_each_other() {
    let (ca, folder) = (Authority::new("ours"), tempdir().unwrap());
    let server = Server::start(&ca, &ca.issue(LOCAL)).await;
    let tls = client(folder.path(), &ca, &ca.issue("router"));
    check(peer(&server.uri(), Some(&tls)).unwrap()).await.unwrap();
    let without_scheme = server.process.address.to_string();
    check(peer(&without_scheme, Some(&tls)).unwrap()).await.unwrap();
}

#[tokio::test]
async fn a_client_without_a_certificate_is_refused() {
    let ca = Authority::new("ours");
    let server = Server::start(&ca, &ca.issue(LOCAL)).await;
    let mut stream = soon(ca.visit(server.process.address)).await.unwrap();
    let refusal = soon(stream.read_u8()).await.unwrap_err();
    assert!(refusal.to_string().contains("CertificateRequired"), "{refusal}");
    let plain = peer(&server.process.address.to_string(), None).unwrap();
    check(plain).await.unwrap_err();
}

#[tokio::test]
async fn a_client_of_another_authority_is_refused() {
    let (ours, theirs, folder) = (Authority::new("ours"), Authority::new("theirs"), tempdir().unwrap());
    let server = Server::start(&ours, &ours.issue(LOCAL)).await;
    // It trusts the server; only its own certificate is wrong.
    let stranger = client(folder.path(), &ours, &theirs.issue("router"));
    check(peer(&server.uri(), Some(&stranger)).unwrap()).await.unwrap_err();
}

#[tokio::test]
async fn a_server_is_called_only_when_the_authority_signed_it_for_that_address() {
    let (ours, theirs, folder) = (Authority::new("ours"), Authority::new("theirs"), tempdir().unwrap());
    let tls = client(folder.path(), &ours, &ours.issue("router"));
    for issued in [theirs.issue(LOCAL), ours.issue("127.0.0.2"), ours.issue("elsewhere.example")] {
        let server = Server::start(&ours, &issued).await;
        let error = check(peer(&server.uri(), Some(&tls)).unwrap()).await.unwrap_err();
        assert_eq!(error.code(), Code::Unavailable, "{error}");
    }
}

#[tokio::test]
async fn plain_and_secured_are_never_mistaken_for_each_other() {
    let (ca, folder) = (Authority::new("ours"), tempdir().unwrap());
    let tls = client(folder.path(), &ca, &ca.issue("router"));
    for (address, tls) in [("http://127.0.0.1:1", Some(&tls)), ("https://127.0.0.1:1", None), ("ftp://127.0.0.1:1", None)] {
        let error = peer(address, tls).unwrap_err();
        assert!(error.to_string().contains(address), "{error}");
    }
}

#[tokio::test]
async fn who_says_nothing_holds_up_nobody() {
    let (ca, folder) = (Authority::new("ours"), tempdir().unwrap());
    let server = Server::start(&ca, &ca.issue(LOCAL)).await;
    let mut silent = Vec::new();
    for _ in 0..32 {
        silent.push(TcpStream::connect(server.process.address).await.unwrap());
    }
    let tls = client(folder.path(), &ca, &ca.issue("router"));
    check(peer(&server.uri(), Some(&tls)).unwrap()).await.unwrap();
}

#[tokio::test]
async fn new_connections_see_new_certificates_and_old_streams_live_on() {
    let (ca, folder) = (Authority::new("ours"), tempdir().unwrap());
    let (first, second) = (ca.issue(LOCAL), ca.issue(LOCAL));
    let server = Server::start(&ca, &first).await;
    let tls = client(folder.path(), &ca, &ca.issue("router"));
    let mut health = HealthClient::new(peer(&server.uri(), Some(&tls)).unwrap());
    let mut watch = soon(health.watch(HealthCheckRequest::default())).await.unwrap().into_inner();
    assert_eq!(soon(watch.message()).await.unwrap().unwrap().status(), ServingStatus::NotServing);
    assert_eq!(server.shown(&ca).await, first.der);

    second.replace(&server.files);
    soon(async { while server.shown(&ca).await != second.der {} }).await;

    server.process.health.enter(Phase::Serving);
    assert_eq!(soon(watch.message()).await.unwrap().unwrap().status(), ServingStatus::Serving);
    check(peer(&server.uri(), Some(&tls)).unwrap()).await.unwrap();
}

#[tokio::test]
async fn a_client_shows_its_new_certificate_too() {
    let (ours, theirs, folder) = (Authority::new("ours"), Authority::new("theirs"), tempdir().unwrap());
    let server = Server::start(&ours, &ours.issue(LOCAL)).await;
    let files = ours.files(folder.path(), &theirs.issue("router"));
    let tls = Tls::read(files.clone()).unwrap();
    check(peer(&server.uri(), Some(&tls)).unwrap()).await.unwrap_err();
    ours.issue("router").replace(&files);
    soon(async { while check(peer(&server.uri(), Some(&tls)).unwrap()).await.is_err() {} }).await;
}

/// What is logged on this thread.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().extend(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Log {
    fn says(&self, text: &str) -> bool {
        String::from_utf8_lossy(&self.0.lock()).contains(text)
    }
}

#[tokio::test]
async fn a_broken_file_is_named_and_changes_nothing_until_it_is_mended() {
    let log = Log::default();
    let lines = tracing_subscriber::fmt().with_ansi(false).with_writer({
        let log = log.clone();
        move || log.clone()
    });
    let _guard = tracing::subscriber::set_default(lines.finish());
    let ca = Authority::new("ours");
    let (first, second) = (ca.issue(LOCAL), ca.issue(LOCAL));
    let server = Server::start(&ca, &first).await;

    // A key that is not the certificate's is as broken as none.
    for broken in ["", "no certificate at all", &second.cert] {
        fs::write(&server.files.cert, broken).unwrap();
        let name = if broken == second.cert { &server.files.key } else { &server.files.cert };
        let warned = || log.says("WARN") && log.says(name.to_str().unwrap());
        soon(async {
            while !warned() {
                assert_eq!(server.shown(&ca).await, first.der)
            }
        })
        .await;
        assert_eq!(server.shown(&ca).await, first.der);
    }
    second.replace(&server.files);
    soon(async { while server.shown(&ca).await != second.der {} }).await;
}

#[tokio::test]
async fn files_that_cannot_be_used_at_start_are_named() {
    let (ca, folder) = (Authority::new("ours"), tempdir().unwrap());
    let (good, other) = (ca.issue(LOCAL), ca.issue(LOCAL));
    let files = ca.files(folder.path(), &good);
    let broken = |file: &Path, content: Option<&str>| {
        good.replace(&files);
        match content {
            Some(content) => fs::write(file, content).unwrap(),
            None => fs::remove_file(file).unwrap(),
        }
        let error = Tls::read(files.clone()).unwrap_err().to_string();
        assert!(error.contains(file.to_str().unwrap()), "{error}");
    };
    broken(&files.key, None);
    broken(&files.key, Some("no key"));
    broken(&files.key, Some(&other.key));
    broken(&files.cert, Some(&good.key));
    broken(&files.ca, Some(""));
    broken(&files.ca, None);
}

#[tokio::test]
async fn a_front_door_shows_its_certificate_and_asks_for_none() {
    let (ca, folder) = (Authority::new("public"), tempdir().unwrap());
    let (first, second) = (ca.issue(LOCAL), ca.issue(LOCAL));
    let files = ca.files(folder.path(), &first);
    let front = Acceptor::front(CertFiles { cert: files.cert.clone(), key: files.key.clone() }).unwrap();
    let bound = bind(([127, 0, 0, 1], 0).into()).await.unwrap().secured(Some(front));
    let (address, stop) = (bound.address, CancellationToken::new());
    assert_eq!(bound.uri(None), format!("https://{address}"));
    let served = tokio::spawn(serve_status(bound, || None, stop.clone()));
    let ask = async || {
        let mut stream = ca.visit(address).await.unwrap();
        stream.write_all(b"GET /healthz HTTP/1.1\r\nHost: here\r\nConnection: close\r\n\r\n").await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        (stream.get_ref().1.peer_certificates().unwrap()[0].clone(), answer)
    };
    let (shown, answer) = soon(ask()).await;
    assert_eq!(shown, first.der);
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n") && answer.ends_with("alive\n"), "{answer}");
    second.replace(&files);
    soon(async { while ask().await.0 != second.der {} }).await;
    stop.cancel();
    soon(served).await.unwrap();
}
