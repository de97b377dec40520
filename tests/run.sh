#!/usr/bin/env bash
# Installs what the tests need and runs all of them. usage: tests/run.sh [cargo test's options]
set -euo pipefail
cd "$(dirname "$0")/.."
. deploy/prerequisites.sh
need_to_build
# The last two build the libraries that stand for a GPU's.
need python3 python3 etcd etcd-server g++ g++ flock util-linux

# Clients and reference programs that nobody here wrote; their versions are pinned in requirements.txt.
venv=target/test-venv
stamp="$venv/.$(sha256sum tests/requirements.txt | cut -c1-16)"
if [ ! -e "$stamp" ]; then
    rm -rf "$venv"
    python3 -m venv "$venv" 2>/dev/null || { need ensurepip python3-venv; python3 -m venv "$venv"; }
    "$venv/bin/pip" install --quiet --disable-pip-version-check -r tests/requirements.txt
    touch "$stamp"
fi
TESSERA_PYTHON="$PWD/$venv/bin/python"
TESSERA_TEKKEN="$("$TESSERA_PYTHON" -c 'import os, mistral_common as m; print(os.path.join(os.path.dirname(m.__file__), "data", "tekken_240911.json"))')"
export TESSERA_PYTHON TESSERA_TEKKEN

# The end-to-end tests start the real binary.
cargo build --release --locked --workspace --all-targets
cargo test --release --locked --workspace "$@"

# The kernels, run on the CPU against reference results, and what stands in for CUDA's libraries; then compiled for GPUs.
shard-worker/device/cuda/test.sh --mutations=some
shard-worker/device/cuda/fake/test.sh
shard-worker/device/cuda/build.sh --check

# What is deployed, checked against the schemas and the binary's own options.
./tests/k8s.sh target/release/tessera
