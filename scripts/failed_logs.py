#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Prints what each failed test of a meson-logs/testlog.json wrote, the end of it at most."""

import json
import sys

CHARACTERS_MAX = 20_000

for line in open(sys.argv[1], encoding="utf-8"):
    test = json.loads(line)
    if test["is_fail"]:
        print(f"---- {test['name']}: {test['result']}, exit status {test['returncode']}")
        print((test.get("stdout") or "")[-CHARACTERS_MAX:].rstrip())
        print((test.get("stderr") or "")[-CHARACTERS_MAX:].rstrip())
