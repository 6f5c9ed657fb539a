#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# Fuzzes every target of tests/fuzz for a bounded time, with libFuzzer, AddressSanitizer and UBSan.
#
#   scripts/fuzz.sh [TARGET...]      e.g. segment_fuzz; default: all
#   FUZZ_SECONDS=30                  per target
#
# New inputs collect in build/fuzz-corpus, where later runs find them; seeds come from tests/fuzz/corpus. An
# input that breaks a target is left in build/fuzz-found; commit it to tests/fuzz/corpus/TARGET with the
# repair, as a regression test.
set -euo pipefail
# shellcheck source=scripts/common.sh
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"
scripts/setup.sh check

seconds=${FUZZ_SECONDS:-30}
# shellcheck disable=SC2054 # the comma is part of the option
flags=(-fsanitize=address,undefined -fno-sanitize-recover=all)
build clang-14 build/fuzz -Dtests=false -Dcli=false -Ddefault_library=static -Db_lundef=false \
    -Db_sanitize=address,undefined '-Dc_args=-fsanitize=fuzzer-no-link -fno-sanitize-recover=all' \
    >build/fuzz.log 2>&1 || { tail -n 40 build/fuzz.log >&2; exit 1; }

if [ $# -gt 0 ]; then targets=("$@"); else
    mapfile -t targets < <(find tests/fuzz -name '*_fuzz.c' -printf '%f\n' | sed 's/\.c$//' | sort)
fi
libraries=(libcrypto jansson) # the latter for trace_fuzz
if pkg-config --exists liburing; then libraries+=(liburing); fi
read -ra libraries < <(pkg-config --libs "${libraries[@]}")
# Beside the build: that one is made anew when compiler or options change.
mkdir -p build/fuzz-found
failed=0
for target in "${targets[@]}"; do
    program=build/fuzz/$target
    corpus=build/fuzz-corpus/$target
    log=build/fuzz/$target.log
    mkdir -p "$corpus" "tests/fuzz/corpus/$target"
    clang-14 -g -O1 -std=gnu17 -D_GNU_SOURCE -fsanitize=fuzzer "${flags[@]}" -Iinclude -Isrc \
        "tests/fuzz/$target.c" build/fuzz/libcascade_core.a "${libraries[@]}" -lpthread -o "$program"
    # Reading a grown corpus takes time of its own.
    if timeout -k 30 $((2 * seconds + 300)) \
        "$program" -max_total_time="$seconds" -timeout=10 -rss_limit_mb=2048 -print_final_stats=1 \
        -artifact_prefix="build/fuzz-found/$target-" "$corpus" "tests/fuzz/corpus/$target" >"$log" 2>&1; then
        runs=$(awk '/number_of_executed_units/ { print $2 }' "$log")
        echo "$target: passed, ${runs:-0} inputs in $seconds s"
    else
        failed=$((failed + 1))
        tail -n 60 "$log"
        echo "$target: FAILED, see build/fuzz-found"
    fi
done
echo "$((${#targets[@]} - failed)) passed, $failed failed"
[ $failed -eq 0 ] && [ ${#targets[@]} -gt 0 ]
