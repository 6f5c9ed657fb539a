#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# Runs a test program and mends its TAP: cmocka reports a skipped case as "not ok N # SKIP", which is a
# failure to everyone else, and without a reason. A case says its reason in a line "# skipped: REASON" before it
# skips; reasons and skipped cases come in the same order. The program's exit status is kept.
set -o pipefail
"$@" | awk '
    /^# skipped: / { reasons[++said] = substr($0, 12) }
    /^not ok .*# SKIP/ { sub(/^not /, ""); sub(/# SKIP.*/, "# SKIP " reasons[++skipped]) }
    { print; fflush() }'
