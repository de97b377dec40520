//! `tessera bench --roofline`: what every kind of step takes at least.

use std::io::{Write, stdout};

use anyhow::{Context, Result};
use serde_json::{Value, json};
use tessera_proto::number_format;
use tessera_shard_worker::{Bound, Figures, Floor, Floors, Formats, StepKind};

use crate::{
    cli::RooflineArgs,
    settings,
    table::{aligned, row},
};

/// Prints the limits of a shape on an accelerator.
pub(crate) fn print(args: &RooflineArgs, as_json: bool) -> Result<()> {
    let spec = settings::shape(&args.model)?;
    let floors = Floors::new(args.device, &spec, args.tp.into(), formats(args)?).context("--tp")?;
    let text = if as_json { format!("{:#}\n", document(args, &floors)) } else { table(args, &floors) };
    stdout().lock().write_all(text.as_bytes()).context("cannot write to standard output")
}

fn formats(args: &RooflineArgs) -> Result<Formats> {
    settings::formats(args.dtype, args.quantization, args.kv_cache_dtype)
}

fn document(args: &RooflineArgs, floors: &Floors) -> Value {
    let Figures { memory, bandwidth, flops, all_reduce, link } = args.device.figures();
    let ms = |time: std::time::Duration| time.as_secs_f64() * 1e3;
    let steps = floors.steps.iter().map(|floor| {
        let mut step = kind(floor.step);
        step["ms"] = ms(floor.time.total()).into();
        step["tokens_per_second"] = floor.tokens_per_second().into();
        step["bound_by"] = bound(floor).into();
        step["memory_ms"] = ms(floor.time.memory).into();
        step["arithmetic_ms"] = ms(floor.time.arithmetic).into();
        step["collective_ms"] = ms(floor.time.collective).into();
        step["collective_share"] = floor.collective_share().into();
        step["cache_bytes_per_rank"] = floor.cache.into();
        step["fits"] = fits(floors, floor).into();
        step
    });
    json!({
        "model": args.model, "tp": args.tp, "device": args.device.name(), "dtype": settings::dtype_name(args.dtype),
        "quantization": settings::quantization_name(args.quantization),
        "kv_cache_dtype": settings::kv_cache_dtype_name(args.kv_cache_dtype),
        "limits": {
            "memory_bytes": memory, "bytes_per_second": bandwidth, "bf16_flops_per_second": flops,
            "all_reduce_seconds": all_reduce, "link_bytes_per_second": link,
        },
        "weight_bytes_per_rank": floors.weights, "cache_bytes_per_rank": floors.cache, "steps": steps.collect::<Vec<_>>(),
    })
}

fn kind(step: StepKind) -> Value {
    match step {
        StepKind::Decode { batch, context } => json!({ "step": "decode", "batch": batch, "context": context }),
        StepKind::Prefill { tokens } => json!({ "step": "prefill", "tokens": tokens }),
        StepKind::Image(image) => json!({ "step": "image", "patches": image.patches() }),
        StepKind::FirstToken { image, text } => {
            json!({ "step": "first_token", "patches": image.patches(), "tokens": image.tokens() + text })
        }
    }
}

fn table(args: &RooflineArgs, floors: &Floors) -> String {
    let figures = args.device.figures();
    let giga = |bytes: u64| bytes as f64 / 1e9;
    let mut text = format!(
        "{} in {} on {}, tp {}: the least a step takes, with kernels that lose nothing\n",
        args.model,
        number_format(
            settings::dtype_name(args.dtype),
            settings::quantization_name(args.quantization),
            settings::kv_cache_dtype_name(args.kv_cache_dtype),
        ),
        args.device.name(),
        args.tp,
    );
    text += &format!(
        "limits    {:.2} TB/s, {:.0} TFLOP/s in bf16, {:.1} µs for a small all-reduce and {:.0} GB/s for a large one\n",
        figures.bandwidth / 1e12,
        figures.flops / 1e12,
        figures.all_reduce * 1e6,
        figures.link / 1e9,
    );
    text += &format!("each rank {:.2} GB of weights, {:.1} GB for its cache\n\n", giga(floors.weights), giga(floors.cache));
    let mut rows = vec![row(["STEP", "        MS", "   TOKENS/S", "BOUND BY", "COLLECTIVE"])];
    for floor in &floors.steps {
        rows.push(row([
            &format!("{}{}", title(floor.step), if fits(floors, floor) { "" } else { " *" }),
            &format!("{:>10.3}", floor.time.total().as_secs_f64() * 1e3),
            &floor.tokens_per_second().map_or(format!("{:>11}", "-"), |rate| format!("{rate:>11.1}")),
            bound(floor),
            &format!("{:>8.1} %", floor.collective_share() * 100.0),
        ]));
    }
    text += &aligned(&rows);
    if floors.steps.iter().any(|floor| !fits(floors, floor)) {
        text += "* more keys and values than a rank has room for\n";
    }
    text
}

fn title(step: StepKind) -> String {
    match step {
        StepKind::Decode { batch, context } => format!("decode of {batch} at {} tokens", thousands(context)),
        StepKind::Prefill { tokens } => format!("prefill of {} tokens", thousands(tokens)),
        StepKind::Image(image) => format!("an image of {} patches", image.patches()),
        StepKind::FirstToken { image, text } => {
            format!("first token of that image and {text} of text ({} tokens)", image.tokens() + text)
        }
    }
}

/// `4k` of 4096.
fn thousands(tokens: usize) -> String {
    if tokens.is_multiple_of(1024) { format!("{}k", tokens / 1024) } else { tokens.to_string() }
}

fn bound(floor: &Floor) -> &'static str {
    match floor.time.bound() {
        Bound::Memory => "memory",
        Bound::Arithmetic => "arithmetic",
        Bound::Collective => "collective",
    }
}

/// Whether its keys and values have room beside the weights.
fn fits(floors: &Floors, floor: &Floor) -> bool {
    floor.cache <= floors.cache
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::cli::{Cli, Command};

    fn said(args: &[&str]) -> (RooflineArgs, Floors) {
        let cli = Cli::try_parse_from(["tessera", "bench", "--roofline"].iter().chain(args)).unwrap();
        let Command::Bench(bench) = cli.command else { panic!("another command") };
        let args = bench.roofline;
        let spec = settings::shape(&args.model).unwrap();
        let floors = Floors::new(args.device, &spec, args.tp.into(), formats(&args).unwrap()).unwrap();
        (args, floors)
    }

    #[test]
    fn every_step_has_its_line_and_the_figures_are_those_of_the_h100() {
        let (args, floors) = said(&[]);
        let table = table(&args, &floors);
        let line =
            |begins: &str| table.lines().find(|line| line.starts_with(begins)).unwrap_or_else(|| panic!("{begins}: {table}"));
        // 23.15 GB of weights and 0.17 GB of keys and values at 3.0 TB/s.
        let decode = line("decode of 1 at 1k tokens ");
        assert!(decode.contains(" 7.773 ") && decode.contains(" 128.6 ") && decode.contains("memory"), "{decode}");
        assert!(line("decode of 64 at 32k tokens *").contains("memory"), "343 GB of keys and values do not fit");
        assert!(line("prefill of 4k tokens").contains("arithmetic"));
        assert!(line("first token of that image and 128 of text (4288 tokens)").contains("arithmetic"));
        assert!(line("an image of 4096 patches").contains(" - "));
    }

    #[test]
    fn keys_and_values_in_fp8_are_told_and_counted() {
        let (args, floors) = said(&["--kv-cache-dtype", "fp8"]);
        let table = table(&args, &floors);
        assert!(table.starts_with("pixtral-12b in bf16, kv fp8 on h100"), "{table}");
        // A byte a number and a scale of 4, of 40 layers' 8 heads of 128.
        let step = StepKind::Decode { batch: 8, context: 32_768 };
        let floor = floors.steps.iter().find(|floor| floor.step == step).unwrap();
        assert_eq!(floor.cache, 8 * 32_768 * 2 * 40 * 8 * 132);
        assert_eq!(document(&args, &floors)["kv_cache_dtype"], json!("fp8"));
    }

    #[test]
    fn json_says_the_same_in_numbers() {
        let (args, floors) = said(&["--tp", "2", "--device", "h200"]);
        let document = document(&args, &floors);
        assert_eq!((&document["tp"], &document["device"], &document["dtype"]), (&json!(2), &json!("h200"), &json!("bf16")));
        let steps = document["steps"].as_array().unwrap();
        assert_eq!(steps.len(), floors.steps.len());
        let first = &steps[0];
        assert_eq!((&first["step"], &first["batch"], &first["context"]), (&json!("decode"), &json!(1), &json!(1024)));
        let parts = ["memory_ms", "arithmetic_ms", "collective_ms"].map(|part| first[part].as_f64().unwrap());
        assert!((parts.iter().sum::<f64>() - first["ms"].as_f64().unwrap()).abs() < 1e-5);
        assert!(first["collective_share"].as_f64().unwrap() > 0.1, "{first}");
    }
}
