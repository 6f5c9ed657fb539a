#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Checks that includes point one way (docs/architecture.md, "Parts").

Each folder of src/ may include itself and the parts before it; the tiers never include each other; what
stands outside src/ includes only <cascade/...> and its own folder. Tests are exempt. Prints each breach as
FILE:LINE and exits 1 if there is any.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

ORDER = ["base", "format", "index", "policy", "tier", "arena", "segment", "gpu", "remote", "store", "daemon"]
TIERS = {"arena", "segment", "gpu", "remote"}
OUTSIDE = ["cli", "python", "integrations", "benchmark", "examples", "include"]
INCLUDE = re.compile(r'^\s*#\s*include\s*"([^"]+)"')


def breach(root: Path, file: Path, included: str) -> str | None:
    """Why `file` may not include `included` (in quotes), or None."""
    parts = file.relative_to(root).parts
    if parts[0] != "src":
        if (file.parent / included).exists() and ".." not in Path(included).parts:
            return None
        return "outside src/ only <cascade/...> and files of the same folder may be included"
    own = parts[1]
    if (file.parent / included).exists() and "/" not in included:
        return None
    other = included.split("/")[0]
    if other not in ORDER or not (root / "src" / included).exists():
        return "names neither a file of this folder nor src/PART/FILE"
    if own not in ORDER:
        return f"src/{own} has no place in the order of parts"
    if other == own:
        return None
    if own in TIERS and other in TIERS:
        return "tiers never include each other"
    if ORDER.index(other) > ORDER.index(own):
        return f"{own} comes before {other}"
    return None


def main() -> int:
    root = Path(__file__).resolve().parent.parent
    breaches = 0
    for folder in ["src", *OUTSIDE]:
        for file in sorted((root / folder).rglob("*.[ch]")):
            if file.name.endswith("_test.c"):
                continue
            for number, line in enumerate(file.read_text().splitlines(), 1):
                found = INCLUDE.match(line)
                why = breach(root, file, found[1]) if found else None
                if why:
                    breaches += 1
                    print(f'{file.relative_to(root)}:{number}: "{found[1]}": {why}')
    return 1 if breaches else 0


if __name__ == "__main__":
    sys.exit(main())
