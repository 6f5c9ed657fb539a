# SPDX-License-Identifier: MIT
"""The order of the source tree: format, include directions, names, sizes."""

import shutil
import sys
from collections import defaultdict
from pathlib import Path

import pytest
from tree_files import ROOT, run, tracked_files

REPEATED_NAMES = {"README.md", "meson.build", "__init__.py", "conftest.py", ".gitignore"}
LINES_MAX = 600
BYTES_MAX = 1 << 20


def relative(path: Path) -> str:
    return str(path.relative_to(ROOT))


def test_c_files_are_formatted():
    if not shutil.which("clang-format-14"):
        pytest.skip("clang-format-14 is not installed; other versions format differently")
    run(["clang-format-14", "--dry-run", "--Werror", *tracked_files("*.c", "*.h")], cwd=ROOT)


def test_includes_point_one_way():
    run([sys.executable, ROOT / "scripts/check_includes.py"])


@pytest.mark.parametrize("header", tracked_files("*.h"), ids=relative)
def test_header_compiles_alone(header):
    run(["gcc", "-std=gnu17", "-D_GNU_SOURCE", "-Wall", "-Wextra", "-Werror", "-Wno-unused-function",
         "-fsyntax-only", f"-I{ROOT}/include", f"-I{ROOT}/src", "-x", "c", header])


@pytest.mark.parametrize("standard", ["c++11", "c++20"])
@pytest.mark.parametrize("header", tracked_files("include/*.h"), ids=relative)
def test_public_header_compiles_as_cpp(header, standard):
    run(["g++", f"-std={standard}", "-Wall", "-Wextra", "-Wpedantic", "-Werror", "-fsyntax-only",
         f"-I{ROOT}/include", "-x", "c++", header])


@pytest.mark.parametrize("standard", ["c99", "c11"])
@pytest.mark.parametrize("header", tracked_files("include/*.h"), ids=relative)
def test_public_header_needs_no_extensions(header, standard):
    run(["gcc", f"-std={standard}", "-Wall", "-Wextra", "-Wpedantic", "-Werror", "-fsyntax-only",
         f"-I{ROOT}/include", "-x", "c", header])


def test_file_names_are_unique():
    places = defaultdict(list)
    for path in tracked_files():
        if path.name not in REPEATED_NAMES and "corpus" not in path.parts:
            places[path.name].append(relative(path))
    assert not {name: where for name, where in places.items() if len(where) > 1}


def test_files_are_short():
    long = {}
    for path in tracked_files("*.c", "*.h", "*.py", "*.sh"):
        lines = path.read_text().count("\n")
        if lines > LINES_MAX:
            long[relative(path)] = lines
    assert not long, f"more than {LINES_MAX} lines"


def test_no_large_files():
    large = {relative(p): p.stat().st_size for p in tracked_files() if p.stat().st_size > BYTES_MAX}
    assert not large, f"more than {BYTES_MAX} bytes"


def test_sources_name_their_licence():
    unnamed = [relative(p) for p in tracked_files("*.c", "*.h", "*.py", "*.sh")
               if "SPDX-License-Identifier: MIT" not in "".join(p.read_text().splitlines(True)[:3])]
    assert not unnamed


def test_scripts_are_valid_and_executable():
    for script in tracked_files("*.sh", ".ci/run"):
        run(["bash", "-n", script])
        sourced = script.read_text().startswith("# SPDX")
        assert sourced or script.stat().st_mode & 0o100, f"{relative(script)} has no run bit"


def test_every_source_folder_has_a_readme():
    missing = [relative(p) for p in (ROOT / "src").iterdir() if p.is_dir() and not (p / "README.md").exists()]
    assert not missing
