#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# Builds states that a power cut could leave of a store's directory, opens a store on each, and checks that
# what was flushed is there, what was deleted is not, and nothing is wrong; goes on with some of them, and cuts
# again (tests/powercut/power_cut.c).
#
#   scripts/powercut.sh [STATES] [SEED]     default: 10,000 states (some minutes), seed 20261124
#
# Exits 1 at the first state that breaks a promise, keeps it and the recording that it was built of, and says
# how to build and check that very state again.
set -euo pipefail
case ${1:-} in
-h | --help)
    sed -n '3,/^set /{/^set /d;s/^# \{0,1\}//;p}' "${BASH_SOURCE[0]}"
    exit 0
    ;;
esac
# shellcheck source=scripts/common.sh
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"
scripts/setup.sh check

build gcc build/powercut -Dcli=false >build/powercut.log 2>&1 ||
    { tail -n 40 build/powercut.log >&2; exit 1; }
exec build/powercut/tests/powercut/power_cut --states "${1:-10000}" --seed "${2:-20261124}"
