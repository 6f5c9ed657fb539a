# SPDX-License-Identifier: MIT
"""`cascade gc` and Store.gc; see test_cli.py."""

import pathlib
import subprocess
import sys

import cascade
from test_cli import USAGE, clean_environment, files, pytestmark, run, run_json, store

__all__ = ["clean_environment", "files", "pytestmark", "store"]  # pytest finds them here

BLOCK = 300_000


def fill(path, kept_every):
    with cascade.Store(path, "64MiB", segment="1MiB", background_rate=1) as filled:
        for number in range(40):
            filled.put(bytes([number]) * 32, bytes([number]) * BLOCK)
        filled.flush()
        for number in range(40):
            if number % kept_every:
                filled.delete(bytes([number]) * 32)


def test_gc(store):
    fill(store, 4)
    before = run_json("gc", "-s", store, "--dry-run")
    assert before["dry_run"] is True and before["moved_segments"] > 0
    assert run_json("gc", "-s", store)["dry_run"] is False
    after = run_json("gc", "-s", store)
    assert after["moved_segments"] == 0 and after["file_bytes"] < 15 * BLOCK < before["file_bytes"]
    assert b"emptied 0 segments" in run("gc", "-s", store)[0]
    assert run_json("verify", "-s", store)["blocks"]["file"] == 10


def test_gc_in_python(tmp_path):
    fill(tmp_path, 2)
    with cascade.Store(tmp_path, "64MiB", background_rate=1) as opened:
        assert opened.gc(dry_run=True)["moved_segments"] > 5
        opened.gc()
        assert opened.gc(dry_run=True)["moved_segments"] == 0
        assert opened.get(bytes([2]) * 32)[0] == bytes([2]) * BLOCK


def test_usage(store):
    run("gc", "-s", store, "extra", code=USAGE)


def test_the_budget_keeps_what_the_policy_would(tmp_path):
    """A replay under a budget that is full most of the time: what is lost is one round of the writer's at most."""
    trace = tmp_path / "trace.jsonl"
    script = pathlib.Path(__file__).parents[2] / "scripts" / "make_trace.py"
    subprocess.run([sys.executable, script, "--sessions", "1500", "--seed", "3", trace], check=True)
    distinct = run_json("simulate", trace, "--capacity-blocks", "100%")["results"][0]["capacity_blocks"]
    live = distinct // 10
    budget = live * 2 * 4096 * 16 // 13  # a record has a page of header; 13/16 of a budget are for what lives
    store = tmp_path / "budgeted"
    run("init", store, "--dram", live // 2 * 4096, "--page", "4KiB", "--file-budget", budget)
    replayed = run_json("replay", "-s", store, trace, "--block-bytes", "4KiB")
    simulated = run_json("simulate", trace, "--capacity-blocks", live - live // 26)["results"][0]["hit_ratio"]
    assert replayed["lost"] == replayed["wrong"] == 0
    assert abs(replayed["hit_ratio"] - simulated) < 0.01
    tier = run_json("stat", "-s", store)["tiers"]["file"]
    assert 0 < tier["used_bytes"] <= budget
