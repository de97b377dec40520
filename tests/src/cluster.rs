//! A cluster under test: `tessera up` as a process, stopped when dropped.

use std::{
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use anyhow::{Context, Result, bail};
use tessera_proto::v1::inference_client::InferenceClient;
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::{Child, Command},
    time::timeout,
};
use tonic::transport::Channel;

/// The binary under test, beside the test's own executable.
pub fn binary() -> Result<PathBuf> {
    let test = std::env::current_exe()?;
    let profile = test.ancestors().find(|folder| folder.join("deps").is_dir()).context("not run by cargo")?;
    let binary = profile.join("tessera");
    if !binary.exists() {
        bail!("{} is not built; run `cargo build --release` first", binary.display());
    }
    Ok(binary)
}

/// What to bring up.
#[derive(Clone, Debug)]
pub struct Up {
    arguments: Vec<String>,
}

impl Up {
    /// A cluster of the model in `folder`, in f32, on free ports.
    pub fn new(folder: impl AsRef<Path>) -> Self {
        let model = folder.as_ref().display().to_string();
        let fixed = ["up", "--grpc", "127.0.0.1:0", "--http", "127.0.0.1:0", "--dtype", "f32", "--kv-memory", "64MiB", "--model"];
        let mut arguments: Vec<String> = fixed.map(str::to_owned).into();
        arguments.push(model);
        Self { arguments }.with("--threads", 1)
    }

    /// Adds a flag, in place of an earlier value of it.
    pub fn with(mut self, flag: &str, value: impl ToString) -> Self {
        if let Some(at) = self.arguments.iter().position(|argument| argument == flag) {
            self.arguments.drain(at..at + 2);
        }
        self.arguments.extend([flag.to_owned(), value.to_string()]);
        self
    }

    /// Adds a flag without a value.
    pub fn flag(mut self, flag: &str) -> Self {
        self.arguments.push(flag.to_owned());
        self
    }

    /// Starts it and waits until it is ready.
    pub async fn start(self) -> Result<Cluster> {
        Cluster::start(self.arguments).await
    }
}

/// A running cluster.
#[derive(Debug)]
pub struct Cluster {
    process: Child,
    /// `http://HOST:PORT` of the gRPC API.
    pub grpc: String,
    /// `http://HOST:PORT` of the HTTP API.
    pub http: String,
}

impl Cluster {
    async fn start(arguments: Vec<String>) -> Result<Self> {
        let mut process = Command::new(binary()?)
            .args(&arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .context("cannot start tessera")?;
        let stdout = process.stdout.take().context("no standard output")?;
        let mut lines = BufReader::new(stdout).lines();
        let ready = async {
            while let Some(line) = lines.next_line().await? {
                if line.starts_with("ready ") {
                    return Ok(line);
                }
            }
            bail!("`tessera {}` ended before it was ready", arguments.join(" "))
        };
        let line = timeout(Duration::from_secs(60), ready).await.context("not ready within a minute")??;
        let address = |name: &str| {
            let found = line.split_whitespace().find_map(|word| word.strip_prefix(name)?.strip_prefix('='));
            found.map(str::to_owned).with_context(|| format!("no {name} address in `{line}`"))
        };
        Ok(Self { grpc: address("grpc")?, http: address("http")?, process })
    }

    /// A client of the gRPC API.
    pub async fn client(&self) -> Result<InferenceClient<Channel>> {
        let client = InferenceClient::connect(self.grpc.clone()).await?;
        Ok(client.max_decoding_message_size(tessera_proto::MAX_MESSAGE_BYTES))
    }

    /// The process id, to send signals to.
    pub fn id(&self) -> Option<u32> {
        self.process.id()
    }

    /// Sends SIGTERM and waits; the exit code says whether it stopped cleanly.
    pub async fn stop(mut self) -> Result<Option<i32>> {
        let id = self.process.id().context("it has ended already")?;
        let sent = Command::new("kill").args(["-TERM", &id.to_string()]).status().await?;
        if !sent.success() {
            bail!("cannot signal process {id}");
        }
        let status = timeout(Duration::from_secs(5), self.process.wait()).await.context("it did not stop within 5 s")??;
        Ok(status.code())
    }
}
