//! A router, a coordinator and two shard workers, and a golden request for them.

use anyhow::{Context, Result};
use tessera_proto::v1::{self, generate_response::Event, inference_client::InferenceClient};
use tessera_tests::{GoldenCase, Role, fixtures, golden_cases};
use tonic::{Request, transport::Channel};

pub(crate) struct Replica {
    pub(crate) workers: Vec<Role>,
    pub(crate) coordinator: Role,
    pub(crate) router: Role,
}

impl Replica {
    /// Starts all of it; `flags` are each role's own besides the usual ones.
    pub(crate) async fn start(flags: impl Fn(&str) -> Result<Vec<String>>, environment: &[(&str, String)]) -> Result<Self> {
        let model = fixtures().join("tiny-random/mistral").display().to_string();
        let role = async |name: &str, command: &str| {
            let mut arguments: Vec<_> = command.split(' ').map(str::to_owned).collect();
            arguments.extend(flags(name)?);
            Role::start(&arguments, environment).await
        };
        let worker = "shard-worker --listen 127.0.0.1:0 --status 127.0.0.1:0 --threads 1 --kv-memory 64MiB";
        let workers = vec![role("worker-0", worker).await?, role("worker-1", worker).await?];
        let [first, second] = [workers[0].address("listen")?, workers[1].address("listen")?];
        let coordinator = format!(
            "coordinator --model {model} --tp 2 --dtype f32 --worker {first} --worker {second} \
             --listen 127.0.0.1:0 --status 127.0.0.1:0"
        );
        let coordinator = role("coordinator", &coordinator).await?;
        let replica = coordinator.address("listen")?;
        let router = format!("router --model {model} --replica {replica} --grpc 127.0.0.1:0 --http 127.0.0.1:0");
        let router = role("router", &router).await?;
        Ok(Self { workers, coordinator, router })
    }

    /// Ends every role, and wants it to end well.
    pub(crate) async fn stop(self) -> Result<()> {
        for role in [self.router, self.coordinator].into_iter().chain(self.workers) {
            assert_eq!(role.stop().await?, Some(0));
        }
        Ok(())
    }
}

/// The shortest golden case.
pub(crate) fn golden() -> Result<GoldenCase> {
    golden_cases()?.into_iter().min_by_key(|case| case.ids.len()).context("there are no golden cases")
}

/// What the cluster answers to a golden case.
pub(crate) async fn answer(channel: Channel, case: &GoldenCase, traceparent: Option<&str>) -> Result<Vec<u32>> {
    let sampling = v1::Sampling {
        temperature: Some(0.0),
        max_new_tokens: Some(case.greedy.len() as u32),
        ignore_eos: Some(true),
        ..Default::default()
    };
    let mut request = Request::new(v1::GenerateRequest {
        input: Some(v1::generate_request::Input::Tokens(v1::TokenInput { ids: case.ids.clone(), images: Vec::new() })),
        sampling: Some(sampling),
        return_token_ids: true,
        ..Default::default()
    });
    if let Some(traceparent) = traceparent {
        request.metadata_mut().insert("traceparent", traceparent.parse()?);
    }
    let mut stream = InferenceClient::new(channel).generate(request).await?.into_inner();
    let mut generated = Vec::new();
    while let Some(response) = stream.message().await? {
        if let Some(Event::Delta(delta)) = response.event {
            generated.extend(delta.token_ids);
        }
    }
    Ok(generated)
}
