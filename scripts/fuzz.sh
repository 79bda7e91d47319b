#!/usr/bin/env bash
# Runs a target of the package ltq-fuzz under libFuzzer, which keeps changing the inputs of the corpus
# and sees which of them reach code that no other did:
#
#   scripts/fuzz.sh serve 600                # for ten minutes
#   scripts/fuzz.sh serve 600 -jobs=2        # anything more is libFuzzer's
#
# Needs a C++ compiler, and no other toolchain than the one that builds LTQ. What it finds worth keeping
# goes to target/fuzz/corpus/TARGET/, and inputs that fail to fuzz/artifacts/: put those that do into
# fuzz/corpus/TARGET/, where the tests run them ever after.
set -euo pipefail
cd "$(dirname "$0")/.."
target=${1:?one of: decode hello serve config}
seconds=${2:-60}
shift; [ $# -gt 0 ] && shift
corpus=fuzz/corpus/$target
[ -d "$corpus" ] || { echo "there is no target $target" >&2; exit 2; }
built=${CARGO_TARGET_DIR:-target}/fuzz

# The versions that the rest is tested with.
cp Cargo.lock fuzz/libfuzzer/Cargo.lock
# What libFuzzer wants to see: counters at every edge, and the values that are compared.
flags="-Cpasses=sancov-module -Ccodegen-units=1 --cfg=fuzzing"
for arg in -sanitizer-coverage-level=4 -sanitizer-coverage-inline-8bit-counters \
    -sanitizer-coverage-pc-table -sanitizer-coverage-trace-compares; do
    flags+=" -Cllvm-args=$arg"
done
features=(); [ "$target" = config ] && features=(--features config)
# Named, so that build scripts and macros are compiled without them.
host=$(rustc -vV | sed -n 's/^host: //p')
RUSTFLAGS="$flags" cargo build --release --quiet --manifest-path fuzz/libfuzzer/Cargo.toml \
    --target "$host" --target-dir "$built" "${features[@]}"

found=$built/corpus/$target
mkdir -p "$found" fuzz/artifacts
LTQ_FUZZ_TARGET=$target "$built/$host/release/ltq-libfuzzer" "$found" "$corpus" \
    -max_total_time="$seconds" -max_len=4096 -artifact_prefix="fuzz/artifacts/$target-" \
    -print_final_stats=1 "$@"
