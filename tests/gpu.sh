#!/usr/bin/env bash
# Proves and measures Tessera on a machine with NVIDIA GPUs, and prints a short table last.
# usage: tests/gpu.sh pack           where there is a toolchain: builds target/gpu, all that a GPU machine needs (no network there)
#        tests/gpu.sh run [PHASE..]  on the GPU machine, in the same tree with target/gpu
# phases, with the seconds that each may take, the default ones less than five minutes in all:
#   versions (5), kernels (95), cluster (45), nccl (30), limits (20), speed (55), speed8 (45): these by default;
#   contexts (90), peer (240)
# Every row is printed as soon as it is known and kept in target/gpu/table.md. A phase that fails is named there; the exit status is
# then 1.
set -uo pipefail
cd "$(dirname "$0")/.."
gpu=target/gpu
tessera="$gpu/release/tessera"
# What may be carried to such a machine.
most_mib=64

pack() {
    set -e
    . deploy/prerequisites.sh
    need_to_build
    need python3 python3
    shard-worker/device/cuda/build.sh
    cargo build --release --locked --workspace --all-targets
    rm -rf "$gpu" && mkdir -p "$gpu/release/deps" "$gpu/cubins"
    local cubin
    for cubin in target/cubins/*.cubin; do
        [ "$(head -c 4 "$cubin" | tail -c 3)" = ELF ] && [ "$(stat -c %s "$cubin")" -gt 100000 ] || { echo "$cubin is no image" >&2; exit 1; }
        cp "$cubin" "$gpu/cubins/"
    done
    pwd > "$gpu/root"
    strip -o "$tessera" target/release/tessera
    # The tests' own programs, so that nothing is compiled there.
    local messages test program
    messages="$(cargo test --release --locked --workspace --no-run --message-format=json)"
    for test in kernels model gpu; do
        program="$(python3 -c '
import json, sys
for line in sys.stdin:
    message = json.loads(line)
    if message.get("executable") and message["target"]["name"] == sys.argv[1] and "test" in message["target"]["kind"]:
        print(message["executable"])' "$test" <<<"$messages" | tail -1)"
        [ -n "$program" ] || { echo "no test program $test" >&2; exit 1; }
        strip -o "$gpu/release/deps/$test" "$program"
    done
    local size; size="$(du -sm "$gpu" | cut -f1)"
    echo "$gpu has $size MiB"
    [ "$size" -le "$most_mib" ] || { echo "that is more than $most_mib MiB" >&2; exit 1; }
}

# Where the machine's NCCL lies, and kernels made for it.
libraries() {
    local nccl; nccl="$(python3 -c '
import glob, site, sys
print(*[found for path in [*site.getsitepackages(), *sys.path] for found in glob.glob(path + "/nvidia/nccl/lib")])' 2>/dev/null)"
    export LD_LIBRARY_PATH="${nccl%% *}:${LD_LIBRARY_PATH:-}" TESSERA_REAL_GPU="$PWD/$gpu/cubins" TESSERA_CUDA_KERNELS="$PWD/$gpu/cubins"
}

row() { printf '| %-52s | %s |\n' "$1" "$2" | tee -a "$gpu/table.md"; }
gpus() { nvidia-smi --list-gpus | wc -l; }
# field REPORT NAME: a number of a report in JSON; of a group of numbers its median.
field() { awk -v name="\"$2\"" '$1 == name ":" { if ($2 ~ /^[0-9]/) { print $2 + 0; exit } found = 1 } found && $1 == "\"p50\":" { print $2 + 0; exit }' "$1"; }
# over A B: the ratio of two numbers.
over() { awk -v a="$1" -v b="$2" 'BEGIN { if (b > 0) printf "%.2f", a / b; else printf "?" }'; }

versions() {
    row "GPU, driver, memory" "$(nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader | head -1), $(gpus) of them"
    row "NCCL" "$(find ${LD_LIBRARY_PATH//:/ } -maxdepth 1 -name 'libnccl.so*' 2>/dev/null | head -1)"
    "$tessera" --version
}

# Products and attention at Pixtral's sizes, then the model.
kernels() {
    "$gpu/release/deps/kernels" --nocapture --test-threads 1 && "$gpu/release/deps/model" cuda --nocapture --test-threads 1
}

cluster() {
    "$gpu/release/deps/gpu" one_gpu --nocapture || return 1
    [ "$(gpus)" -lt 4 ] || "$gpu/release/deps/gpu" several_gpus --nocapture
}

# Two ranks on one GPU: NCCL takes that where each process is told that it has a host of its own. One is then killed, and
# another takes its place. Their small sums go through the GPU's memory, which each process maps.
nccl() {
    local model=tests/fixtures/shapes rank
    for rank in 0 1 2; do
        NCCL_HOSTID="host$rank" "$tessera" shard-worker --listen "127.0.0.1:1710$rank" --device cuda:0 --kv-memory 64MiB > "$gpu/rank-$rank.log" 2>&1 &
    done
    local killed; killed="$(jobs -p | sed -n 2p)"
    "$tessera" coordinator --model "$model" --tp 2 --worker 127.0.0.1:17100 --worker 127.0.0.1:17101 --worker 127.0.0.1:17102 --listen 127.0.0.1:17110 &
    "$tessera" router --model "$model" --replica 127.0.0.1:17110 --grpc 127.0.0.1:17120 --http 127.0.0.1:17121 &
    described "$model" || { tail -n 5 "$gpu"/rank-*.log; return 1; }
    row "two ranks on one GPU" "$(grep -aohm1 -E '(small|all) sums over ranks.*' "$gpu/rank-0.log" || echo "nobody says how sums go")"
    local begin; begin="$(date +%s.%N)"
    kill -9 "$killed"
    described "$model" || { tail -n 5 "$gpu"/rank-*.log; return 1; }
    row "killed rank: until the next whole answer" "$(awk -v a="$begin" -v b="$(date +%s.%N)" 'BEGIN { printf "%.1f s", b - a }')"
}

# Asks until somebody answers, since roles start in any order; the answer must be the reference's.
described() {
    local answer="" until=$((SECONDS + 14))
    while [ $SECONDS -lt $until ]; do
        answer="$(timeout 12 "$tessera" chat --endpoint http://127.0.0.1:17120 --image "$1/pictures/00-describe-0.png" 'What do you see?' 2>/dev/null)" && break
        sleep 0.2
    done
    echo "answer: $answer"
    [[ "$answer" == *"purple cross, red square"* ]]
}

limits() {
    python3 tests/gpu/peer.py limits | tee "$gpu/limits.log" && while read -r name value unit; do row "limit: $name" "$value $unit"; done < "$gpu/limits.log"
}

speed() { speed_of none; }
speed8() { speed_of fp8; }
contexts() { long_contexts auto && long_contexts fp8; }

# The 12B shape with made-up weights: decode, prefill, and an image, each beside its floor. TESSERA_SPEED_DEVICE=sim:h100 tries the
# script where there is no GPU.
speed_of() {
    local quantization="$1" floors="$gpu/floors-$1.json" begin streams whose up
    whose="$(accelerator)" || return 1
    "$tessera" bench --roofline --device "$whose" --quantization "$quantization" --json > "$floors" || return 1
    begin="$(date +%s.%N)"
    start "$quantization" || return 1
    row "$quantization: started" "$(awk -v a="$begin" -v b="$(date +%s.%N)" 'BEGIN { printf "%.1f s", b - a }'), $(grep -ao '[0-9.]* GB/s' "$gpu/up-$quantization.log" | head -1)"
    for streams in 1 8 32 64; do decode "$quantization" "$streams" "$quantization: decode" || return 1; done
    load "$quantization-prefill" 1 4 4096 --output-tokens 1 || return 1
    first "$quantization-prefill" "$quantization: first token of 4k tokens" "$(floor "$floors" prefill tokens 4096)"
    load "$quantization-image" 1 4 128 --output-tokens 1 --images 1 --image-size 1024x1024 || return 1
    first "$quantization-image" "$quantization: first token of a 1024 x 1024 image, 128 tokens" "$(floor "$floors" first_token patches 4096)"
    kill "$up"; wait "$up"
    # What it is worth that a kernel begins while the one ahead of it ends.
    start "$quantization" --no-cuda-overlap || return 1
    decode "$quantization" 1 "$quantization: decode, kernels apart" || return 1
    kill "$up"; wait "$up"
}

# start QUANTIZATION OPTION..: serves; `up` is the process.
start() {
    local log="$gpu/up-$1.log"
    # What an earlier process said is not for this one.
    rm -f "$log"
    "$tessera" up --device "${TESSERA_SPEED_DEVICE:-cuda}" --quantization "$1" "${@:2}" --model pixtral-12b --load-format dummy --grpc 127.0.0.1:17220 --http 127.0.0.1:17221 > "$log" 2>&1 &
    up=$!
    until grep -qs "^ready " "$log"; do
        kill -0 "$up" 2>/dev/null || { tail -5 "$log"; return 1; }
        sleep 0.1
    done
}

# decode QUANTIZATION STREAMS WHAT: next tokens behind 1k of each stream, beside `whose` floor in `floors`.
decode() {
    # Twice, with other prompts: passes are recorded when they come the second time.
    load "$1-warm" "$2" "$2" 1024 --output-tokens 24 || return 1
    load "$1-$2" "$2" "$2" 1024 --output-tokens 96 || return 1
    local report="$gpu/bench-$1-$2.json" step
    step="$(field "$report" inter_token_ms)"
    row "$3, $2 streams at 1k" "$(field "$report" generated_tokens_per_second) tokens/s in all; a step $step ms, $whose floor/step $(over "$(floor "$floors" decode batch "$2")" "$step")"
}

# Decode of 8 streams at 32k tokens over weights in fp8 and a cache as said.
long_contexts() {
    local cache="$1" floors="$gpu/floors-cache-$1.json" whose up
    whose="$(accelerator)" || return 1
    "$tessera" bench --roofline --device "$whose" --quantization fp8 --kv-cache-dtype "$cache" --json > "$floors" || return 1
    start fp8 --kv-cache-dtype "$cache" || return 1
    load "cache-$cache-warm" 8 8 1024 --output-tokens 24 && load "cache-$cache" 8 8 32640 --output-tokens 128 || return 1
    local step; step="$(field "$gpu/bench-cache-$cache.json" inter_token_ms)"
    row "fp8, cache $cache: decode, 8 streams at 32k" "a step $step ms, $whose floor/step $(over "$(floor "$floors" decode batch 8 context 32768)" "$step")"
    kill "$up"; wait "$up"
}

# Whose floors: the sim device's, or those of the GPU here. Others than these have none.
accelerator() {
    local name="${TESSERA_SPEED_DEVICE:-$(nvidia-smi --query-gpu=name --format=csv,noheader | head -1)}" known
    for known in a100 h100 h200; do
        [[ "${name,,}" != *"$known"* ]] || { echo "$known"; return; }
    done
    echo "no floors are known of $name" >&2
    return 1
}

# floor FLOORS STEP NAME VALUE ..: milliseconds of the first step that has these values.
floor() {
    python3 -c 'import json, sys
floors, step, *pairs = sys.argv[1:]
wanted = {name: int(value) for name, value in zip(pairs[::2], pairs[1::2])}
print(next(s["ms"] for s in json.load(open(floors))["steps"] if s["step"] == step and all(s[name] == value for name, value in wanted.items())))' "$@"
}

# first NAME WHAT FLOOR: the time to the first token, beside its floor.
first() {
    local took; took="$(field "$gpu/bench-$1.json" time_to_first_token_ms)"
    row "$2" "$took ms, floor/this $(over "$3" "$took")"
}

seed=0
# load NAME STREAMS REQUESTS PROMPT OPTION..: prompts are others every time, since what was computed is not computed again.
load() {
    local name="$1" streams="$2" requests="$3" prompt="$4"; shift 4
    seed=$((seed + 1))
    "$tessera" bench --endpoint http://127.0.0.1:17220 --json --seed "$seed" --concurrency "$streams" --requests "$requests" --prompt-tokens "$prompt" "$@" > "$gpu/bench-$name.json"
}

peer() {
    python3 tests/gpu/peer.py decoder | tee "$gpu/peer.log" && while read -r name value unit; do row "transformers: $name" "$value $unit"; done < "$gpu/peer.log"
}

# What the head of this file allows a phase.
seconds_of() { sed -n "s/^# .*[ ,]$1 (\([0-9]*\)).*/\1/p" "$0" | head -1; }

run() {
    [ -d "$gpu" ] || { echo "no $gpu: run tests/gpu.sh pack first" >&2; exit 1; }
    # The tests' programs look for fixtures where they were built.
    local root; root="$(cat "$gpu/root")"
    [ -e "$root" ] || { mkdir -p "$(dirname "$root")" && ln -s "$PWD" "$root"; }
    libraries
    [ $# -gt 0 ] || set -- versions kernels cluster nccl limits speed speed8
    printf '%s\n' "$(date -u +%F)" > "$gpu/table.md"
    local name begin failed=0
    for name in "$@"; do
        begin=$SECONDS
        # In a process group of its own, which ends as a whole.
        if timeout --kill-after 5 "$(seconds_of "$name")" "$0" phase "$name"; then
            row "phase $name" "passed in $((SECONDS - begin)) s"
        else
            row "phase $name" "FAILED after $((SECONDS - begin)) s"
            failed=1
        fi
    done
    printf '\n'; cat "$gpu/table.md"
    exit "$failed"
}

case "${1:-}" in
    pack) pack ;;
    run) shift; run "$@" ;;
    phase) trap 'kill -9 $(jobs -p) 2>/dev/null' EXIT; "$2" ;;
    *) sed -n '2,9p' "$0" | cut -c3-; exit 2 ;;
esac
