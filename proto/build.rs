//! The only codegen site. protox compiles the schema, so that no protoc is needed.

use std::{env, fs, path::PathBuf};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let schema = PathBuf::from(env::var("CARGO_MANIFEST_DIR")?).join("schema");
    let files = [
        "tessera/v1/inference.proto",
        "tessera/internal/v1/common.proto",
        "tessera/internal/v1/coordinator.proto",
        "tessera/internal/v1/shard_worker.proto",
    ];
    println!("cargo::rerun-if-changed={}", schema.display());
    let descriptors = protox::compile(files, [&schema])?;
    let out = PathBuf::from(env::var("OUT_DIR")?);
    let encoded = prost_encode(&descriptors);
    fs::write(out.join("descriptors.bin"), encoded)?;
    tonic_prost_build::configure().bytes(".").compile_fds(descriptors)?;
    Ok(())
}

fn prost_encode(descriptors: &impl prost::Message) -> Vec<u8> {
    descriptors.encode_to_vec()
}
