#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# Formats every C file in place as scripts/check.sh wants it.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
git ls-files -z --cached --others --exclude-standard -- '*.c' '*.h' | xargs -0 clang-format-14 -i
