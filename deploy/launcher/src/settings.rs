//! What the flags mean: raw flags in, each role's own configuration out.

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use tessera_registry::{EtcdConfig, EtcdStore, Registry};
use tessera_router::{ApiKeys, Hosts, RouterConfig};
use tessera_service::{CertFiles, TlsFiles};
use tessera_shard_worker::{CacheDtype, CudaWays, DeviceConfig, Dtype, Formats, Quantization, WeightFormat};
use tessera_types::ModelSpec;

use crate::{
    cli::{
        ComputeArgs, DtypeArg, FrontArgs, FrontTlsArgs, IdentityArgs, KvCacheDtypeArg, LoadFormat, ModelArgs, QuantizationArg,
        RegistryArgs, ReplicaArgs, TlsArgs, TransportArg,
    },
    device::DeviceArg,
    memory::free_memory,
};

/// Calls in progress may end within this when a process stops.
const GRACE: Duration = Duration::from_secs(3);
/// A worker that stops waits this long for its coordinator to let it go.
const DRAIN: Duration = Duration::from_secs(4);
/// A router takes no more memory for images unless it is told so.
const MOST_IMAGE_MEMORY: u64 = 8 << 30;

/// The model to serve.
#[derive(Clone, Debug)]
pub(crate) struct Model {
    /// What clients call it.
    pub(crate) name: String,
    pub(crate) source: Source,
}

/// Where the model comes from.
#[derive(Clone, Debug)]
pub(crate) enum Source {
    Folder(PathBuf),
    Dummy(Box<ModelSpec>),
}

impl Model {
    pub(crate) fn new(args: &ModelArgs) -> Result<Self> {
        let path = Path::new(&args.model);
        let source = match args.load_format {
            LoadFormat::Dummy => Source::Dummy(Box::new(shape(&args.model)?)),
            LoadFormat::Auto if path.is_dir() => {
                Source::Folder(fs::canonicalize(path).with_context(|| format!("cannot open the folder {}", args.model))?)
            }
            LoadFormat::Auto if ModelSpec::by_name(&args.model).is_some() => {
                bail!("`{}` is a shape without weights; add --load-format dummy to run it so", args.model)
            }
            LoadFormat::Auto => bail!("--model: there is no folder {}", args.model),
        };
        let file_name = path.file_name().map(|name| name.to_string_lossy().into_owned());
        let name = args.served_model_name.clone().or(file_name).unwrap_or_else(|| args.model.clone());
        Ok(Self { name, source })
    }
}

/// A shape by name, or from a configuration file or folder.
pub(crate) fn shape(model: &str) -> Result<ModelSpec> {
    if let Some(spec) = ModelSpec::by_name(model) {
        return Ok(spec);
    }
    let path = Path::new(model);
    let candidates = if path.is_dir() { vec![path.join("params.json"), path.join("config.json")] } else { vec![path.to_owned()] };
    let Some(file) = candidates.iter().find(|file| file.is_file()) else {
        bail!("--model: `{model}` is neither a known shape (pixtral-12b, bench-1b) nor a configuration");
    };
    let text = fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
    let mistral = text.contains("\"n_layers\"");
    let spec = if mistral { ModelSpec::from_mistral_params(&text) } else { ModelSpec::from_hugging_face_config(&text) };
    spec.with_context(|| format!("{}", file.display()))
}

/// The configuration of a shard worker that is the `nth` of `ranks` on this machine.
pub(crate) fn shard_worker(
    args: &ComputeArgs,
    listen: SocketAddr,
    (nth, ranks): (u16, u16),
    lease: Duration,
) -> Result<tessera_shard_worker::Config> {
    Ok(tessera_shard_worker::Config {
        id: unique("worker"),
        listen,
        advertise: None,
        host: tessera_shard_worker::host(),
        device: device(args, (nth, ranks))?,
        tls: None,
        lease,
        drain: DRAIN,
        grace: GRACE,
    })
}

/// Whether ranks can compute as they are asked to; those of a cluster say so themselves.
///
/// # Errors
/// What no rank of the device could do.
pub(crate) fn check(args: &ComputeArgs, replica: &ReplicaArgs) -> Result<()> {
    if let (DeviceArg::Cuda(_), DtypeArg::F32) = (args.device, replica.dtype) {
        bail!("--dtype f32: GPUs compute in bf16 alone");
    }
    Ok(())
}

fn device(args: &ComputeArgs, (nth, ranks): (u16, u16)) -> Result<DeviceConfig> {
    Ok(match args.device {
        DeviceArg::Sim(accelerator) => DeviceConfig::Sim { accelerator, kv_memory: args.kv_memory },
        DeviceArg::Cuda(first) => {
            let gpu = first + usize::from(nth);
            let ways = CudaWays { graphs: !args.no_cuda_graphs, overlap: !args.no_cuda_overlap, peers: !args.no_peer_sums };
            DeviceConfig::cuda(gpu, args.cuda_kernels.clone(), args.kv_memory, ways)
                .with_context(|| format!("--device cuda:{gpu}"))?
        }
        DeviceArg::Cpu => {
            let cores = thread::available_parallelism().map_or(1, usize::from);
            DeviceConfig::Cpu {
                threads: args.threads.map_or((cores / usize::from(ranks)).max(1), usize::from),
                kv_memory: args.kv_memory.unwrap_or_else(|| free_memory() / 4 / u64::from(ranks)),
            }
        }
    })
}

/// The registry that is named, if one is.
pub(crate) fn registry(args: &RegistryArgs) -> Result<Option<Registry>> {
    let Some(url) = &args.registry else { return Ok(None) };
    let password = match &args.registry_password_file {
        Some(file) => Some(fs::read_to_string(file).with_context(|| format!("cannot read the password in {}", file.display()))?),
        None => None,
    };
    let config = EtcdConfig::parse(url)?.with_user(args.registry_user.clone(), password)?.with_tls(
        args.registry_ca.clone(),
        args.registry_cert.clone(),
        args.registry_key.clone(),
    )?;
    Ok(Some(Registry::new(EtcdStore::new(config))))
}

/// The registry that must be named.
pub(crate) fn named_registry(args: &RegistryArgs) -> Result<Registry> {
    registry(args)?.context("say where the cluster meets: --registry etcd://HOST:PORT")
}

/// What a role is known by: as asked, or by host and port.
pub(crate) struct Identity {
    pub(crate) id: String,
    pub(crate) advertise: Option<String>,
    pub(crate) drain: Duration,
}

impl Identity {
    pub(crate) fn new(role: &str, args: &IdentityArgs, listen: SocketAddr) -> Result<Self> {
        let host = fs::read_to_string("/proc/sys/kernel/hostname").context("cannot tell this host's name")?;
        let (host, port) = (host.trim(), listen.port());
        let advertise = match &args.advertise {
            None if listen.ip().is_unspecified() && port != 0 => Some(format!("{host}:{port}")),
            given => given.clone(),
        };
        let id = match (&args.id, port) {
            (Some(id), _) => id.clone(),
            // No port to be known by.
            (None, 0) => unique(role),
            (None, port) => format!("{role}-{host}-{port}"),
        };
        anyhow::ensure!(!id.is_empty() && !id.contains('/'), "--id `{id}` must be a name without `/`");
        Ok(Self { id, advertise, drain: Duration::from_secs(args.drain_timeout) })
    }
}

/// Options by which numbers become fp8.
const QUANTIZATION: &str = "--quantization";
const KV_CACHE_DTYPE: &str = "--kv-cache-dtype";

/// Fails where what `option` makes fp8 of cannot be in `dtype`.
fn check_fp8_of(option: &str, dtype: DtypeArg) -> Result<()> {
    ensure!(dtype == DtypeArg::Bf16, "{option} fp8 goes with --dtype bf16: such numbers are made of bf16 ones");
    Ok(())
}

/// Fails where weights or cache cannot be in fp8 as asked: in these numbers, or on `device` where it is known.
pub(crate) fn check_fp8(args: &ReplicaArgs, device: Option<DeviceArg>) -> Result<()> {
    let weights = (args.quantization == QuantizationArg::Fp8).then_some(QUANTIZATION);
    let cache = (args.kv_cache_dtype == KvCacheDtypeArg::Fp8).then_some(KV_CACHE_DTYPE);
    for option in [weights, cache].into_iter().flatten() {
        check_fp8_of(option, args.dtype)?;
        ensure!(device != Some(DeviceArg::Cpu), "{option} fp8 goes with --device cuda or sim:NAME, and the device is cpu");
    }
    Ok(())
}

/// A coordinator's configuration.
pub(crate) fn coordinator(args: &ReplicaArgs, model: &Model, listen: SocketAddr) -> tessera_coordinator::Config {
    let source = match &model.source {
        Source::Folder(folder) => tessera_coordinator::ModelSource::Folder(folder.display().to_string()),
        Source::Dummy(spec) => tessera_coordinator::ModelSource::Dummy { spec: spec.clone(), seed: 0 },
    };
    let usual = tessera_coordinator::Config::new(unique("replica"), listen, &model.name, source, args.tp);
    tessera_coordinator::Config {
        dtype: dtype_name(args.dtype).into(),
        vision_parallel: args.vision_parallel,
        quantization: quantization_name(args.quantization).into(),
        kv_cache_dtype: kv_cache_dtype_name(args.kv_cache_dtype).into(),
        elastic: args.elastic,
        transport: match args.transport {
            TransportArg::Auto => tessera_coordinator::Transport::Auto,
            TransportArg::Shm => tessera_coordinator::Transport::Shm,
            TransportArg::Tcp => tessera_coordinator::Transport::Tcp,
        },
        max_context: args.max_context,
        max_sequences: args.max_sequences as usize,
        step_tokens: args.step_tokens.map(|tokens| tokens as usize),
        queue: args.queue as usize,
        ..usual
    }
}

/// What a precision is called on the wire.
pub(crate) fn dtype_name(dtype: DtypeArg) -> &'static str {
    match dtype {
        DtypeArg::F32 => "f32",
        DtypeArg::Bf16 => "bf16",
    }
}

/// What a quantisation is called on the wire.
pub(crate) fn quantization_name(quantization: QuantizationArg) -> &'static str {
    match quantization {
        QuantizationArg::None => "",
        QuantizationArg::Fp8 => "fp8",
    }
}

/// What a cache's numbers are called on the wire.
pub(crate) fn kv_cache_dtype_name(dtype: KvCacheDtypeArg) -> &'static str {
    match dtype {
        KvCacheDtypeArg::Auto => "",
        KvCacheDtypeArg::Fp8 => "fp8",
    }
}

/// What weights and cache are kept in.
pub(crate) fn formats(dtype: DtypeArg, quantization: QuantizationArg, kv_cache_dtype: KvCacheDtypeArg) -> Result<Formats> {
    let plain = match dtype {
        DtypeArg::F32 => Dtype::F32,
        DtypeArg::Bf16 => Dtype::Bf16,
    };
    let mut formats = Formats::from(plain);
    if quantization == QuantizationArg::Fp8 {
        check_fp8_of(QUANTIZATION, dtype)?;
        formats.weights = WeightFormat { dtype: plain, quantization: Some(Quantization::Fp8) };
    }
    if kv_cache_dtype == KvCacheDtypeArg::Fp8 {
        check_fp8_of(KV_CACHE_DTYPE, dtype)?;
        formats.cache = CacheDtype::Fp8;
    }
    Ok(formats)
}

/// A router's configuration.
pub(crate) fn router(args: &FrontArgs, model: &Model, max_context: Option<u32>) -> Result<RouterConfig> {
    let source = match &model.source {
        Source::Folder(folder) => tessera_router::ModelSource::Folder(folder.clone()),
        Source::Dummy(spec) => tessera_router::ModelSource::Shape(spec.clone()),
    };
    let image_memory = args.image_memory.unwrap_or_else(|| (free_memory() / 4).min(MOST_IMAGE_MEMORY));
    let usual = RouterConfig::new(&model.name, source).with_image_memory(image_memory);
    let mut config = RouterConfig { grpc: args.grpc, http: args.http, ..usual };
    config.front_tls = front_tls(&args.tls);
    config.max_connections = args.max_connections as usize;
    config.max_context = max_context.map(|tokens| tokens as usize);
    if args.allow_image_urls {
        config.fetch.hosts = Hosts::Any;
    }
    if let Some(file) = &args.api_key_file {
        config.api_keys = ApiKeys::read(file).with_context(|| format!("cannot read the API keys in {}", file.display()))?;
    }
    Ok(config)
}

/// Mutual TLS; the command line takes all three files or none.
pub(crate) fn tls(args: &TlsArgs) -> Option<TlsFiles> {
    let TlsArgs { tls_ca, tls_cert, tls_key } = args.clone();
    Some(TlsFiles { ca: tls_ca?, cert: tls_cert?, key: tls_key? })
}

/// TLS of the front door; the command line takes both files or none.
fn front_tls(args: &FrontTlsArgs) -> Option<CertFiles> {
    let FrontTlsArgs { front_tls_cert, front_tls_key } = args.clone();
    Some(CertFiles { cert: front_tls_cert?, key: front_tls_key? })
}

/// A name no other process has.
pub(crate) fn unique(role: &str) -> String {
    format!("{role}-{:016x}", rand::random::<u64>())
}
