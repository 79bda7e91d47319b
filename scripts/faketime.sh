#!/usr/bin/env bash
# Sees to it that there is a libfaketime, by which the torments step wall clocks, and says on standard output what to
# export so that they fail without one:
#
#   eval "$(scripts/faketime.sh)"
#   cargo test -p ltq-tests --test torment
#
# Where torments cannot run, not being root on Linux, or where it cannot be had, it says so and exports nothing; the
# torments then say that steps of clocks are skipped. On Debian and its kin it is installed with apt-get.
set -euo pipefail

say() { printf 'faketime: %s\n' "$*" >&2; }

found() { compgen -G '/usr/lib/*/faketime/libfaketimeMT.so.1' >/dev/null ||
    compgen -G '/usr/lib/faketime/libfaketimeMT.so.1' >/dev/null ||
    compgen -G '/usr/local/lib/faketime/libfaketimeMT.so.1' >/dev/null; }

if ! found; then
    if [ "$(id -u)" != 0 ]; then
        say "skipped: torments take root, for hosts of their own"
        exit 0
    fi
    if ! command -v apt-get >/dev/null; then
        say "skipped: there is no apt-get: install libfaketime by your system's own means"
        exit 0
    fi
    say "libfaketime is missing: installing it with apt-get"
    if ! { apt-get update -q && DEBIAN_FRONTEND=noninteractive \
        apt-get install -q -y --no-install-recommends faketime; } >&2 || ! found; then
        say "skipped: it cannot be installed"
        exit 0
    fi
fi
printf 'export REQUIRE_FAKETIME=1\n'
