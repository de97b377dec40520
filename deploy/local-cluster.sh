#!/usr/bin/env bash
# The cluster of compose/ as plain processes of this machine: 3 etcd, 2 replicas of tp 2 with a spare worker and a spare
# coordinator, 2 routers. Prints addresses and process ids, so that you can kill what you like; Ctrl-C stops everything.
# usage: deploy/local-cluster.sh [--model DIR] [--logs DIR] [--no-build]
set -euo pipefail
cd "$(dirname "$0")/.."

model=tests/fixtures/shapes logs="" build=yes
while [ $# -gt 0 ]; do
    case "$1" in
        --model) model=$2; shift 2 ;;
        --logs) logs=$2; shift 2 ;;
        --no-build) build=no; shift ;;
        *) sed -n 2,4p "$0" >&2; exit 2 ;;
    esac
done

. deploy/prerequisites.sh
need etcd etcd-server curl curl
if [ "$build" = yes ]; then
    need_to_build
    cargo build --release --locked --quiet --package tessera-launcher
fi
tessera=${TESSERA_BIN:-target/release/tessera}
[ -x "$tessera" ] || { echo "There is no $tessera; leave --no-build out." >&2; exit 1; }

for port in 23711 23712 23713 23811 23812 23813 720{1..5} 710{1..3} 7070 7170 8080 8180; do
    if (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null; then
        echo "Port $port is taken; is another cluster running?" >&2
        exit 1
    fi
done

data=$(mktemp -d "${TMPDIR:-/tmp}/tessera-cluster.XXXXXX")
logs=${logs:-$data/logs}
mkdir -p "$logs"

declare -A name_of    # by process id
roles=() members=()   # process ids: Tessera's, and etcd's, which outlive them

start() { # LIST NAME COMMAND...
    local -n list=$1
    local name=$2
    shift 2
    # A session of its own: Ctrl-C in the terminal reaches this script alone, which then stops all in order.
    setsid "$@" >"$logs/$name.log" 2>&1 </dev/null &
    list+=($!)
    name_of[$!]=$name
    printf '  %-14s pid %-8s %s\n' "$name" $! "$(last_address "$@")"
}

last_address() { # the addresses among a command's arguments
    local word
    for word in "$@"; do
        case "$word" in 127.0.0.1:* | http://127.0.0.1:*) printf '%s ' "${word#http://}" ;; esac
    done
}

end() { # SECONDS PID...: asks, waits, and insists
    local deadline=$((SECONDS + $1)) pid
    shift
    for pid in "$@"; do kill -TERM "$pid" 2>/dev/null || true; done
    for pid in "$@"; do
        while kill -0 "$pid" 2>/dev/null; do
            if [ $SECONDS -ge $deadline ]; then
                echo "  ${name_of[$pid]} did not stop in time and is killed" >&2
                # Stopped ones (SIGSTOP) end only this way.
                kill -KILL "$pid" 2>/dev/null || true
                break
            fi
            sleep 0.1
        done
    done
}

stop_all() {
    trap - EXIT
    trap '' INT TERM
    echo "stopping ..."
    end 10 "${roles[@]}"
    # Their data goes with them, and a last member would wait long for its peers.
    kill -KILL "${members[@]}" 2>/dev/null || true
    wait 2>/dev/null
    # Logs of a start that failed stay, and so do those that were asked for elsewhere.
    if [ "${failed:-no}" = yes ]; then echo "logs: $logs"; else rm -rf "$data"; fi
}
trap stop_all EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

peers="" endpoints=""
for i in 1 2 3; do
    peers+="${peers:+,}etcd-$i=http://127.0.0.1:2381$i"
    endpoints+="${endpoints:+,}127.0.0.1:2371$i"
done
export TESSERA_REGISTRY=etcd://$endpoints TESSERA_MODEL=$model TESSERA_TP=2 TESSERA_THREADS=1
export TESSERA_DRAIN_TIMEOUT=${TESSERA_DRAIN_TIMEOUT:-5}

echo "logs: $logs"
for i in 1 2 3; do
    start members "etcd-$i" etcd --name "etcd-$i" --data-dir "$data/etcd-$i" --log-level warn \
        --listen-client-urls "http://127.0.0.1:2371$i" --advertise-client-urls "http://127.0.0.1:2371$i" \
        --listen-peer-urls "http://127.0.0.1:2381$i" --initial-advertise-peer-urls "http://127.0.0.1:2381$i" \
        --initial-cluster "$peers" --initial-cluster-token "tessera-$$" \
        --heartbeat-interval 50 --election-timeout 300 --grpc-keepalive-min-time 500ms
done
for i in 1 2 3 4 5; do
    start roles "worker-$i" "$tessera" shard-worker --id "worker-$i" --listen "127.0.0.1:720$i" --status "127.0.0.1:920$i"
done
for i in 1 2 3; do
    start roles "coordinator-$i" "$tessera" coordinator --id "coordinator-$i" --listen "127.0.0.1:710$i" --status "127.0.0.1:910$i"
done
start roles router-1 "$tessera" router --grpc 127.0.0.1:7070 --http 127.0.0.1:8080
start roles router-2 "$tessera" router --grpc 127.0.0.1:7170 --http 127.0.0.1:8180

# Healthy: at least one replica is ready.
deadline=$((SECONDS + 60))
for http in 8080 8180; do
    until curl -sf --max-time 2 "http://127.0.0.1:$http/health" >/dev/null; do
        if [ $SECONDS -ge $deadline ]; then
            echo "The cluster was not ready within 60 s." >&2
            failed=yes
            exit 1
        fi
        sleep 0.2
    done
done
echo "ready grpc=http://127.0.0.1:7070,http://127.0.0.1:7170 http=http://127.0.0.1:8080,http://127.0.0.1:8180"
echo "  $tessera status --registry $TESSERA_REGISTRY"
echo "  $tessera chat --image tests/fixtures/shapes/pictures/00-describe-0.png 'What do you see?'"

# Says what ends, and leaves it at that: the rest is to go on without it.
while :; do
    ended="" code=0
    wait -n -p ended 2>/dev/null || code=$?
    [ -n "${ended:-}" ] || exit 0
    echo "${name_of[$ended]} ended ($code)"
done
