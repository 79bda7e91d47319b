#!/usr/bin/env bash
# Measures what the store of a node makes of its device, beside the device itself: the rows of the
# chapter "The store and its device" of BENCHMARKS.md.
#
#   scripts/bench-store.sh            every row
#   scripts/bench-store.sh NAME ...   some of them
#
# What DIVIDE, BIN, STORE and SCRATCH do is said in scripts/bench-lib.sh. 30 GB must be free for backlog-10g.
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=scripts/bench-lib.sh
source scripts/bench-lib.sh

# The device that the data directories are on, as the kernel counts it (Documentation/block/stat.rst):
# sectors of 512 bytes read and written, by whomever. What the server alone dirtied, /proc/PID/io, counts
# a whole folio, up to 1 MiB, for each message that is synced.
device=$(findmnt -n -o MAJ:MIN -T "$scratch" | tr -d ' ')
sectors() { awk '{ print $3, $7 }' "/sys/dev/block/$device/stat"; }

# What a device read and wrote since `sectors` was called, per byte of so many published.
traffic() { # sectors read and written before, bytes published
    sync "$scratch"
    echo "$1 $(sectors) $2" | awk '{
        read = ($3 - $1) * 512; written = ($4 - $2) * 512
        printf " device           %.0f MB read, %.0f MB written, %.3f per byte published\n",
            read / 1e6, written / 1e6, written / $5
    }'
}

milliseconds() { echo "$(n "$1")ms"; }

if wanted device; then
    printf '\n## device\n'
    "$bin/ltq" bench device --dir "$scratch" --size 1024 --file-bytes "$(n 4294967296)" --duration 5s
fi

# Large messages, as fast as they are confirmed, to one topic and to a thousand.
row large disk pub --size 16KiB --batch 8 --in-flight 4000 --count $(n 400000)
row large-1000 disk pub --size 16KiB --batch 8 --in-flight 8 --topics 1000 --count $(n 400000)
# One sync serves all that wait.
row wait-64 disk pub --count $(n 400000) --batch 1 --producers 64 --wait-each --size 1024
row wait-1 disk pub --count $(n 30000) --batch 1 --wait-each --size 1024
# Consumers that keep up: what is written for each byte, and whether anything is read.
keep_up() { # name, size of a body, messages
    wanted "$1" || return 0
    start_node --durability disk
    local before
    # Until every file of the journal has been written once: from then on they are used again.
    ltq bench e2e --size 1000 --rate 50000 --warmup 0s --duration "$(milliseconds 8000)" >/dev/null
    sync "$scratch"
    before=$(sectors)
    bench "$1" e2e --size "$2" --in-flight 2000 --warmup 0s --count "$3"
    traffic "$before" $(($2 * $3))
}
keep_up keep-up 1000 "$(n 3000000)"
keep_up keep-up-100 100 "$(n 10000000)"
keep_up keep-up-16k 16384 "$(n 300000)"

# Latency while nothing of this happens, and while there are a few of each a second: checkpoints, rolled
# segments, truncations. The load is the same; the store's own limits make the difference.
maintenance() { # name, size of the tail, of the journal, of a segment
    wanted "$1" || return 0
    LTQ_FILE_STORE_TAIL_BYTES=$2 LTQ_FILE_STORE_JOURNAL_BYTES_MAX=$3 \
        LTQ_FILE_STORE_SEGMENT_BYTES=$4 LTQ_LIMITS_FRAME_BYTES_MAX=2MiB start_node --durability disk
    ltq topic create filler --keep all --bytes-max 64MiB >/dev/null
    ltq bench pub --topic filler --size 1000 --batch 20 --rate 20000 --warmup 0s \
        --duration "$(milliseconds 36000)" >/dev/null &
    local filler=$!
    bench "$1" latency --rate 2000 --size 1000 --duration "$(milliseconds 30000)"
    wait "$filler"
}
maintenance maintenance-none 4GiB 16GiB 1GiB
maintenance maintenance-much 8MiB 16MiB 8MiB

# Gives up what the page cache holds of the data directory, so that to read it means the device.
forget() {
    sync "$scratch"
    find "$scratch/data" -type f -exec dd if={} of=/dev/null iflag=nocache count=0 status=none \;
}

read_all() { # channel
    local began kept
    kept=$(n 10000000)
    began=$(date +%s%N)
    ltq sub backlog "$1" --from earliest --count "$kept" >/dev/null
    awk -v began="$began" -v ended="$(date +%s%N)" -v kept="$kept" 'BEGIN {
        s = (ended - began) / 1e9
        printf "read from the beginning: %d messages in %.2f s, %.0f MB/s\n", kept, s, kept / 1000 / s
    }'
}

# A consumer that starts at the beginning of 10 GB, alone and beside a pair at the tail.
if wanted backlog-10g; then
    start_node --durability disk
    ltq channel create backlog keeper >/dev/null
    ltq bench pub --topic backlog --size 1000 --count "$(n 10000000)" --warmup 0s >/dev/null
    tail=(bench e2e --topic backlog --size 1000 --batch 20 --rate 10000 --warmup 0s)
    printf '\n## backlog-10g: the pair at the tail alone\n'
    ltq "${tail[@]}" --duration "$(milliseconds 10000)" --server-pid "$node"
    for beside in alone "beside the pair"; do
        stop_node
        forget
        run_node --durability disk
        printf '\n## backlog-10g: the reader %s\n' "$beside"
        pair=
        if [ "$beside" != alone ]; then
            ltq "${tail[@]}" --duration "$(milliseconds 15000)" --server-pid "$node" &
            pair=$!
        fi
        read_all "reader-${beside%% *}"
        [ -z "$pair" ] || wait "$pair"
    done
fi
