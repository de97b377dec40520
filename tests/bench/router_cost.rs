//! What the router itself costs: its processor time for each streamed token, as a process of its own.

use std::{process::Stdio, time::Duration};

use anyhow::{Context, Result};
use futures::future::try_join_all;
use tessera_proto::v1::{self, inference_client::InferenceClient};
use tessera_tests::{binary, fixtures};
use tokio::{
    net::TcpListener,
    process::{Child, Command},
    time::{Instant, sleep},
};
use tonic::transport::Channel;

use crate::process::cpu_time;

/// Streams and tokens of each.
const STREAMS: usize = 16;
const TOKENS: u32 = 400;

pub(crate) async fn report() -> Result<()> {
    let model = fixtures().join("tiny-random/mistral").display().to_string();
    let (worker, coordinator, grpc) = (free_address().await?, free_address().await?, free_address().await?);
    let _worker = start(&["shard-worker", "--listen", &worker, "--kv-memory", "64MiB", "--threads", "1"])?;
    let _coordinator = start(&["coordinator", "--model", &model, "--listen", &coordinator, "--worker", &worker])?;
    let router = start(&["router", "--model", &model, "--grpc", &grpc, "--http", "127.0.0.1:0", "--replica", &coordinator])?;
    let id = router.id().context("the router ended")?;
    let client = connect(&grpc).await?;
    stream(client.clone()).await?;
    let before = cpu_time(id)?;
    let start = Instant::now();
    let tokens: u32 = try_join_all((0..STREAMS).map(|_| stream(client.clone()))).await?.iter().sum();
    let used = cpu_time(id)? - before;
    let each = used.as_secs_f64() * 1e6 / f64::from(tokens);
    let rate = f64::from(tokens) / start.elapsed().as_secs_f64();
    println!("| router, processor time a streamed token | {each:.1} µs | {rate:.0} tok/s over {STREAMS} streams | | |");
    Ok(())
}

async fn free_address() -> Result<String> {
    Ok(TcpListener::bind("127.0.0.1:0").await?.local_addr()?.to_string())
}

fn start(arguments: &[&str]) -> Result<Child> {
    let mut command = Command::new(binary()?);
    command.args(arguments).stdout(Stdio::null()).kill_on_drop(true);
    command.spawn().with_context(|| format!("cannot start tessera {}", arguments[0]))
}

async fn connect(address: &str) -> Result<InferenceClient<Channel>> {
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        if let Ok(client) = InferenceClient::connect(format!("http://{address}")).await
            && stream(client.clone()).await.is_ok()
        {
            return Ok(client);
        }
        anyhow::ensure!(Instant::now() < deadline, "the router at {address} does not serve");
        sleep(Duration::from_millis(100)).await;
    }
}

/// Tokens of one streamed request.
async fn stream(mut client: InferenceClient<Channel>) -> Result<u32> {
    let request = v1::GenerateRequest {
        input: Some(v1::generate_request::Input::Text("Once".into())),
        sampling: Some(v1::Sampling { max_new_tokens: Some(TOKENS), ignore_eos: Some(true), ..Default::default() }),
        ..Default::default()
    };
    let mut stream = client.generate(request).await?.into_inner();
    let mut usage = None;
    while let Some(response) = stream.message().await? {
        if let Some(v1::generate_response::Event::Usage(last)) = response.event {
            usage = Some(last.generated_tokens);
        }
    }
    usage.context("no usage")
}
