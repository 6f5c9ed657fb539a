#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# Installs what the build needs and is missing: Debian packages (as root or with sudo) and Python packages
# into .venv. Asks for capabilities, not package names, so a machine that has everything is left alone and
# needs no network.
#
#   scripts/setup.sh demo    what building and running Cascade needs
#   scripts/setup.sh check   that, and what the tests need
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

mode=${1:-check}
case $mode in demo | check) ;; *) echo "usage: scripts/setup.sh [demo|check]" >&2; exit 2 ;; esac
log=build/setup.log
mkdir -p build
: >"$log"

fail() {
    tail -n 40 "$log" >&2
    echo "setup: $*" >&2
    exit 1
}

has() { command -v "$1" >/dev/null 2>&1; }
has_library() { has pkg-config && pkg-config --exists "$1"; }
has_venv() { has python3 && python3 -c 'import ensurepip, venv' 2>/dev/null; }
has_python_headers() {
    has python3 && python3 -c 'import os, sysconfig, sys
sys.exit(not os.path.exists(os.path.join(sysconfig.get_path("include"), "Python.h")))'
}
has_fuzzer() { # clang's own run-time libraries are a package apart
    has clang-14 && compgen -G "$(dirname "$(clang-14 -print-file-name=include)")/lib/linux/libclang_rt.fuzzer-*" \
        >/dev/null
}

# Prints the packages that are missing, one a line; alternatives with | (names differ between releases).
missing_packages() {
    has gcc || printf '%s\n' gcc libc6-dev
    has pkg-config || echo pkg-config
    has_library libcrypto || echo libssl-dev
    has_library libxxhash || echo libxxhash-dev
    has_library liburing || echo liburing-dev
    has_library jansson || echo libjansson-dev
    has_venv || echo python3-venv
    has_python_headers || echo python3-dev
    [ "$mode" = check ] || return 0
    has g++ || echo g++
    has clang-14 || echo clang-14
    has clang-format-14 || echo clang-format-14
    has_fuzzer || echo "libclang-rt-14-dev|libclang-common-14-dev"
    has_library cmocka || echo libcmocka-dev
    has strace || echo strace
    has git || echo git
}

install_packages() {
    local wanted=() choice name packages=() as_root=()
    mapfile -t wanted < <(missing_packages)
    [ ${#wanted[@]} -gt 0 ] || return 0
    has apt-get || fail "missing: ${wanted[*]} (Debian's names; this machine has no apt-get)"
    if [ "$(id -u)" != 0 ]; then
        has sudo || fail "missing: ${wanted[*]}; run as root, or install sudo or these packages"
        as_root=(sudo)
    fi
    echo "setup: installing ${wanted[*]}"
    "${as_root[@]}" apt-get update -qq >>"$log" 2>&1 || true # a stale list may still do
    for choice in "${wanted[@]}"; do
        for name in ${choice//|/ }; do
            if apt-cache show "$name" >/dev/null 2>&1; then break; fi
        done
        packages+=("$name")
    done
    "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive \
        apt-get install -y -qq --no-install-recommends "${packages[@]}" >>"$log" 2>&1 ||
        fail "apt-get could not install ${packages[*]}"
    mapfile -t wanted < <(missing_packages)
    [ ${#wanted[@]} -eq 0 ] || fail "still missing after installation: ${wanted[*]}"
}

install_venv() {
    python3 -c 'import sys; sys.exit(sys.version_info < (3, 9))' || fail "python3 is older than 3.9"
    .venv/bin/python -c '' 2>/dev/null ||
        python3 -m venv --clear .venv >>"$log" 2>&1 || fail "could not make .venv"
    cmp -s scripts/requirements.txt .venv/requirements.installed && return 0
    echo "setup: installing Python packages into .venv"
    .venv/bin/python -m pip install -q --disable-pip-version-check -r scripts/requirements.txt \
        >>"$log" 2>&1 || fail "pip could not install scripts/requirements.txt"
    cp scripts/requirements.txt .venv/requirements.installed
}

install_packages
install_venv
echo "setup: ready"
