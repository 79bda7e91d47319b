#!/usr/bin/env bash
# Every test of the workspace. Needs a Rust toolchain and a C++ compiler; libclang it installs with
# apt-get where it is missing. The first run on a machine compiles RocksDB, a quarter of an hour on two
# cores. FEATURES= leaves RocksDB, and what it needs, out.
set -euo pipefail
cd "$(dirname "$0")/.."
if [ "${FEATURES---all-features}" = --all-features ]; then
    exports=$(scripts/rocksdb-lib.sh)
    eval "$exports"
fi
# shellcheck disable=SC2086
cargo test --workspace ${FEATURES---all-features} "$@"
