//! What a coordinator is told when it starts, resolved.

use std::{net::SocketAddr, time::Duration};

use tessera_engine::EngineConfig;
use tessera_proto::internal::Loaded;
use tessera_service::TlsFiles;
use tessera_types::{ModelSpec, VisionParallel};

/// A coordinator's configuration.
#[derive(Clone, Debug)]
pub struct Config {
    /// Unique among replicas.
    pub replica: String,
    /// Where routers call; port 0 picks one.
    pub listen: SocketAddr,
    /// The address routers are told, `HOST:PORT` or a URI; the one listened on when `None`.
    pub advertise: Option<String>,
    /// The name clients use.
    pub model: String,
    /// What the workers load.
    pub source: ModelSource,
    /// What weights and cache are kept in where nothing else is said: `f32` or `bf16`.
    pub dtype: String,
    /// How ranks share the encoding of images.
    pub vision_parallel: VisionParallel,
    /// What weights that may be quantised are kept in instead: `fp8`, or empty.
    pub quantization: String,
    /// What keys and values are kept in instead: `fp8`, or empty.
    pub kv_cache_dtype: String,
    /// Ranks: 1, 2, 4 or 8.
    pub tp: u16,
    /// Whether a group may be formed of fewer ranks where there are not enough, and grows when there are again.
    pub elastic: bool,
    /// Longest sequence; the model's own limit when `None`.
    pub max_context: Option<u32>,
    /// Blocks in each rank's cache; as many as its memory holds when `None`.
    pub kv_blocks: Option<u32>,
    /// Sequences in a step at most.
    pub max_sequences: usize,
    /// Tokens in a step at most, and no more than have room on the workers' devices; as many as suit those when `None`.
    pub step_tokens: Option<usize>,
    /// Image patches encoded in a step at most; one larger image goes alone.
    pub step_patches: usize,
    /// Encoder outputs kept on each rank, in feature rows.
    pub encoder_tokens: usize,
    /// Sequences that may wait.
    pub queue: usize,
    /// What joins the ranks.
    pub transport: Transport,
    /// Mutual TLS with routers and workers; plain connections when `None`.
    pub tls: Option<TlsFiles>,
    /// Bounds of every wait.
    pub timeouts: Timeouts,
}

/// What the workers load.
#[derive(Clone, Debug, PartialEq)]
pub enum ModelSource {
    /// A checkpoint folder as the workers see it.
    Folder(String),
    /// A shape with made-up weights.
    Dummy {
        /// The shape.
        spec: Box<ModelSpec>,
        /// What the weights are made from.
        seed: u64,
    },
}

/// What joins the ranks of CPUs; GPUs are always joined by NCCL.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Transport {
    /// Shared memory where all ranks are on one host, TCP otherwise.
    #[default]
    Auto,
    /// Shared memory.
    Shm,
    /// TCP. A rank listens on its worker's host, on the worker's port plus [`Config::TCP_PORT_OFFSET`].
    Tcp,
}

/// Bounds of every wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// Between two questions to a rank how it is.
    pub pulse: Duration,
    /// A rank that does not answer within this is lost: it was stopped, or cut off.
    pub silence: Duration,
    /// A step that no rank gets on with for so long is lost, however well the ranks answer.
    pub stall: Duration,
    /// One collective operation; longer than `stall`, which finds out who is behind.
    pub collective: Duration,
    /// Loading, without any rank getting on.
    pub load_stall: Duration,
    /// One short call to a worker or the registry.
    pub call: Duration,
    /// How soon others may claim what this coordinator held, once it is dead.
    pub lease: Duration,
    /// Requests wait this long for a new group, then their routers are told to look elsewhere.
    pub recovery: Duration,
    /// Between the first attempts to form a group; it doubles up to `retry_most`.
    pub retry: Duration,
    /// See `retry`.
    pub retry_most: Duration,
    /// Running requests may end within this when the coordinator stops.
    pub drain: Duration,
    /// With work waiting and no step done for so long, health says not serving.
    pub progress: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            pulse: Duration::from_millis(500),
            silence: Duration::from_secs(2),
            stall: Duration::from_secs(20),
            collective: Duration::from_secs(60),
            load_stall: Duration::from_secs(180),
            call: Duration::from_secs(2),
            lease: Duration::from_secs(3),
            recovery: Duration::from_secs(60),
            retry: Duration::from_millis(100),
            retry_most: Duration::from_secs(2),
            drain: Duration::from_secs(3),
            progress: Duration::from_secs(120),
        }
    }
}

impl Config {
    /// Between a worker's gRPC port and the port on which its rank meets the others by TCP.
    pub const TCP_PORT_OFFSET: u16 = 1000;

    /// A replica of `tp` ranks with the usual limits.
    pub fn new(replica: impl Into<String>, listen: SocketAddr, model: impl Into<String>, source: ModelSource, tp: u16) -> Self {
        let limits = EngineConfig::default();
        Self {
            replica: replica.into(),
            listen,
            advertise: None,
            model: model.into(),
            source,
            dtype: "bf16".into(),
            vision_parallel: VisionParallel::Auto,
            quantization: String::new(),
            kv_cache_dtype: String::new(),
            tp,
            elastic: false,
            max_context: None,
            kv_blocks: None,
            max_sequences: limits.max_batch_sequences,
            step_tokens: None,
            step_patches: limits.step_patches,
            encoder_tokens: limits.encoder_tokens,
            queue: limits.queue_len,
            transport: Transport::default(),
            tls: None,
            timeouts: Timeouts::default(),
        }
    }

    /// Tokens in a step at most, of a group whose ranks say so.
    pub(crate) fn step_tokens(&self, ranks: StepTokens) -> usize {
        let wanted = self.step_tokens.or(ranks.advised).unwrap_or(EngineConfig::default().step_tokens);
        ranks.most.map_or(wanted, |most| wanted.min(most))
    }

    /// What an operator is told who asked for more tokens a step than the ranks have room for.
    pub(crate) fn step_tokens_cut(&self, ranks: StepTokens) -> Option<String> {
        let asked = self.step_tokens?;
        let most = ranks.most.filter(|most| *most < asked)?;
        Some(format!(
            "step_tokens: the activations of {asked} tokens have no room in a rank's workspace; the largest that fits is \
             {most}, and steps have no more"
        ))
    }

    /// The engine's limits for a model on a group with so many blocks, whose ranks say so of a step's tokens.
    pub(crate) fn engine(&self, spec: &ModelSpec, kv_blocks: u32, ranks: StepTokens) -> EngineConfig {
        EngineConfig {
            kv_blocks: kv_blocks as usize,
            max_context: self.max_context.map_or(spec.max_context, |asked| spec.max_context.min(asked as usize)),
            max_batch_sequences: self.max_sequences,
            step_tokens: self.step_tokens(ranks),
            step_patches: self.step_patches,
            encoder_tokens: self.encoder_tokens,
            queue_len: self.queue,
            pipeline_depth: 2,
        }
    }
}

/// What the ranks of a group say of a step's tokens, as one.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct StepTokens {
    /// The least that any advises, unless one does not say.
    pub(crate) advised: Option<usize>,
    /// The least that any has room for; `None` where none knows a bound.
    pub(crate) most: Option<usize>,
}

impl StepTokens {
    pub(crate) fn of(ranks: &[Loaded]) -> Self {
        let said = |tokens: u32| Some(tokens as usize).filter(|tokens| *tokens > 0);
        Self {
            advised: ranks.iter().map(|rank| rank.step_tokens).min().and_then(said),
            most: ranks.iter().filter_map(|rank| said(rank.most_step_tokens)).min(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asking(step_tokens: Option<usize>) -> Config {
        let source = ModelSource::Folder("model".into());
        Config { step_tokens, ..Config::new("replica", ([127, 0, 0, 1], 0).into(), "model", source, 1) }
    }

    #[test]
    fn who_asks_for_more_tokens_a_step_than_fit_is_told_how_many_do() {
        let ranks = [[8192, 9889], [4096, 4944], [512, 0]];
        let ranks = ranks.map(|[step_tokens, most_step_tokens]| Loaded { step_tokens, most_step_tokens, ..Loaded::default() });
        let ranks = StepTokens::of(&ranks);
        let told = asking(Some(16_384)).step_tokens_cut(ranks).unwrap_or_default();
        assert!(told.contains("16384 tokens") && told.contains("the largest that fits is 4944"), "{told}");
        for (asked, steps) in [(None, 512), (Some(4944), 4944), (Some(16_384), 4944)] {
            assert_eq!(asking(asked).step_tokens(ranks), steps);
        }
        assert_eq!(asking(Some(4944)).step_tokens_cut(ranks), None);
        assert_eq!(asking(Some(1 << 20)).step_tokens_cut(StepTokens::default()), None, "nobody knows a bound");
    }
}
