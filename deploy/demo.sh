#!/usr/bin/env bash
# Builds Tessera and shows it answer a question about a freshly drawn picture: router, coordinator and two CPU
# shard workers on this machine. Exits 0 when the answer is right. usage: deploy/demo.sh [tessera demo's options]
set -euo pipefail
cd "$(dirname "$0")/.."
. deploy/prerequisites.sh
need_to_build
cargo build --release --locked --workspace
exec target/release/tessera demo "$@"
