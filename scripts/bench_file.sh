#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# The file tier beside the raw disk: the store's persist and cold reads and fio with direct I/O take turns in
# one directory. Prints a table of ratios; the last line names the JSON file. Options: bench_file.py --help.
set -uo pipefail
# shellcheck source=scripts/common.sh
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"

build "${CC:-gcc}" build/bench --buildtype=release -Dtests=false >/dev/null || exit 1
exec python3 scripts/bench_file.py --cascade build/bench/cli/cascade "$@"
