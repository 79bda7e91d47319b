# shellcheck shell=bash
# What scripts/bench.sh and scripts/bench-store.sh share: building, starting and stopping a node, and
# printing rows. Sourced by them, from the root of the workspace, with the names of rows as arguments.
#
#   DIVIDE=1000     divides all counts by 1000, to see that the rows run: figures of so little work mean nothing
#   BIN=DIR         takes the binaries from there
#   STORE=rocksdb   measures a node on that store
#   SCRATCH=DIR     puts the data directories there, and so on another device

divide=${DIVIDE:-1}
bin=${BIN:-}
store=${STORE:-file}
if [ -z "$bin" ]; then
    features=
    if [ "$store" = rocksdb ]; then
        exports=$(scripts/rocksdb-lib.sh)
        eval "$exports"
        features='--features ltq-node/rocksdb'
    fi
    # shellcheck disable=SC2086
    cargo build --release -q -p ltq-node -p ltq-benches $features
    bin=${CARGO_TARGET_DIR:-$PWD/target}/release
fi
# Where the node listens, and what its clients need to know it.
address=tcp://127.0.0.1:7450
trust=()
scratch=$(mktemp -d ${SCRATCH:+-p "$SCRATCH"})
node=
stop_node() {
    [ -z "$node" ] || { kill -TERM "$node" && wait "$node" || true; node=; }
}
trap 'stop_node; rm -rf "$scratch"' EXIT

start_node() { # more flags of ltq-node
    stop_node
    rm -rf "$scratch/data"
    run_node "$@"
}

run_node() { # more flags of ltq-node; the data stays
    : >"$scratch/node.log"
    "$bin/ltq-node" --data-dir "$scratch/data" --listen "$address" --http off \
        --store "$store" "$@" \
        >"$scratch/node.log" 2>&1 &
    node=$!
    for _ in $(seq 2000); do
        grep -q 'listens on' "$scratch/node.log" && know_node && return
        kill -0 "$node" 2>/dev/null || break
        sleep 0.01
    done
    cat "$scratch/node.log" >&2
    return 1
}

serve_by() { # tcp, tls or quic: nodes that are started afterwards
    address=$1://127.0.0.1:7450
}

know_node() {
    trust=()
    [ "${address%%:*}" = tcp ] ||
        trust=(--tls-fingerprint "$(sed -n 's/.*--tls-fingerprint \(sha256:[0-9a-f]*\).*/\1/p' "$scratch/node.log" | head -1)")
}

bench() { # name, flags of ltq bench
    local name=$1
    shift
    printf '\n## %s\nltq bench %s\n' "$name" "$*"
    ltq bench "$@" --server-pid "$node"
}

wanted() { [ ${#only[@]} -eq 0 ] || printf '%s\n' "${only[@]}" | grep -qx "$1"; }
only=("$@")

ltq() { "$bin/ltq" --server "$address" "${trust[@]}" "$@"; }

# A count, divided.
n() { echo $(($1 / divide > 100 ? $1 / divide : 100)); }

curve() { # name, what a point is
    printf '\n## %s\n%12s %14s %16s %12s %22s\n' \
        "$1" "$2" messages/s 'per cpu second' 'cpu seconds' 'server memory, MiB'
}

point() { # name of the point, flags of ltq bench
    local at=$1 json
    shift
    json=$(ltq --timeout 60s --json bench "$@" --server-pid "$node")
    printf '%s\n' "$json" >>"${JSON:-/dev/null}"
    figure() { sed -n "s/.*\"$1\":\([0-9.eE+-]*\)[,}].*/\1/p" <<<"$json"; }
    awk -v at="$at" -v rate="$(figure messages_per_second)" -v cpu="$(figure server_cpu_seconds)" \
        -v per="$(figure messages_per_server_cpu_second)" \
        -v before="$(figure before)" -v after="$(figure after)" 'BEGIN {
            printf "%12s %14.0f %16.0f %12.2f %10.1f to %8.1f\n", at, rate, per, cpu,
                before / 1048576, after / 1048576
        }'
}

row() { # name, durability, flags of ltq bench
    local name=$1 durability=$2
    shift 2
    wanted "$name" || return 0
    start_node --durability "$durability"
    bench "$name" "$@"
}
