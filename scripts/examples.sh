#!/usr/bin/env bash
# Runs every example to its end; each fails by itself when what it shows is not so.
set -euo pipefail
cd "$(dirname "$0")/.."
# The time is for running them.
cargo build --quiet -p ltq-examples --examples
for example in hello embedded custom_broker work_queue secure simulated pipes mesh cluster; do
    printf -- '-- %s\n' "$example"
    timeout 120 cargo run --quiet -p ltq-examples --example "$example"
done

# A crate outside of the workspace, as any other is. It takes the versions that the rest is tested
# with, and the target directory, so that they are not compiled again.
printf -- '-- third_party_store\n'
cp Cargo.lock examples/third_party_store/Cargo.lock
outside=(--quiet --manifest-path examples/third_party_store/Cargo.toml)
target=(--target-dir "${CARGO_TARGET_DIR:-target}")
cargo fmt "${outside[@]}" --check
cargo clippy "${outside[@]}" "${target[@]}" --all-targets -- -D warnings
cargo test "${outside[@]}" "${target[@]}"
