#!/usr/bin/env bash
# Measures a node on this machine with `ltq bench` and prints the table of BENCHMARKS.md: one fresh
# node per row, on a data directory of its own, the load generator beside it.
#
#   scripts/bench.sh            every row
#   scripts/bench.sh NAME ...   some of them
#
# The rows named curve-... print a line for each point. What DIVIDE, BIN, STORE and SCRATCH do is said in
# scripts/bench-lib.sh. What the store makes of its device is measured by scripts/bench-store.sh.
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=scripts/bench-lib.sh
source scripts/bench-lib.sh

row pub-memory memory pub --count $(n 20000000) --batch 200 --in-flight 10000
row pub-disk disk pub --count $(n 20000000) --batch 200 --in-flight 10000
row one-by-one-disk disk pub --count $(n 3000000) --batch 1 --in-flight 1000
row wait-64-disk disk pub --count $(n 400000) --batch 1 --producers 64 --wait-each --size 1024
row wait-1-os os pub --count $(n 200000) --batch 1 --wait-each --size 1024
row wait-1-disk disk pub --count $(n 30000) --batch 1 --wait-each --size 1024
row drain disk sub --count $(n 1000000) --in-flight 1000
row e2e-disk disk e2e --count $(n 10000000) --batch 200
row fanout-disk disk fanout --count $(n 5000000) --batch 200 --channels 5
row latency-memory memory latency --rate 5000 --duration 15s
row latency-disk disk latency --rate 5000 --duration 15s
row latency-memory-spin memory latency --rate 5000 --duration 15s --spin
row latency-disk-spin disk latency --rate 5000 --duration 15s --spin
row wait-1-os-spin os pub --count $(n 200000) --batch 1 --wait-each --size 1024 --spin
if wanted curve-transports; then
    curve 'curve-transports (publishing and consuming at once, in memory)' transport
    # Each three times, in turns: what is compared has had the same hour.
    for _ in 1 2 3; do
        for scheme in tcp tls quic; do
            serve_by "$scheme"
            flags=(--durability memory)
            [ "$scheme" = tcp ] || flags+=(--dev-tls)
            start_node "${flags[@]}"
            point "$scheme" e2e --count $(n 5000000) --batch 200
        done
    done
    serve_by tcp
fi
if wanted curve-topics; then
    curve curve-topics topics
    for topics in 1 10 100 1000; do
        start_node --durability disk
        # One connection; what all producers together may have unconfirmed stays about the same.
        window=$((10000 / topics > 400 ? 10000 / topics : 400))
        point "$topics" pub --topics "$topics" --count $(n 10000000) --in-flight "$window"
    done
fi
if wanted curve-channels; then
    curve curve-channels channels
    for channels in 1 10 100; do
        start_node --durability disk
        # As many deliveries each time.
        point "$channels" fanout --channels "$channels" --count $(n $((10000000 / channels)))
    done
fi
if wanted curve-connections; then
    for side in producers consumers; do
        curve "curve-connections ($side)" "$side"
        for connections in 1 100 5000; do
            start_node --durability disk
            mode=pub
            [ "$side" = producers ] || mode=e2e
            point "$connections" "$mode" --"$side" "$connections" --count $(n 5000000) \
                --batch 20 --in-flight 200 --warmup 0s
        done
    done
fi
if wanted curve-backlog; then
    curve "curve-backlog (publishing and consuming at once on top of it)" backlog
    for backlog in 10000 20000000; do
        start_node --durability disk
        ltq channel create backlog keeper >/dev/null
        ltq bench pub --topic backlog --count $(n "$backlog") --warmup 0s >/dev/null
        point "$backlog" e2e --topic backlog --count $(n 5000000)
    done
    curve "curve-backlog (draining it)" backlog
    for backlog in 1000000 20000000; do
        start_node --durability disk
        ltq channel create backlog keeper >/dev/null
        ltq bench pub --topic backlog --count $(n "$backlog") --warmup 0s >/dev/null
        point "$backlog" sub --topic backlog --prefilled
    done
fi
if wanted idle-topics; then
    curve "idle-topics (each published to once)" topics
    start_node --durability disk
    topics=$(n 10000)
    point "$topics" pub --topic idle --topics "$topics" --count "$topics" --batch 1 --producers 4 \
        --in-flight 1 --warmup 0s
fi
if wanted restart-10g; then
    printf '\n## restart-10g\n'
    start_node --durability disk
    ltq channel create backlog keeper >/dev/null
    ltq bench pub --topic backlog --size 1000 --count $(n 10000000) --warmup 0s >/dev/null
    kill -KILL "$node" && wait "$node" 2>/dev/null || true
    node=
    du -sh "$scratch/data" | awk '{ print "after a kill, with a data directory of " $1 ":" }'
    began=$(date +%s%N)
    run_node --durability disk
    awk -v began="$began" -v ended="$(date +%s%N)" \
        'BEGIN { printf "ready in %.3f s\n", (ended - began) / 1e9 }'
    ltq topic show backlog
fi
if wanted bare; then
    for mode in pub sub; do
        printf '\n## bare %s\n' "$mode"
        "$bin/bare" "$mode" --size 100 --batch 200
    done
    # One round trip at a time; from 64 connections at once; each with a sync of its own.
    (
        cd "$scratch"
        for flags in "--count 100000" "--count 400000 --connections 64" "--count 20000 --sync"; do
            printf '\n## bare wait --size 1024 %s\n' "$flags"
            # shellcheck disable=SC2086
            "$bin/bare" wait --size 1024 $flags
        done
    )
fi
