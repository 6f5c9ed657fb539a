#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# The demonstration: installs what is missing, builds, and runs three checked workloads (scripts/demo.py).
# Leaves demo/results.json and demo/demo.png; its stores are removed again, also when it fails.
#
#   scripts/demo.sh [--trace FILE]    FILE: a trace to replay, one JSON object with hash_ids a line
set -euo pipefail
case ${1:-} in
"") trace=() ;;
--trace)
    if [ $# -ne 2 ] || [ ! -r "$2" ]; then echo "demo: --trace wants a readable file" >&2; exit 2; fi
    trace=(--trace "$(realpath "$2")")
    ;;
*) echo "usage: scripts/demo.sh [--trace FILE]" >&2; exit 2 ;;
esac
# shellcheck source=scripts/common.sh
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"

scripts/setup.sh demo
mkdir -p demo
scratch=$(mktemp -d "$root/demo/scratch.XXXXXX")
CASCADE_SHM_DIR=$(mktemp -d /dev/shm/cascade-demo.XXXXXX)
export CASCADE_SHM_DIR
trap 'rm -rf "$scratch" "$CASCADE_SHM_DIR"' EXIT
trap 'exit 130' INT TERM

quietly() { "$@" >"$scratch/log" 2>&1 </dev/null || { tail -n 60 "$scratch/log" >&2; exit 1; }; }
echo "demo: building"
quietly build gcc build/demo -Dbuildtype=release -Dtests=false
quietly pip install --no-build-isolation --no-deps --force-reinstall --disable-pip-version-check .
echo "demo: running"
python scripts/demo.py --cli build/demo/cli/cascade --scratch "$scratch" --output "$root/demo" "${trace[@]}"
