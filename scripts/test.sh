#!/usr/bin/env bash
# Every test of the workspace. Needs a Rust toolchain and a C++ compiler; libclang, etcd and libfaketime it installs
# with apt-get where they are missing. The first run on a machine compiles RocksDB, a quarter of an hour on two
# cores. FEATURES= leaves RocksDB and etcd, and what they need, out. What this machine does not permit is told at the
# end, and what it does permit is not skipped: see scripts/permitted.sh.
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
exports=$(scripts/permitted.sh)
eval "$exports"
# What cannot be shown here is told again at the end, where it is seen.
skipped=
for required in "NAMESPACES torments of a cluster, and bad networks" "MOUNTS full and read-only devices, and files of hosts" \
    "DISKS a node's disk that refuses writes" "SOCKETS listeners whose sockets fail" \
    "FAKETIME steps of wall clocks"; do
    name=REQUIRE_${required%% *}
    [ -n "${!name-}" ] || skipped="$skipped
SKIPPED HERE: ${required#* }"
done
trap '[ -z "$skipped" ] || printf "%s\n" "$skipped" >&2' EXIT
# All that fails is told, not the first alone.
# shellcheck disable=SC2086
cargo test --workspace --no-fail-fast ${FEATURES---all-features} "$@"
