#!/usr/bin/env bash
# Every test of the workspace. Needs a Rust toolchain and a C compiler, and nothing else.
set -euo pipefail
cd "$(dirname "$0")/.."
cargo test --workspace --all-features "$@"
