#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# Every test of the repository: installs what is missing, builds with two compilers and three sanitizers,
# runs C, Python, command-line and tree checks. The last line is "N passed, N failed[, N skipped]"; exits
# nonzero if anything failed. Logs and results stay in build/check/.
set -uo pipefail
# shellcheck source=scripts/common.sh
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"

scripts/setup.sh check || exit 1

results=$root/build/check
steps=$results/steps.tsv
rm -rf "$results"
mkdir -p "$results"
: >"$steps"

# Arenas of all tests go into one folder, so that what a test leaves behind is seen.
shm=$(mktemp -d /dev/shm/cascade-check.XXXXXX)
trap 'rm -rf "$shm"' EXIT
export CASCADE_SHM_DIR=$shm

slug() { tr -cs 'a-z0-9\n' - <<<"$1"; }

# run NAME COMMAND...: runs a command with its output in a log, shown only on failure.
run() {
    local name=$1 log began=$SECONDS result=passed
    shift
    log=$results/$(slug "$name").log
    printf '%-44s' "$name"
    "$@" >"$log" 2>&1 </dev/null || result=failed
    printf '%s, %d s\n' "$result" $((SECONDS - began))
    [ $result = passed ] && return 0
    tail -n 150 "$log" | sed 's/^/    /'
    return 1
}

# note NAME RESULT [REASON]: counts one test.
note() { printf '%s\t%s\t%s\n' "$1" "$2" "${3:-}" >>"$steps"; }

# step NAME COMMAND...: a command that counts as one test.
step() {
    if run "$@"; then note "$1" passed; else note "$1" failed && false; fi
}

skip() {
    printf '%-44sskipped: %s\n' "$1" "$2"
    note "$1" skipped "$2"
}

runner=() # what runs the test runner
# c_tests NAME BUILD_DIRECTORY MESON_TEST_ARGUMENT...: runs unit tests and keeps their results.
c_tests() {
    local name=$1 build=$2
    shift 2
    rm -f "$build"/meson-logs/testlog*
    run "$name" "${runner[@]}" meson test -C "$build" --no-rebuild "$@" || {
        note "$name: exit status" failed # so that a crash counts whatever the results file says
        python scripts/failed_logs.py "$build/meson-logs/testlog.json" | sed 's/^/    /'
    }
    cp "$build/meson-logs/testlog.junit.xml" "$results/$(slug "$name").xml"
}

# python_tests NAME FOLDER...: runs pytest over those folders that exist.
python_tests() {
    local name=$1 folders=() folder
    shift
    for folder in "$@"; do
        [ -n "$(find "$folder" -name 'test_*.py' -print -quit 2>/dev/null)" ] && folders+=("$folder")
    done
    [ ${#folders[@]} -gt 0 ] || { skip "$name" "no test_*.py in $*"; return; }
    run "$name" pytest -q --tb=short -p no:cacheprovider \
        --junitxml="$results/$(slug "$name").xml" "${folders[@]}" ||
        note "$name: exit status" failed
}

nothing_left() {
    local left
    left=$(find "$shm" -mindepth 1)
    [ -z "$left" ] || { echo "left in shared memory by the tests:"; echo "$left"; return 1; }
}

export ASAN_OPTIONS=detect_stack_use_after_return=1:strict_string_checks=1:abort_on_error=1
export UBSAN_OPTIONS=print_stacktrace=1:halt_on_error=1
export TSAN_OPTIONS=halt_on_error=1:second_deadlock_stack=1

if step "gcc: strict build" build gcc build/check-gcc -Dstrict=true; then
    c_tests "gcc: unit tests and fuzz corpora" build/check-gcc
    step "50 kills of a store at work" build/check-gcc/tests/torture/kill_torture --kills 50 \
        --directory "$results"
fi
step "clang: strict build" build clang-14 build/check-clang -Dstrict=true
if step "address and undefined: build" build gcc build/check-asan -Db_sanitize=address,undefined; then
    c_tests "address and undefined: unit tests" build/check-asan --timeout-multiplier 4
fi
if step "thread: build" build gcc build/check-tsan -Db_sanitize=thread -Dcli=false; then
    mapfile -t names < <(threaded_tests)
    if [ ${#names[@]} -gt 0 ]; then
        runner=(threads_run)
        c_tests "thread: unit tests" build/check-tsan --timeout-multiplier 8 "${names[@]}"
    else
        skip "thread: unit tests" "no test of a threaded part"
    fi
fi

export CASCADE_BUILD=$root/build/check-gcc
export CASCADE_CLI=$CASCADE_BUILD/cli/cascade
step "python: package" pip install -q --no-build-isolation --no-deps --force-reinstall \
    --disable-pip-version-check .
python_tests "tree, library and documents" tests/tree
python_tests "python and command line" tests/cli tests/python python cli integrations benchmark
step "nothing left in shared memory" nothing_left

echo
python scripts/summarise_tests.py "$steps" "$results"/*.xml
