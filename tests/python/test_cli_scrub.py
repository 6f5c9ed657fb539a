# SPDX-License-Identifier: MIT
"""`cascade scrub`, `verify --fix` and the file tier's part of `stat`, from outside; see test_cli.py."""

import os
import signal
import subprocess
import sys
import time

import pytest
from test_cli import CLI, KEYS, NEGATIVE, USAGE, clean_environment, files, pytestmark, run, run_json, store

__all__ = ["clean_environment", "files", "pytestmark", "store"]  # pytest finds them here

# A process that dies with its segment unsealed.
KILLED = """
import os, signal, sys, cascade
store = cascade.Store(sys.argv[1], "64MiB")
for number in range(8):
    store.put(bytes([number]) * 32, bytes([number]) * 100_000, durable=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_scrub(store, files):
    run("put", "-s", store, "--key", KEYS[0], *files)
    report = run_json("scrub", "-s", store, "--rate", "1MiB")
    assert report["ok"] is True and report["blocks"]["file"] == 1 and report["bytes"] == 170_001
    assert b"0 damaged" in run("scrub", "-s", store)[0]
    run("scrub", "-s", store, "--rate", "slow", code=USAGE)
    run("verify", "-s", store, "--rate", "1MiB", code=USAGE)


def test_scrub_finds_damage(store, files):
    run("put", "-s", store, "--key", KEYS[0], *files)
    (segment,) = store.glob("agg_*.bin")
    data = bytearray(segment.read_bytes())
    data[bytes(data).find(files[1].read_bytes()[20_000:20_064])] ^= 1
    segment.write_bytes(data)
    report = run_json("scrub", "-s", store, code=NEGATIVE)
    assert report["ok"] is False and report["damaged"] == {"dram": 0, "file": 1}


def test_scrub_stops_at_a_signal(store, files):
    run("put", "-s", store, "--key", KEYS[0], *files)
    slow = subprocess.Popen([CLI, "scrub", "-s", str(store), "--rate", "1"], stderr=subprocess.PIPE)
    time.sleep(0.5)
    slow.send_signal(signal.SIGTERM)
    assert slow.wait(60) == 128 + signal.SIGTERM


@pytest.mark.parametrize("command", ["verify", "scrub"])
def test_fix(store, command):
    killed = subprocess.run([sys.executable, "-c", KILLED, str(store)])
    assert killed.returncode == -signal.SIGKILL
    (first,) = store.glob("agg_*.bin")
    assert run_json(command, "-s", store, "--fix")["ok"] is True
    assert not first.exists()  # nothing lived there any more
    for number in range(8):
        assert run("get", "-s", store, bytes([number]).hex() * 32, "-k", "-")[0] == bytes([number]) * 100_000
    count = len(os.listdir(store))
    assert run_json(command, "-s", store, "--fix")["ok"] is True
    assert len(os.listdir(store)) == count


def test_stat_of_the_file_tier(store, files):
    run("put", "-s", store, "--key", KEYS[0], *files)
    stat = run_json("stat", "-s", store)
    names = "uring slow timeouts registered_bytes live_bytes encrypted striped direct degraded"
    assert {"file_" + name for name in names.split()} <= set(stat)
    assert {"compactions", "compacted_bytes", "recycled_segments", "read_ahead_blocks", "aged_blocks"} <= set(stat)
    assert stat["file_slow"] == stat["file_degraded"] == stat["compactions"] == 0
    assert stat["metadata_ops_per_gib"] is None  # nothing was written since this open
    text = run("stat", "-s", store)[0].decode()
    assert ("io_uring" if stat["file_uring"] else "threads") in text and "compactions 0" in text
