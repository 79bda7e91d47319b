#!/usr/bin/env bash
# Sees to it that there is an etcd for the tests of discovery by it, and says on standard output what to export
# so that they fail without one:
#
#   eval "$(scripts/etcd.sh)"
#   cargo test -p ltq-discovery --features etcd,conformance --test etcd
#
# The tests start it themselves, on free ports and in a folder of their own. On Debian and its kin this script
# installs it with apt-get where it is missing, as root or with sudo, and says so.
set -euo pipefail

say() { printf 'etcd: %s\n' "$*" >&2; }

install() {
    local as=()
    if [ "$(id -u)" != 0 ]; then
        if ! command -v sudo >/dev/null || ! sudo -n true 2>/dev/null; then
            say "etcd is missing, and this is neither root nor a user with sudo: install etcd-server"
            return 1
        fi
        as=(sudo)
    fi
    if ! command -v apt-get >/dev/null; then
        say "etcd is missing, and there is no apt-get: install it by your system's own means"
        return 1
    fi
    say "etcd is missing: installing it with apt-get"
    "${as[@]}" apt-get update -q >&2
    "${as[@]}" env DEBIAN_FRONTEND=noninteractive \
        apt-get install -q -y --no-install-recommends etcd-server >&2
}

command -v etcd >/dev/null || install
printf 'export REQUIRE_ETCD=1\n'
