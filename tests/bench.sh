#!/usr/bin/env bash
# Prints Tessera's figures beside this machine's limits, as ratios measured in one run. Takes a few minutes.
set -euo pipefail
cd "$(dirname "$0")/.."
cargo build --release --locked --quiet --workspace
export TESSERA_LOG="${TESSERA_LOG:-error}"
exec target/release/tessera-bench
