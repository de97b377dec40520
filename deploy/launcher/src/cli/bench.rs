//! What a bench measures, or computes.

use clap::Args;
use tessera_shard_worker::Accelerator;

use super::{
    DtypeArg, EndpointArgs, KvCacheDtypeArg, QuantizationArg,
    parse::{parse_degree, parse_dimensions},
};

#[derive(Debug, Args)]
pub(crate) struct BenchArgs {
    #[command(flatten)]
    pub(crate) router: EndpointArgs,
    /// Print the report as JSON.
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) load: LoadArgs,
    #[command(flatten)]
    pub(crate) roofline: RooflineArgs,
}

/// The load that is put on a cluster.
#[derive(Debug, Args)]
pub(crate) struct LoadArgs {
    /// Requests in flight.
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=4096))]
    pub(crate) concurrency: u32,
    /// Requests in all.
    #[arg(long, value_name = "N", default_value_t = 32, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub(crate) requests: u32,
    /// Random text tokens of each prompt.
    #[arg(long, value_name = "TOKENS", default_value_t = 128)]
    pub(crate) prompt_tokens: u32,
    /// Tokens generated for each request; end tokens are ignored.
    #[arg(long, value_name = "TOKENS", default_value_t = 64)]
    pub(crate) output_tokens: u32,
    /// Pictures in each prompt.
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(crate) images: u32,
    /// Size of the pictures.
    #[arg(long, value_name = "WxH", default_value = "256x256", value_parser = parse_dimensions)]
    pub(crate) image_size: (u32, u32),
    /// Seed of prompts and pictures.
    #[arg(long, default_value_t = 0)]
    pub(crate) seed: u64,
}

/// Limits that need no cluster.
#[derive(Debug, Args)]
#[command(next_help_heading = "Roofline")]
pub(crate) struct RooflineArgs {
    /// Print the least time that every kind of step takes on an accelerator, and put no load on anything.
    #[arg(long, conflicts_with = "LoadArgs")]
    pub(crate) roofline: bool,
    /// A checkpoint folder, a configuration file, or a shape: pixtral-12b, bench-1b.
    #[arg(long, value_name = "DIR|NAME", default_value = "pixtral-12b", requires = "roofline")]
    pub(crate) model: String,
    /// Tensor parallel degree.
    #[arg(long, value_name = "N", default_value_t = 1, requires = "roofline", value_parser = parse_degree)]
    pub(crate) tp: u16,
    /// Whose limits: a100, h100, h200.
    #[arg(long, value_name = "ACCELERATOR", default_value = "h100", requires = "roofline")]
    pub(crate) device: Accelerator,
    /// What weights and cache are kept in.
    #[arg(long, value_enum, default_value = "bf16", requires = "roofline")]
    pub(crate) dtype: DtypeArg,
    /// How weights of the decoder's layers are quantised.
    #[arg(long, value_enum, default_value = "none", requires = "roofline")]
    pub(crate) quantization: QuantizationArg,
    /// What keys and values are kept in.
    #[arg(long, value_enum, default_value = "auto", requires = "roofline")]
    pub(crate) kv_cache_dtype: KvCacheDtypeArg,
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use crate::cli::{Cli, Command};

    fn parse(args: &[&str]) -> Result<Cli, String> {
        Cli::try_parse_from(["tessera", "bench"].iter().chain(args)).map_err(|error| error.to_string())
    }

    #[test]
    fn a_bench_is_a_load_or_a_roofline_and_not_both() {
        let Command::Bench(args) = parse(&["--roofline", "--tp", "4", "--device", "h200", "--json"]).unwrap().command else {
            panic!("another command");
        };
        assert!(args.roofline.roofline && args.json);
        assert_eq!((args.roofline.tp, args.roofline.device.name(), args.roofline.model.as_str()), (4, "h200", "pixtral-12b"));
        assert!(parse(&["--concurrency", "8", "--images", "1"]).is_ok());
        for (args, at_fault) in [
            (&["--roofline", "--concurrency", "8"], "--concurrency"),
            (&["--roofline", "--image-size", "64x64"], "--image-size"),
            (&["--roofline", "--device", "tpu"], "`tpu`"),
            (&["--roofline", "--tp", "3"], "--tp"),
        ] {
            let refused = parse(args).unwrap_err();
            assert!(refused.contains(at_fault), "{refused}");
        }
        assert!(parse(&["--tp", "2"]).unwrap_err().contains("--roofline"));
    }
}
