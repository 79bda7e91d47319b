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
        umount "$at" && unshare --mount true 2>/dev/null && done=0
    fi
    rmdir "$at"
    return "$done"
}

# Makes a disk of zram, and a file system on it.
may_make_disks() {
    local disk at done=1
    command -v mkfs.ext4 >/dev/null && command -v e2fsck >/dev/null || return 1
    disk=$(cat /sys/class/zram-control/hot_add 2>/dev/null) || return 1
    at=$(mktemp -d)
    if { echo 16M >"/sys/block/zram$disk/disksize"; } 2>/dev/null && mkfs.ext4 -q "/dev/zram$disk" 2>/dev/null &&
        mount -t ext4 "/dev/zram$disk" "$at" 2>/dev/null; then
        umount "$at" && done=0
    fi
    rmdir "$at"
    { echo "$disk" >/sys/class/zram-control/hot_remove; } 2>/dev/null || done=1
    return "$done"
}

# Takes a descriptor of a child: pidfd_open and pidfd_getfd, whose numbers are the same on every machine.
may_take_sockets() {
    perl -e 'open my $file, "<", "/dev/null" or exit 1;
        my $child = fork // exit 1;
        if (!$child) { sleep 60; exit }
        my $process = syscall 434, $child, 0;
        my $taken = $process < 0 ? -1 : syscall 438, $process, fileno $file, 0;
        kill 9, $child;
        exit($taken < 0 ? 1 : 0)' 2>/dev/null
}

if [ "$(uname)" = Linux ] && twice may_have_hosts; then
    printf 'export REQUIRE_NAMESPACES=1\n'
else
    skip "torments of a cluster and bad networks: they take root, ip and network namespaces, on Linux"
fi
may_mount=
if twice may_mount; then
    may_mount=1
    printf 'export REQUIRE_MOUNTS=1\n'
else
    skip "full and read-only devices, and files of hosts: they take the right to mount"
fi
if [ -n "$may_mount" ] && twice may_make_disks; then
    printf 'export REQUIRE_DISKS=1\n'
else
    skip "a node's disk that refuses writes: it takes the right to mount, zram, and ext4's tools"
fi
if [ "$(uname)" = Linux ] && twice may_take_sockets; then
    printf 'export REQUIRE_SOCKETS=1\n'
else
    skip "listeners whose sockets fail: they take perl, and the right to take a descriptor of another process"
fi
