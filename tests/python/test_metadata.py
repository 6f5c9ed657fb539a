# SPDX-License-Identifier: MIT
"""The counted metadata operations against what the kernel saw: strace of a process at work on a store."""

import collections
import json
import os
import re
import shutil
import subprocess
import sys

import pytest
from conftest import DRAM

# Opened as a new store, as one that another process filled, and after it grew: every path has its share.
WORK = """
import hashlib, json, os, sys, time
import cascade

directory, dram, begin, end, keys, deletes, budget = *sys.argv[1:5], *map(int, sys.argv[5:8])
key = lambda number: hashlib.sha256(str(number).encode()).digest()
os.access(begin, os.F_OK)
store = cascade.Store(directory, dram, segment="1MiB", file_budget=budget)
for number in range(keys):
    store.put(key(number), hashlib.sha256(str(number).encode()).digest() * 8192)
    if number % 5 == 4:
        store.flush()
for number in range(deletes):
    store.delete(key(number))
store.flush()
for number in range(keys):
    key(number) in store and store.get(key(number))
try:
    store.get(key(-1))
except KeyError:
    pass
store.verify()
counts = None
while counts != store.stats()["metadata_ops"]:  # work in the background may come between
    counts = store.stats()["metadata_ops"]
    time.sleep(0.05)  # a call is counted just before it is made
    os.access(end, os.F_OK)
print(json.dumps(counts))
store.close()
"""

CLASSES = {
    "create": {"link", "linkat"},
    "rename": {"rename", "renameat", "renameat2"},
    "unlink": {"unlink", "unlinkat"},
    "stat": {"stat", "lstat", "fstat", "newfstatat", "statx", "access", "faccessat", "faccessat2"},
    "mkdir": {"mkdir", "mkdirat"},
    "truncate": {"truncate", "ftruncate"},
    "fsync": {"fsync", "fdatasync"},
    "open": {"open", "openat", "openat2", "creat"},
}
CLASS_OF = {call: name for name, calls in CLASSES.items() for call in calls}


def class_of(call, arguments, directory):
    """The class that cascade_metadata_ops counts a call in, or None."""
    if CLASS_OF[call] == "open":
        if "O_CREAT" in arguments:
            return "create"
        # opendir: the listing counts, not its parts.
        return "readdir" if "O_NONBLOCK" in arguments and "O_DIRECTORY" in arguments else "open"
    if CLASS_OF[call] == "stat" and re.match(rf"\d+<{re.escape(directory)}>", arguments):
        return None  # the part of opendir that makes sure
    return CLASS_OF[call]


def seen(trace, directory, begin, end):
    """Counts by class between the first mark and the last, of calls that name the directory or what is in it."""
    counts = collections.Counter()
    at_end = {}
    inside = False
    pending = {}
    for line in trace.splitlines():
        thread, _, text = line.partition(" ")
        text = text.strip()
        if begin in text or end in text:
            inside = True
            at_end = dict(counts)
            continue
        if text.endswith("<unfinished ...>"):
            pending[thread] = text[: -len("<unfinished ...>")]
            continue
        resumed = re.match(r"<\.\.\. \w+ resumed>(.*)", text)
        if resumed:
            text = pending.pop(thread, "") + resumed.group(1)
        call = re.match(r"(\w+)\((.*)", text)
        if inside and call and call.group(1) in CLASS_OF and re.search(rf'["<]{re.escape(directory)}[/">]', text):
            counts[class_of(call.group(1), call.group(2), directory)] += 1
    at_end.pop(None, None)
    return at_end


def traced(directory, tmp_path, *numbers):
    trace, begin, end = tmp_path / "trace", "/begin-of-the-count", "/end-of-the-count"
    command = ["strace", "-f", "-y", "-s", "4096", "-e", "trace=" + ",".join("?" + call for call in CLASS_OF)]
    command += ["-o", str(trace), sys.executable, "-c", WORK, str(directory), DRAM, begin, end]
    command += map(str, numbers)
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    counted = {name: number for name, number in json.loads(done.stdout).items() if number}
    return counted, seen(trace.read_text(), str(directory), begin, end)


@pytest.fixture(scope="module")
def strace_works():
    if not shutil.which("strace"):
        pytest.skip("strace is not installed")
    if subprocess.run(["strace", "-f", "true"], capture_output=True).returncode:
        pytest.skip("strace may not trace here")


def test_counts_are_the_kernels(strace_works, tmp_path):
    directory = tmp_path / "store"
    total = collections.Counter()
    for keys, deletes, budget in ((24, 0, 0), (24, 7, 0), (48, 30, 0), (200, 10, 4 << 20)):
        counted, found = traced(directory, tmp_path, keys, deletes, budget)
        assert counted == found
        total.update(counted)
    # These had their share; renames depend on what is recycled, truncates on what fails.
    assert set(total) >= {"open", "create", "unlink", "stat", "mkdir", "readdir", "fsync"}


def test_the_count_notices_what_is_not_counted(strace_works, tmp_path):
    directory = tmp_path / "store"
    directory.mkdir()
    code = "import os, sys; os.access('/begin', 0); os.stat(sys.argv[1]); os.mkdir(sys.argv[1] + '/d'); os.access('/end', 0)"
    trace = tmp_path / "trace"
    command = ["strace", "-f", "-y", "-s", "4096", "-o", str(trace), sys.executable, "-c", code, str(directory)]
    subprocess.run(command, check=True, capture_output=True)
    assert seen(trace.read_text(), str(directory), "/begin", "/end") == {"stat": 1, "mkdir": 1}
