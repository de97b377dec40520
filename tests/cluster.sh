#!/usr/bin/env bash
# Puts a cluster of real processes and a real etcd under fire while streams are open, and compares every token.
# usage: tests/cluster.sh [--faults N] [--seed S] | --measure
set -euo pipefail
cd "$(dirname "$0")/.."
. deploy/prerequisites.sh
need etcd etcd-server
cargo build --release --locked --quiet --workspace
export TESSERA_LOG="${TESSERA_LOG:-info}"
exec target/release/tessera-storm "$@"
