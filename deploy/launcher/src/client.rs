//! A thin client of the public gRPC API, for chat, bench and demo.

use std::{
    fs,
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow, ensure};
use tessera_proto::v1::{self, generate_response::Event, inference_client::InferenceClient};
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint};

/// How a certificate begins.
const PEM: &[u8] = b"-----BEGIN CERTIFICATE-----";

pub(crate) type Client = InferenceClient<Channel>;

/// A client of the router at `endpoint`; a scheme may be left out. Where it has TLS, its certificate is to be signed by
/// `ca`, or by somebody whom this machine trusts.
pub(crate) async fn connect(endpoint: &str, ca: Option<&Path>) -> Result<Client> {
    let usual = if ca.is_some() { "https" } else { "http" };
    let uri = if endpoint.contains("://") { endpoint.to_owned() } else { format!("{usual}://{endpoint}") };
    let mut router = Endpoint::from_shared(uri.clone())
        .with_context(|| format!("`{uri}` is not an address"))?
        .connect_timeout(Duration::from_secs(5))
        .tcp_nodelay(true);
    if uri.starts_with("https://") {
        router = router.tls_config(tls(ca)?).with_context(|| format!("no TLS to {uri}"))?;
    } else {
        ensure!(ca.is_none(), "--ca is given, and {uri} is a plain address");
    }
    let channel = router.connect().await.with_context(|| format!("no router answers at {uri}"))?;
    Ok(InferenceClient::new(channel).max_decoding_message_size(tessera_proto::MAX_MESSAGE_BYTES))
}

fn tls(ca: Option<&Path>) -> Result<ClientTlsConfig> {
    let Some(file) = ca else { return Ok(ClientTlsConfig::new().with_native_roots()) };
    let pem = fs::read(file).with_context(|| format!("cannot read the certificates in {}", file.display()))?;
    let found = pem.windows(PEM.len()).any(|bytes| bytes == PEM);
    ensure!(found, "{} holds no certificate in PEM", file.display());
    Ok(ClientTlsConfig::new().ca_certificate(Certificate::from_pem(pem)))
}

/// A text part.
pub(crate) fn text(text: impl Into<String>) -> v1::Part {
    v1::Part { part: Some(v1::part::Part::Text(text.into())) }
}

/// An image part of an encoded file.
pub(crate) fn image(data: impl Into<bytes::Bytes>) -> v1::Part {
    let source = Some(v1::image::Source::Data(data.into()));
    v1::Part { part: Some(v1::part::Part::Image(v1::Image { source, mime: String::new() })) }
}

/// One turn of a conversation.
pub(crate) fn message(role: &str, parts: Vec<v1::Part>) -> v1::Message {
    v1::Message { role: role.into(), parts }
}

/// What came of one streamed request.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    pub(crate) text: String,
    pub(crate) usage: v1::Usage,
    /// From sending to the first token.
    pub(crate) first_token: Option<Duration>,
    /// Between consecutive deltas.
    pub(crate) gaps: Vec<Duration>,
    pub(crate) total: Duration,
}

/// Runs a request, handing every piece of text to `on_text` as it comes.
pub(crate) async fn run(client: &mut Client, request: v1::GenerateRequest, mut on_text: impl FnMut(&str)) -> Result<Outcome> {
    let start = Instant::now();
    let mut outcome = Outcome::default();
    let mut last = start;
    let mut complete = false;
    let mut stream = client.generate(request).await.map_err(readable)?.into_inner();
    while let Some(response) = stream.message().await.map_err(readable)? {
        match response.event {
            Some(Event::Delta(delta)) => {
                let now = Instant::now();
                match outcome.first_token {
                    None => outcome.first_token = Some(now - start),
                    Some(_) => outcome.gaps.push(now - last),
                }
                last = now;
                on_text(&delta.text);
                outcome.text.push_str(&delta.text);
            }
            Some(Event::Usage(usage)) => {
                outcome.usage = usage;
                complete = true;
            }
            Some(Event::Accepted(_) | Event::Finished(_) | Event::Resumed(_)) | None => {}
        }
    }
    outcome.total = start.elapsed();
    if complete { Ok(outcome) } else { Err(anyhow!("the stream ended before its usage")) }
}

/// A status as a sentence: what the server said, and the code.
fn readable(status: tonic::Status) -> anyhow::Error {
    anyhow!("{} ({:?})", status.message(), status.code())
}
