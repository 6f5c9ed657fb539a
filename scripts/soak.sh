#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# The long tests, each for a bounded time: everything in tests/soak, the unit tests of threaded parts over
# and over under ThreadSanitizer, and fuzzing.
#
#   SOAK_SECONDS=600    for each program of tests/soak, which reads it itself
#   SOAK_REPEATS=20     of the thread tests
#   FUZZ_SECONDS=300    for each fuzz target
#
# A program of tests/soak is an executable file. It finds the command in CASCADE_CLI, the build in
# CASCADE_BUILD, an empty folder in its working directory, and one for arenas in CASCADE_SHM_DIR.
set -uo pipefail
export SOAK_SECONDS=${SOAK_SECONDS:-600} FUZZ_SECONDS=${FUZZ_SECONDS:-300}
repeats=${SOAK_REPEATS:-20}
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
    echo "== ${program##*/}, $SOAK_SECONDS s"
    (cd "$scratch/${program##*/}" && timeout -k 30 $((SOAK_SECONDS * 2 + 300)) "$program") ||
        failed+=("${program##*/}")
done

echo "== thread tests, $repeats times"
build gcc build/check-tsan -Db_sanitize=thread -Dcli=false >build/soak.log 2>&1 ||
    { tail -n 40 build/soak.log; exit 1; }
mapfile -t names < <(threaded_tests)
if [ ${#names[@]} -gt 0 ]; then
    threads_run meson test -C build/check-tsan --no-rebuild --quiet --repeat "$repeats" --maxfail 1 \
        --timeout-multiplier 8 "${names[@]}" || failed+=("thread tests")
fi

echo "== fuzz targets"
scripts/fuzz.sh || failed+=("fuzzing")

if [ ${#failed[@]} -gt 0 ]; then printf 'FAILED: %s\n' "${failed[@]}"; exit 1; fi
echo "soak: all passed"
