#!/usr/bin/env bash
# Every test of the workspace. Needs a Rust toolchain and a C++ compiler; libclang, etcd and libfaketime it installs
# with apt-get where they are missing. The first run on a machine compiles RocksDB, a quarter of an hour on two
# cores. FEATURES= leaves RocksDB and etcd, and what they need, out.
set -euo pipefail
cd "$(dirname "$0")/.."
if [ "${FEATURES---all-features}" = --all-features ]; then
    exports=$(scripts/rocksdb-lib.sh)
    eval "$exports"
    exports=$(scripts/etcd.sh)
    eval "$exports"
fi
exports=$(scripts/faketime.sh)
eval "$exports"
# All that fails is told, not the first alone.
# shellcheck disable=SC2086
cargo test --workspace --no-fail-fast ${FEATURES---all-features} "$@"
