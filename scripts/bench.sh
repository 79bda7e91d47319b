#!/usr/bin/env bash
# Measures a node on this machine with `ltq bench` and prints the table of BENCHMARKS.md: one fresh
# node per row, on a data directory of its own, the load generator beside it.
#
#   scripts/bench.sh            every row
#   scripts/bench.sh NAME ...   some of them
set -euo pipefail
cd "$(dirname "$0")/.."
cargo build --release -q -p ltq-node -p ltq-benches
bin=$PWD/target/release
scratch=$(mktemp -d)
node=
stop_node() {
    [ -z "$node" ] || { kill -TERM "$node" && wait "$node" || true; node=; }
}
trap 'stop_node; rm -rf "$scratch"' EXIT

start_node() { # more flags of ltq-node
    stop_node
    rm -rf "$scratch/data"
    "$bin/ltq-node" --data-dir "$scratch/data" --listen tcp://127.0.0.1:7450 --http off "$@" \
        >"$scratch/node.log" 2>&1 &
    node=$!
    for _ in $(seq 200); do
        grep -q 7450 "$scratch/node.log" && return
        sleep 0.05
    done
    cat "$scratch/node.log" >&2
    return 1
}

bench() { # name, flags of ltq bench
    local name=$1
    shift
    printf '\n## %s\nltq bench %s\n' "$name" "$*"
    "$bin/ltq" --server tcp://127.0.0.1:7450 bench "$@" --server-pid "$node"
}

wanted() { [ ${#only[@]} -eq 0 ] || printf '%s\n' "${only[@]}" | grep -qx "$1"; }
only=("$@")

row() { # name, durability, flags of ltq bench
    local name=$1 durability=$2
    shift 2
    wanted "$name" || return 0
    start_node --durability "$durability"
    bench "$name" "$@"
}

row pub-memory memory pub --count 20000000 --batch 200 --in-flight 10000
row pub-disk disk pub --count 20000000 --batch 200 --in-flight 10000
row one-by-one-disk disk pub --count 3000000 --batch 1 --in-flight 1000
row wait-64-disk disk pub --count 400000 --batch 1 --producers 64 --wait-each --size 1024
row wait-1-os os pub --count 200000 --batch 1 --wait-each --size 1024
row wait-1-disk disk pub --count 30000 --batch 1 --wait-each --size 1024
row drain disk sub --count 1000000 --in-flight 1000
row e2e-disk disk e2e --count 10000000 --batch 200
row fanout-disk disk fanout --count 5000000 --batch 200 --channels 5
row latency-memory memory latency --rate 5000 --duration 15s
row latency-disk disk latency --rate 5000 --duration 15s
if wanted bare; then
    for mode in pub sub; do
        printf '\n## bare %s\n' "$mode"
        "$bin/bare" "$mode" --size 100 --batch 200
    done
fi
