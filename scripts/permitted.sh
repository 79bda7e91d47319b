#!/usr/bin/env bash
# Finds out what the tests of the whole broker may do on this machine, and says on standard output what to export so
# that they fail, and are not skipped, where they cannot do it all the same:
#
#   eval "$(scripts/permitted.sh)"
#   cargo test -p ltq-tests
#
# What they may not do it says on standard error: those tests pass then, and show nothing.
set -euo pipefail

skip() { printf '\npermitted: SKIPPED HERE: %s\n\n' "$*" >&2; }

# Tried once more before it is given up: another test may be at work.
twice() { "$@" || "$@"; }

may_have_hosts() {
    local name="ltq-probe-$$"
    [ -c /dev/net/tun ] && ip netns add "$name" 2>/dev/null || return 1
    ip netns exec "$name" true && ip netns delete "$name"
}

may_mount() {
    local at done=1
    at=$(mktemp -d)
    if mount -t tmpfs -o size=1m tmpfs "$at" 2>/dev/null; then
        umount "$at" && done=0
    fi
    rmdir "$at"
    return "$done"
}

if [ "$(uname)" = Linux ] && twice may_have_hosts; then
    printf 'export REQUIRE_NAMESPACES=1\n'
else
    skip "torments of a cluster and bad networks: they take root, ip and network namespaces, on Linux"
fi
if twice may_mount; then
    printf 'export REQUIRE_MOUNTS=1\n'
else
    skip "full and read-only devices: they take the right to mount"
fi
