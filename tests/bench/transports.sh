#!/usr/bin/env bash
# Prints the throughput of one replica of two ranks in one process, and as processes of their own over shared memory and over
# TCP, in turn: tokens/s of 4 streams on the 1B shape. usage: tests/bench/transports.sh [TURNS]
set -euo pipefail
cd "$(dirname "$0")/../.."
cargo build --release --locked --quiet --workspace
tessera=target/release/tessera
model=(--model bench-1b --load-format dummy)
compute=(--threads 1 --kv-memory 128MiB)
front=(--grpc 127.0.0.1:6070 --http 127.0.0.1:6080)
logs=$(mktemp -d)
export TESSERA_LOG=error
trap 'kill $(jobs -p) 2>/dev/null || true; wait 2>/dev/null || true; rm -rf "$logs"' EXIT

start() { # NAME ROLE OPTIONS...: waits until it is ready
    local name=$1
    shift
    "$tessera" "$@" >"$logs/$name" 2>&1 &
    for _ in $(seq 300); do
        grep -q ready "$logs/$name" && return
        sleep 0.2
    done
    cat "$logs/$name" >&2
    exit 1
}

measure() { # NAME
    local rate='import json, sys; print(round(json.load(sys.stdin)["generated_tokens_per_second"], 1))'
    "$tessera" bench --endpoint http://127.0.0.1:6070 --concurrency 4 --requests 8 --prompt-tokens 32 --output-tokens 48 --json |
        python3 -c "$rate" | sed "s/^/$1 /"
    kill $(jobs -p)
    wait 2>/dev/null || true
}

for _ in $(seq "${1:-3}"); do
    start up up "${model[@]}" --tp 2 "${compute[@]}" "${front[@]}"
    measure one-process
    for transport in shm tcp; do
        for port in 6201 6202; do start "$port" shard-worker --listen "127.0.0.1:$port" "${compute[@]}"; done
        start coordinator coordinator "${model[@]}" --tp 2 --transport "$transport" --drain-timeout 1 --listen 127.0.0.1:6203 \
            --worker 127.0.0.1:6201 --worker 127.0.0.1:6202
        start router router "${model[@]}" "${front[@]}" --replica 127.0.0.1:6203
        sleep 1
        measure "$transport"
    done
done
