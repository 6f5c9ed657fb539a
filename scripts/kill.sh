#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# Kills processes at work on a store, at marked points and at random moments, and checks after each that
# every acknowledged block is there with right bytes and that nothing is left in shared memory.
#
#   scripts/kill.sh [COUNT] [SEED]     default: 200 kills, a seed from the clock, which is printed
#   SANITIZE=address,undefined         or thread: builds with that sanitizer
#
# Prints kills by phase. Exits 1 if anything acknowledged is lost, wrong or leaked; the seed repeats the plan
# of the kills, though not how the threads interleave.
set -euo pipefail
case ${1:-} in
-h | --help)
    sed -n '3,/^set /{/^set /d;s/^# \{0,1\}//;p}' "${BASH_SOURCE[0]}"
    exit 0
    ;;
esac
sanitize=${SANITIZE:-none}
# shellcheck source=scripts/common.sh
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"
scripts/setup.sh check

build=build/kill
runner=()
[ "$sanitize" = none ] || build=build/kill-${sanitize//,/-}
[ "$sanitize" != thread ] || runner=(threads_run)
build gcc "$build" -Dcli=false -Db_sanitize="$sanitize" >build/kill.log 2>&1 ||
    { tail -n 40 build/kill.log >&2; exit 1; }
arguments=(--directory "$build" --kills "${1:-200}")
[ $# -lt 2 ] || arguments+=(--seed "$2")
"${runner[@]}" "$build/tests/torture/kill_torture" "${arguments[@]}"
