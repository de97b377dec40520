#!/usr/bin/env bash
# Proves and measures Tessera on a machine with NVIDIA GPUs, and prints a short table last.
# usage: tests/gpu.sh pack          where there is a toolchain: builds target/gpu, all that a GPU machine needs (no network there)
#        tests/gpu.sh run [PHASE..] on the GPU machine, in the same tree with target/gpu; phases: versions kernels cluster nccl speed
# A phase that fails is named in the table; the exit status is then 1.
set -uo pipefail
cd "$(dirname "$0")/.."
gpu=target/gpu

pack() {
    set -e
    . deploy/prerequisites.sh
    need_to_build
    need python3 python3
    shard-worker/device/cuda/build.sh
    cargo build --release --locked --workspace --all-targets
    rm -rf "$gpu" && mkdir -p "$gpu/release/deps"
    cp -r target/cubins "$gpu/cubins"
    pwd > "$gpu/root"
    strip -o "$gpu/release/tessera" target/release/tessera
    # The tests' own programs, so that nothing is compiled there.
    local messages; messages="$(cargo test --release --locked --workspace --no-run --message-format=json 2>/dev/null)"
    for test in kernels model gpu; do
        local program; program="$(python3 -c '
import json, sys
for line in sys.stdin:
    message = json.loads(line)
    if message.get("executable") and message["target"]["name"] == sys.argv[1] and "test" in message["target"]["kind"]:
        print(message["executable"])' "$test" <<<"$messages" | tail -1)"
        strip -o "$gpu/release/deps/$test" "$program"
    done
    du -sh "$gpu"
}

# The machine's own libraries, and kernels made for it.
libraries() {
    local nccl; nccl="$(python3 -c 'import glob, site; print(*glob.glob(site.getsitepackages()[0] + "/nvidia/nccl/lib"))' 2>/dev/null)"
    export LD_LIBRARY_PATH="${nccl%% *}:${LD_LIBRARY_PATH:-}" TESSERA_REAL_GPU="$PWD/$gpu/cubins" TESSERA_CUDA_KERNELS="$PWD/$gpu/cubins"
}

rows=()
failed=0
row() { rows+=("$(printf '| %-46s | %s |' "$1" "$2")"); }
# phase NAME COMMAND...: runs it, and notes whether it went well.
phase() {
    local name="$1" begin=$SECONDS; shift
    if "$@"; then row "$name" "passed in $((SECONDS - begin)) s"; else row "$name" "FAILED"; failed=1; fi
}

versions() {
    nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader && "$gpu/release/tessera" --version
}
# Products and attention at Pixtral's sizes, then the model.
kernels() {
    "$gpu/release/deps/kernels" --nocapture --test-threads 1 && "$gpu/release/deps/model" cuda --nocapture --test-threads 1
}
cluster() { "$gpu/release/deps/gpu" one_gpu --nocapture; }
# Two ranks on one GPU: NCCL takes that where each process is told that it has a host of its own.
nccl() {
    local model=tests/fixtures/shapes workers=()
    for rank in 0 1; do
        NCCL_HOSTID="host$rank" "$gpu/release/tessera" shard-worker --listen "127.0.0.1:1710$rank" --device cuda:0 --kv-memory 64MiB &
        workers+=($!)
    done
    "$gpu/release/tessera" coordinator --model "$model" --tp 2 --worker 127.0.0.1:17100 --worker 127.0.0.1:17101 --listen 127.0.0.1:17110 &
    workers+=($!)
    "$gpu/release/tessera" router --model "$model" --replica 127.0.0.1:17110 --grpc 127.0.0.1:17120 --http 127.0.0.1:17121 &
    workers+=($!)
    # Asked until somebody answers: the roles start in any order.
    local answer="" tries
    for tries in $(seq 60); do
        answer="$(timeout 60 "$gpu/release/tessera" chat --endpoint http://127.0.0.1:17120 --image "$model/pictures/00-describe-0.png" 'What do you see?' 2>/dev/null)" && break
        sleep 1
    done
    kill "${workers[@]}" 2>/dev/null; wait "${workers[@]}" 2>/dev/null
    echo "$answer"; [ -n "$answer" ]
}
speed() {
    "$gpu/release/tessera" bench --roofline | tee "$gpu/roofline.log"
    speed_of none && speed_of fp8
}
speed_of() {
    local quantization="$1"
    "$gpu/release/tessera" up --device cuda --quantization "$quantization" --model pixtral-12b --load-format dummy --grpc 127.0.0.1:17220 --http 127.0.0.1:17221 > "$gpu/up.log" 2>&1 &
    local up=$!
    timeout 240 bash -c "until grep -q '^ready ' '$gpu/up.log'; do sleep 0.2; kill -0 $up || exit 1; done" || { tail -5 "$gpu/up.log"; kill "$up"; return 1; }
    for streams in 1 8 32 64; do
        "$gpu/release/tessera" bench --endpoint http://127.0.0.1:17220 --concurrency "$streams" --requests "$((streams * 2))" --prompt-tokens 1024 | tee "$gpu/bench-$quantization-$streams.log"
        row "12B, $streams streams, 1k context, quantization $quantization" "$(grep -i 'tokens/s\|tok/s\|tokens per second' "$gpu/bench-$quantization-$streams.log" | head -1)"
    done
    kill "$up"; wait "$up"; true
}

run() {
    [ -d "$gpu" ] || { echo "no $gpu: run tests/gpu.sh pack first" >&2; exit 1; }
    # The tests' programs look for fixtures where they were built.
    local root; root="$(cat "$gpu/root")"
    [ -e "$root" ] || { mkdir -p "$(dirname "$root")" && ln -s "$PWD" "$root"; }
    libraries
    [ $# -gt 0 ] || set -- versions kernels cluster nccl speed
    for name in "$@"; do phase "$name" "$name"; done
    printf '\n%s, %s\n' "$(date -u +%F)" "$(nvidia-smi --query-gpu=name --format=csv,noheader | head -1)"
    printf '%s\n' "${rows[@]}"
    exit "$failed"
}

case "${1:-}" in
    pack) pack ;;
    run) shift; run "$@" ;;
    *) sed -n '2,5p' "$0" | cut -c3-; exit 2 ;;
esac
