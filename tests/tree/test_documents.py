# SPDX-License-Identifier: MIT
"""Documents tell the truth: links lead somewhere, quoted files are quoted, marked commands run.

Two marks, each an HTML comment on the line before a fenced block:
<!-- file: PATH -->  the block is that file, word for word
<!-- run -->         the block is run by bash in an empty folder, with the cascade command on PATH
"""

import os
import re
import shutil
import sys
from pathlib import Path

import pytest
from tree_files import ROOT, run, tracked_files

MARKED = re.compile(r"<!-- (run|file: (\S+)) -->\n+```\w*\n(.*?)^```", re.DOTALL | re.MULTILINE)
FENCED = re.compile(r"^```.*?^```", re.DOTALL | re.MULTILINE)
LINK = re.compile(r"\[[^\]]*\]\(([^)#\s]+)[^)]*\)")


def relative(path: Path) -> str:
    return str(path.relative_to(ROOT))


def marked_blocks(kind: str) -> list:
    found = []
    for document in tracked_files("*.md"):
        for number, match in enumerate(MARKED.finditer(document.read_text()), 1):
            if match[1].startswith(kind):
                found.append(pytest.param(match[2], match[3], id=f"{relative(document)}-{number}"))
    return found


@pytest.mark.parametrize("document", tracked_files("*.md"), ids=relative)
def test_links_lead_somewhere(document):
    text = FENCED.sub("", document.read_text())
    links = [link for link in LINK.findall(text) if "://" not in link]
    assert not [link for link in links if not (document.parent / link).exists()]


@pytest.mark.parametrize(("path", "text"), marked_blocks("file"))
def test_quoted_file_is_as_quoted(path, text):
    assert (ROOT / path).read_text() == text


@pytest.mark.parametrize(("path", "text"), marked_blocks("run"))
def test_marked_commands_run(path, text, build, tmp_path):
    tools = f"{build / 'cli'}:{Path(sys.executable).parent}"
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    run(["bash", "-euo", "pipefail", "-c", text], cwd=tmp_path,
        env=dict(os.environ, PATH=f"{tools}:{os.environ['PATH']}"))


def test_python_example_runs(tmp_path):
    run([sys.executable, ROOT / "examples/hello.py", tmp_path / "store"], cwd=tmp_path,
        env=dict(os.environ, CASCADE_DRAM="64MiB"))


def test_manual_pages_are_well_formed():
    pages = tracked_files("*.1")
    if not pages or not shutil.which("man"):
        pytest.skip("no manual page yet" if not pages else "man is not installed")
    for page in pages:
        warnings = run(["man", "--warnings", "-l", "-Tutf8", "-Z", page], env=dict(os.environ, LC_ALL="C.UTF-8"))
        assert not [line for line in warnings.splitlines() if ": warning" in line or ": error" in line]
