#!/usr/bin/env bash
# Gets the static RocksDB library that the feature `rocksdb` links, and says on standard output what
# to export so that cargo takes it instead of compiling 343 files of C++ for each profile:
#
#   eval "$(scripts/rocksdb-lib.sh)"
#   cargo build --release -p ltq-node --features rocksdb
#
# The library is compiled once, from the sources that the crate librocksdb-sys brings (a quarter of an
# hour on two cores), stripped of what a debugger would want, and kept in ~/.cache/ltq (LTQ_CACHE_DIR
# names another place). Making Rust bindings needs libclang in every build; on Debian and its kin this
# script installs it with apt-get where it is missing, as root or with sudo, and says so.
set -euo pipefail
cd "$(dirname "$0")/.."

say() { printf 'rocksdb-lib: %s\n' "$*" >&2; }

# libclang finds itself in these places, or where LIBCLANG_PATH says.
has_libclang() {
    [ -n "${LIBCLANG_PATH:-}" ] && return
    ldconfig -p 2>/dev/null | grep -q 'libclang\(-[0-9.]*\)\?\.so' && return
    compgen -G '/usr/lib/llvm*/lib/libclang*.so*' >/dev/null || compgen -G '/usr/lib/*/libclang-[0-9]*.so*' >/dev/null
}

# Its C headers, without which it does not find <stdbool.h>.
has_headers() {
    [ -n "${BINDGEN_EXTRA_CLANG_ARGS:-}" ] && return
    compgen -G '/usr/lib/llvm*/lib/clang/*/include/stdbool.h' >/dev/null || compgen -G '/usr/lib/clang/*/include/stdbool.h' >/dev/null
}

install() { # what it is for, packages that will do, the first that there is
    local what=$1 as=()
    shift
    if [ "$(id -u)" != 0 ]; then
        if ! command -v sudo >/dev/null || ! sudo -n true 2>/dev/null; then
            say "$what is missing, and this is neither root nor a user with sudo: install ${*: -1}"
            return 1
        fi
        as=(sudo)
    fi
    if ! command -v apt-get >/dev/null; then
        say "$what is missing, and there is no apt-get: install it by your system's own means"
        return 1
    fi
    say "$what is missing: installing it with apt-get"
    "${as[@]}" apt-get update -q >&2
    local packages
    for packages in "$@"; do
        # shellcheck disable=SC2086
        "${as[@]}" env DEBIAN_FRONTEND=noninteractive \
            apt-get install -q -y --no-install-recommends $packages >&2 && return
    done
    say "none of these could be installed: $*"
    return 1
}

command -v c++ >/dev/null || install "a C++ compiler" g++
# These two are a tenth of libclang-dev, which is taken where a release calls them otherwise.
has_libclang && has_headers || install libclang "libclang1-14 libclang-common-14-dev" libclang-dev

# The crate's version holds RocksDB's: 0.19.0+11.8.1.
version=$(sed -n '/^name = "librocksdb-sys"/{n;s/^version = "\(.*\)"/\1/p}' Cargo.lock)
[ -n "$version" ] || { say "Cargo.lock names no librocksdb-sys"; exit 1; }
# Checksums of what is written are ten times faster with these; every x86-64 processor since 2010 has
# them, and the library stays on the machine that it was made for.
flags=
if grep -qm1 'sse4_2' /proc/cpuinfo 2>/dev/null && grep -qm1 'pclmulqdq' /proc/cpuinfo; then
    flags="-msse4.2 -mpclmul"
fi
cache=${LTQ_CACHE_DIR:-$HOME/.cache/ltq}/rocksdb-$version-$(uname -m)
if [ ! -f "$cache/librocksdb.a" ]; then
    say "compiling RocksDB $version, once: this takes a quarter of an hour on two cores"
    mkdir -p "$cache"
    build=$(mktemp -d "$cache/build.XXXXXX")
    trap 'rm -rf "$build"' EXIT
    # A package that needs nothing else, so that the library does not wait for, or fail with, ours.
    mkdir "$build/src"
    touch "$build/src/lib.rs"
    cp Cargo.lock "$build"
    cat >"$build/Cargo.toml" <<END
[package]
name = "rocksdb-lib"
version = "0.0.0"
edition = "2024"
[dependencies]
librocksdb-sys = { version = "=$version", default-features = false, features = ["bindgen-runtime", "lz4"] }
[workspace]
END
    env -u ROCKSDB_LIB_DIR -u ROCKSDB_STATIC CARGO_TARGET_DIR="$build/target" \
        CXXFLAGS="${CXXFLAGS:-} $flags" \
        cargo build --release --manifest-path "$build/Cargo.toml" >&2
    library=$(find "$build/target" -name librocksdb.a -print -quit)
    strip -g "$library"
    mv "$library" "$build/done.a"
    # Whoever looks sees a whole library or none.
    mv "$build/done.a" "$cache/librocksdb.a"
    say "kept as $cache/librocksdb.a"
fi
printf 'export ROCKSDB_LIB_DIR=%q ROCKSDB_STATIC=1\n' "$cache"
