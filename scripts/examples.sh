#!/usr/bin/env bash
# Runs every example to its end; each fails by itself when what it shows is not so.
set -euo pipefail
cd "$(dirname "$0")/.."
for example in hello embedded custom_broker work_queue; do
    printf -- '-- %s\n' "$example"
    timeout 120 cargo run --quiet -p ltq-examples --example "$example"
done
