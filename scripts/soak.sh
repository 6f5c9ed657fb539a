#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# The long tests, each for a bounded time, about three hours in all: everything in tests/soak, the unit tests
# of threaded parts over and over under ThreadSanitizer, and fuzzing under AddressSanitizer.
#
#   SOAK_KILLS=1000       of processes at work on a store
#   POWERCUT_STATES=10000 that a power cut could leave
#   SOAK_LIMIT=5400       seconds for each program of tests/soak, after which it has failed; twice as many
#                         for the thread tests
#   SOAK_REPEATS=20       of the thread tests
#   FUZZ_LONG=1800        seconds for each fuzz target of what comes from files of a store
#   FUZZ_SECONDS=300      for each other
#
# A program of tests/soak is an executable file. It finds the command in CASCADE_CLI, the build in
# CASCADE_BUILD, an empty folder in its working directory, and one for arenas in CASCADE_SHM_DIR.
set -uo pipefail
export SOAK_KILLS=${SOAK_KILLS:-1000} POWERCUT_STATES=${POWERCUT_STATES:-10000}
limit=${SOAK_LIMIT:-5400}
repeats=${SOAK_REPEATS:-20}
fuzz_long=${FUZZ_LONG:-1800}
fuzz_short=${FUZZ_SECONDS:-300}
# shellcheck source=scripts/common.sh
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"
scripts/setup.sh check || exit 1

scratch=$(mktemp -d "$root/build/soak-scratch.XXXXXX")
CASCADE_SHM_DIR=$(mktemp -d /dev/shm/cascade-soak.XXXXXX)
trap 'rm -rf "$scratch" "$CASCADE_SHM_DIR"' EXIT
export CASCADE_SHM_DIR CASCADE_BUILD=$root/build/soak CASCADE_CLI=$root/build/soak/cli/cascade

failed=()
build gcc build/soak >build/soak.log 2>&1 ||
    { tail -n 40 build/soak.log; exit 1; }
for program in "$root"/tests/soak/*; do
    if [ ! -f "$program" ] || [ ! -x "$program" ]; then continue; fi
    mkdir "$scratch/${program##*/}"
    echo "== ${program##*/}"
    (cd "$scratch/${program##*/}" && timeout -k 30 "$limit" "$program") ||
        failed+=("${program##*/}")
done

echo "== thread tests, $repeats times"
build gcc build/check-tsan -Db_sanitize=thread -Dcli=false >build/soak.log 2>&1 ||
    { tail -n 40 build/soak.log; exit 1; }
mapfile -t names < <(threaded_tests)
if [ ${#names[@]} -gt 0 ]; then
    threads_run timeout -k 30 $((2 * limit)) meson test -C build/check-tsan --no-rebuild --quiet \
        --repeat "$repeats" --maxfail 1 --timeout-multiplier 8 "${names[@]}" || failed+=("thread tests")
fi

echo "== fuzz targets"
long=() short=()
for target in tests/fuzz/*_fuzz.c; do
    target=$(basename "$target" .c)
    case $target in segment_* | settings_*) long+=("$target") ;; *) short+=("$target") ;; esac
done
FUZZ_SECONDS=$fuzz_long scripts/fuzz.sh "${long[@]}" || failed+=("fuzzing files of a store")
FUZZ_SECONDS=$fuzz_short scripts/fuzz.sh "${short[@]}" || failed+=("fuzzing the rest")

if [ ${#failed[@]} -gt 0 ]; then printf 'FAILED: %s\n' "${failed[@]}"; exit 1; fi
echo "soak: all passed"
