#!/usr/bin/env bash
# Format, lints, documentation, tests, examples, the README's commands and some seeded bugs: what CI runs.
# Needs a Rust toolchain and a C++ compiler; libclang, etcd and libfaketime it installs with apt-get where they are
# missing.
set -euo pipefail
cd "$(dirname "$0")/.."

# A clean checkout is built once: what incremental builds keep would only double what this needs of the disk.
export CARGO_INCREMENTAL=0

step() { printf '\n== %s\n' "$*"; }

step "format"
cargo fmt --all --check

# Once for all that follows: lints, documentation and tests take it from there.
step "the RocksDB library"
exports=$(scripts/rocksdb-lib.sh)
eval "$exports"

step "lints"
cargo clippy --workspace --all-targets --all-features -- -D warnings

step "documentation"
RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps --all-features

step "examples"
scripts/examples.sh

step "the README's commands"
scripts/readme.sh

step "tests"
scripts/test.sh

step "three of the bugs that the simulator must find"
scripts/seeded-bugs.sh --some 3 --day "$(date +%j)"
