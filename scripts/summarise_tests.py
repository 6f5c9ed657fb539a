#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Adds up test results: the steps of scripts/check.sh and JUnit files.

Usage: summarise_tests.py STEPS.tsv [JUNIT.xml ...]

A step is a line "name<TAB>passed|failed|skipped<TAB>reason". Prints a table, every failure, every skip with
its reason, and as its last line "N passed, N failed[, N skipped]". Exits 1 if anything failed or nothing
passed.
"""

import re
import sys
import xml.etree.ElementTree as ET
from collections import Counter
from pathlib import Path
from typing import Iterator, NamedTuple


class Case(NamedTuple):
    group: str
    name: str
    result: str  # "passed", "failed" or "skipped"
    reason: str


def read_steps(path: Path) -> Iterator[Case]:
    for line in path.read_text().splitlines():
        name, result, reason = line.split("\t")
        yield Case("steps", name, result, reason)


def read_junit(path: Path) -> Iterator[Case]:
    try:
        tree = ET.parse(path)
    except ET.ParseError as error:
        yield Case(path.stem, "results file", "failed", f"{path} is not readable: {error}")
        return
    for suite in tree.iter("testsuite"):
        suite_name = suite.get("name", "").rpartition("::")[2]
        # Meson keeps no reason of a skipped TAP case; the program's own output does, in the cases' order.
        reasons = re.findall(r"^# skipped: (.*)$", suite.findtext("system-out", ""), re.MULTILINE)
        for case in suite.iter("testcase"):
            name = f"{case.get('classname') or suite_name}: {case.get('name')}"
            bad = case.find("failure") if case.find("failure") is not None else case.find("error")
            skipped = case.find("skipped")
            if bad is not None:
                yield Case(path.stem, name, "failed", bad.get("message") or (bad.text or "").strip())
            elif skipped is not None:
                reason = skipped.get("message") or (skipped.text or "").strip() or (reasons.pop(0) if reasons else "no reason given")
                yield Case(path.stem, name, "skipped", reason)
            else:
                yield Case(path.stem, name, "passed", "")


def main(arguments: list[str]) -> int:
    if not arguments:
        print(__doc__, file=sys.stderr)
        return 2
    cases = list(read_steps(Path(arguments[0])))
    for path in map(Path, arguments[1:]):
        if path.exists():
            cases.extend(read_junit(path))
    groups = dict.fromkeys(case.group for case in cases)
    print(f"{'':44}{'passed':>8}{'failed':>8}{'skipped':>8}")
    for group in groups:
        counts = Counter(case.result for case in cases if case.group == group)
        print(f"{group:44}{counts['passed']:8}{counts['failed']:8}{counts['skipped']:8}")
    for case in cases:
        if case.result != "passed":
            reason = case.reason.splitlines()[0] if case.reason else ""
            print(f"{case.result}: {case.group}: {case.name}{': ' if reason else ''}{reason}")
    total = Counter(case.result for case in cases)
    skipped = f", {total['skipped']} skipped" if total["skipped"] else ""
    print(f"{total['passed']} passed, {total['failed']} failed{skipped}")
    return 1 if total["failed"] or not total["passed"] else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
