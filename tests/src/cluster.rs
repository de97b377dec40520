//! A cluster under test: `tessera up` as a process, stopped when dropped.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use tessera_proto::v1::inference_client::InferenceClient;
use tonic::transport::Channel;

use crate::Role;

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
    environment: Vec<(&'static str, String)>,
}

impl Up {
    /// A cluster of the model in `folder`, in f32, on free ports.
    pub fn new(folder: impl AsRef<Path>) -> Self {
        let model = folder.as_ref().display().to_string();
        let fixed = ["up", "--grpc", "127.0.0.1:0", "--http", "127.0.0.1:0", "--dtype", "f32", "--kv-memory", "64MiB", "--model"];
        let mut arguments: Vec<String> = fixed.map(str::to_owned).into();
        arguments.push(model);
        Self { arguments, environment: Vec::new() }.with("--threads", 1)
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

    /// On GPUs, which stand-ins on the CPU are; in bf16, the only numbers they know.
    pub fn on_gpus(mut self) -> Self {
        self.environment.extend(tessera_test_gpu::environment(4));
        self.with("--device", "cuda").with("--dtype", "bf16")
    }

    /// Adds a variable to its environment.
    pub fn seeing(mut self, variable: &'static str, value: &str) -> Self {
        self.environment.push((variable, value.to_owned()));
        self
    }

    /// Starts it and waits until it is ready.
    pub async fn start(self) -> Result<Cluster> {
        Cluster::start(&self.arguments, &self.environment).await
    }
}

/// A running cluster.
#[derive(Debug)]
pub struct Cluster {
    process: Role,
    /// `http://HOST:PORT` of the gRPC API.
    pub grpc: String,
    /// `http://HOST:PORT` of the HTTP API.
    pub http: String,
}

impl Cluster {
    async fn start(arguments: &[String], environment: &[(&str, String)]) -> Result<Self> {
        let process = Role::start(arguments, environment).await?;
        Ok(Self { grpc: process.address("grpc")?, http: process.address("http")?, process })
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
    pub async fn stop(self) -> Result<Option<i32>> {
        self.process.stop().await
    }
}
