#!/usr/bin/env bash
# Runs the README's commands as written: the blocks marked `sh broker` in the background, those
# marked `sh run` one after another beside it. The commands run in a copy of the tree's checkout
# with a data directory of its own.
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
scratch=$(mktemp -d)
broker=
cleanup() {
    [ -z "$broker" ] || kill "$broker" 2>/dev/null || true
    rm -rf "$scratch"
}
trap cleanup EXIT

block() { awk -v mark="\`\`\`sh $1" '$0 == mark {on = 1; next} /^```/ {on = 0} on' "$root/README.md"; }

# The README says to run in the checkout; the data goes elsewhere, so that checking leaves nothing.
export LTQ_DATA_DIR="$scratch/ltq-data"
cd "$root"
cargo build --release -p ltq-node
bash -c "exec $(block broker)" >"$scratch/broker.log" 2>&1 &
broker=$!
for _ in $(seq 300); do
    if grep -q 'listens on' "$scratch/broker.log"; then break; fi
    kill -0 "$broker" 2>/dev/null || { cat "$scratch/broker.log"; exit 1; }
    sleep 0.1
done
grep 'listens on' "$scratch/broker.log"
block run | timeout 120 bash -euo pipefail | tee "$scratch/run.log"
# What the commands print, in their order: the message, the file of tokens, the message over QUIC, three nodes, and
# how many of a thousand lines came, each once.
expect() { grep -qE -- "$1" "$scratch/run.log" || { echo "the README's commands did not print: $1"; exit 1; }; }
expect '^hello, world$'
expect 'name = "waiter"'
expect 'name = "kitchen"'
expect '^nobody on the way reads this$'
for n in 1 2 3; do expect "n$n +.*ready +.*tcp://127.0.0.1:746$n"; done
expect '^ *1000$'
kill -TERM "$broker"
wait "$broker"
broker=
echo "the README's commands ran as written"
