//! The map of the house, kept true: who may depend on whom (ARCHITECTURE.md, "The rooms").

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout, reason = "a test may panic and say why")]

use std::{collections::BTreeMap, process::Command};

use serde_json::Value;

/// Every crate, and the Tessera crates it may use.
const ARROWS: &[(&str, &[&str])] = &[
    ("tessera-types", &[]),
    ("tessera-proto", &["tessera-types"]),
    ("tessera-registry", &["tessera-types"]),
    ("tessera-test-etcd", &[]),
    ("tessera-service", &["tessera-types", "tessera-proto"]),
    ("tessera-prompt", &["tessera-types"]),
    ("tessera-engine", &["tessera-types"]),
    ("tessera-device", &["tessera-types"]),
    ("tessera-test-gpu", &[]),
    ("tessera-collective", &["tessera-types"]),
    ("tessera-model", &["tessera-types", "tessera-device", "tessera-collective"]),
    ("tessera-router", &["tessera-types", "tessera-proto", "tessera-registry", "tessera-service", "tessera-prompt"]),
    ("tessera-coordinator", &["tessera-types", "tessera-proto", "tessera-registry", "tessera-service", "tessera-engine"]),
    (
        "tessera-shard-worker",
        &[
            "tessera-types",
            "tessera-proto",
            "tessera-registry",
            "tessera-service",
            "tessera-model",
            "tessera-device",
            "tessera-collective",
        ],
    ),
    (
        "tessera-launcher",
        &[
            "tessera-types",
            "tessera-proto",
            "tessera-registry",
            "tessera-service",
            "tessera-router",
            "tessera-coordinator",
            "tessera-shard-worker",
        ],
    ),
];

/// Crates whose code is pure: no runtime, no sockets.
const PURE: &[&str] =
    &["tessera-types", "tessera-prompt", "tessera-engine", "tessera-device", "tessera-collective", "tessera-model"];

fn dependencies() -> BTreeMap<String, Vec<String>> {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version", "1", "--no-deps", "--offline"])
        .output()
        .expect("cargo metadata runs");
    let metadata: Value = serde_json::from_slice(&output.stdout).expect("cargo metadata prints JSON");
    let name = |value: &Value| value["name"].as_str().expect("a name").to_owned();
    let packages = metadata["packages"].as_array().expect("packages");
    packages
        .iter()
        .map(|package| {
            let normal = package["dependencies"].as_array().expect("dependencies").iter().filter(|d| d["kind"].is_null());
            (name(package), normal.map(name).collect())
        })
        .collect()
}

#[test]
fn crates_use_only_the_crates_they_may() {
    let dependencies = dependencies();
    for (package, allowed) in ARROWS {
        for used in dependencies[*package].iter().filter(|name| name.starts_with("tessera-")) {
            assert!(allowed.contains(&used.as_str()), "{package} must not use {used}");
        }
    }
}

#[test]
fn every_crate_is_on_the_map() {
    for package in dependencies().keys().filter(|package| *package != "tessera-tests") {
        assert!(ARROWS.iter().any(|(name, _)| name == package), "{package} is not on the map");
    }
}

#[test]
fn pure_crates_have_no_runtime_and_no_sockets() {
    let dependencies = dependencies();
    for package in PURE {
        for banned in ["tokio", "tonic", "hyper", "axum", "reqwest"] {
            assert!(!dependencies[*package].iter().any(|name| name == banned), "{package} must not use {banned}");
        }
    }
}
