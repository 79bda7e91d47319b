#!/usr/bin/env bash
# Proves that the simulator finds bugs: puts each patch of seeded-bugs/ into a copy of the sources, and
# plays seeds until one is broken. Fails if none is, or if a patch does not apply or build.
#
#   scripts/seeded-bugs.sh                    all of them
#   scripts/seeded-bugs.sh NAME...            those, by the patches' names without .patch
#   scripts/seeded-bugs.sh --some N --day D   N of them; other ones the next day, until all had their turn
#
# Those of a name that begins with cluster- are for the simulation of whole clusters.
#
# Needs a Rust toolchain and git. The copy and what is built of it stay under target/seeded-bugs.
set -euo pipefail
cd "$(dirname "$0")/.."

seeds_max=1000        # until one of these is broken
clean_seeds=30        # that must not be broken without a bug
cluster_seeds_max=200 # the same of clusters, which take longer
cluster_clean_seeds=10
play_max=600   # seconds
sim=(-p ltq-sim --bin ltq-sim)

names=() some=0 day=0
while [ $# -gt 0 ]; do
    case $1 in
        --some) some=$2; shift 2 ;;
        --day) day=$2; shift 2 ;;
        -*) sed -n '2,/^set/{/^#/p}' "$0" >&2; exit 2 ;;
        *) names+=("$1"); shift ;;
    esac
done
if [ ${#names[@]} -eq 0 ]; then
    for patch in seeded-bugs/*.patch; do names+=("$(basename "$patch" .patch)"); done
fi
if [ "$some" -gt 0 ]; then
    chosen=()
    for ((at = 0; at < some && at < ${#names[@]}; at++)); do
        # Days are written with leading zeros.
        chosen+=("${names[(10#$day * some + at) % ${#names[@]}]}")
    done
    names=("${chosen[@]}")
fi

bugs=$PWD/seeded-bugs
mkdir -p "${CARGO_TARGET_DIR:-target}/seeded-bugs"
dir=$(cd "${CARGO_TARGET_DIR:-target}/seeded-bugs" && pwd)
tree=$dir/tree
export CARGO_TARGET_DIR=$dir/build
# The copy lies in the repository's directory and is no part of it.
export GIT_CEILING_DIRECTORIES=$dir

# Files that are the same stay as they are, with their times, so that cargo builds what differs and no more.
mkdir -p "$tree"
git ls-files -z | while IFS= read -r -d '' file; do
    if [ -f "$file" ]; then
        printf '%s\0' "$file"
    fi
done | sort -z > "$dir/files"
while IFS= read -r -d '' file; do
    if ! cmp -s "$file" "$tree/$file"; then
        mkdir -p "$(dirname "$tree/$file")"
        cp "$file" "$tree/$file"
    fi
done < "$dir/files"
(cd "$tree" && find . -type f -printf '%P\0') | sort -z | comm -z -13 "$dir/files" - |
    while IFS= read -r -d '' file; do rm "$tree/$file"; done

build() {
    (cd "$tree" && cargo build --quiet --locked "${sim[@]}") > "$dir/log" 2>&1
}

# Plays seeds, of one node or of a cluster, until one is broken; what became of it is in the log.
play() {
    local status=0 which=(--from 1 --count "$1")
    if [ "$2" = cluster ]; then which=(cluster --seeds "1..$(($1 + 1))"); fi
    timeout "$play_max" "$CARGO_TARGET_DIR/debug/ltq-sim" "${which[@]}" --until-broken --no-shrink \
        > "$dir/log" 2>&1 || status=$?
    return "$status"
}

row() { printf '%-36s %-8s %-7s %s\n' "$@"; }

row "bug" "seed" "seconds" "found by"
began=$SECONDS
if ! build; then
    cat "$dir/log" >&2
    exit 1
fi
if ! play "$clean_seeds" node || ! play "$cluster_clean_seeds" cluster; then
    row "(none)" "-" $((SECONDS - began)) "FAILED: a seed is broken without any bug"
    cat "$dir/log" >&2
    exit 1
fi
row "(none)" "-" $((SECONDS - began)) "nothing, in $clean_seeds seeds, and $cluster_clean_seeds of clusters"

failed=0
for name in "${names[@]}"; do
    patch=$bugs/$name.patch
    began=$SECONDS seed=- found= kind=node most=$seeds_max
    case $name in cluster-*) kind=cluster most=$cluster_seeds_max ;; esac
    if ! (cd "$tree" && git apply "$patch") 2> "$dir/log"; then
        row "$name" - 0 "FAILED: the patch does not apply"
        cat "$dir/log" >&2
        failed=$((failed + 1))
        continue
    fi
    if build; then
        status=0
        play "$most" "$kind" || status=$?
        case $status in
            0) ;;
            1)
                seed=$(sed -n 's/^seed \([0-9]*\): .*/\1/p' "$dir/log" | head -n 1)
                found=$(sed -n '/^seed /{n;s/^ *//;s/: .*//;p;q}' "$dir/log")
                ;;
            124) found="FAILED: not done after $play_max s"; failed=$((failed + 1)) ;;
            *) found="FAILED: the simulator ended with $status"; failed=$((failed + 1)) ;;
        esac
    else
        cat "$dir/log" >&2
        found="FAILED: it does not build"
        failed=$((failed + 1))
    fi
    (cd "$tree" && git apply --reverse "$patch")
    if [ -z "$found" ]; then
        found="FAILED: nothing, in $most seeds"
        failed=$((failed + 1))
    fi
    row "$name" "$seed" $((SECONDS - began)) "$found"
done
if [ "$failed" -gt 0 ]; then
    echo "$failed of ${#names[@]} bugs were not found" >&2
    exit 1
fi
