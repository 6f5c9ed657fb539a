# SPDX-License-Identifier: MIT
"""`cascade bench`, from outside; see test_cli.py."""

import os

import pytest
from test_cli import USAGE, clean_environment, pytestmark, run, run_json, store

__all__ = ["clean_environment", "pytestmark", "store"]  # pytest finds them here

SMALL = ["bench", "--block-bytes", "64KiB", "--blocks", "20", "--match-keys", "2000"]


@pytest.mark.parametrize("threads", [1, 2])
def test_bench(tmp_path, monkeypatch, threads):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    result = run_json(*SMALL, "--threads", threads)
    assert [r["op"] for r in result["results"]] == ["put", "get", "view", "match", "digest"]
    for r in result["results"]:
        assert r["block_bytes"] == 65536
        assert r["threads"] == (1 if r["op"] == "digest" else threads)
        assert 0 < r["p50_us"] <= r["p99_us"]
        yardstick = r["openssl_gbps"] if r["op"] == "digest" else r["memcpy_gbps"]
        if r["op"] in ("put", "get", "digest"):
            assert r["gbps"] > 0 and r["ratio"] == pytest.approx(r["gbps"] / yardstick)
            assert r["gbps_min"] <= r["gbps"] <= r["gbps_max"]
        else:
            assert r["gbps"] is None and r["ratio"] is None
    assert result["working_set_is_enough"] is False
    assert os.listdir(tmp_path) == []  # the temporary store is gone


def test_bench_in_a_store(store):
    assert [r["op"] for r in run_json(*SMALL, "-s", store, "--ops", "match,get")["results"]] == ["get", "match"]
    assert run_json("ls", "-s", store) == []
    err = run("bench", "-s", store, "--block-bytes", "1MiB", "--blocks", "60", code=USAGE)[1]
    assert "half of the store's dram" in err


def test_bench_sustained(tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    small = ["bench", "--block-bytes", "16MiB", "--blocks", "4"]
    (r,) = run_json(*small, "--ops", "put_sustained")["results"]
    assert r["gbps"] > 0 and r["ratio"] == pytest.approx(r["gbps"] / r["limit_gbps"])
    assert run("bench", "--block-bytes", "512MiB", "--blocks", "1", "--ops", "put_sustained", code=USAGE)
    assert os.listdir(tmp_path) == []


def test_bench_text(tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    out, err = run(*SMALL, "--ops", "get")
    assert b"memcpy" in out and b"pages" in out
    assert "last-level caches" in err


def test_bench_of_the_file_tier(tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    result = run_json("bench", "--ops", "persist,cold,files", "--size", "32MiB", "--runs", "2")
    ops = [r["op"] for r in result["file_results"]]
    assert ops == "persist_fresh persist_recycled cold_get cold_get_many store_write store_read".split() + [
        "files_write",
        "files_read",
    ]
    for r in result["file_results"]:
        assert 0 < r["gbps_min"] <= r["gbps"] <= r["gbps_max"] and len(r["gbps_runs"]) == 2
        assert 0 < r["p50_us"] <= r["p99_us"] and r["bytes"] >= 32 << 20
    named = {r["op"]: r for r in result["file_results"]}
    assert named["files_write"]["metadata_ops"] == 3 * 32 and named["files_read"]["metadata_ops"] == 32
    assert named["store_write"]["metadata_ops"] < 32 and named["store_read"]["metadata_ops"] < 32
    # The budget leaves the second pass whole.
    assert named["cold_get"]["bytes"] == named["cold_get_many"]["bytes"] == named["persist_recycled"]["bytes"]
    assert result["runs"] == 2 and result["encrypted"] is False
    assert os.listdir(tmp_path) == []
    assert b"persist_fresh" in run("bench", "--ops", "persist", "--size", "16MiB", "--runs", "1")[0]


def test_bench_of_opens(tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    result = run_json("bench", "--ops", "open", "--blocks", "500", "--runs", "2")
    assert [(r["blocks"], r["block_bytes"]) for r in result["results"]] == [
        (50, 4096),
        (150, 4096),
        (500, 4096),
        (500, 16384),
    ]
    for r in result["results"]:
        assert 0 < r["open_ms_min"] <= r["open_ms"] <= r["open_ms_max"]
        assert r["segments"] == 1 and r["file_bytes"] > r["blocks"] * r["block_bytes"]
    # As many files, as many operations, however many blocks and bytes.
    assert len({r["metadata_ops"] for r in result["results"]}) == 1
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    "arguments",
    [
        ["--ops", "open,put"],
        ["--ops", "open,files"],
        ["--ops", "open", "-s", "x"],
        ["--ops", "open", "--block-bytes", "8B"],
        ["--ops", "persist,put"],
        ["--ops", "cold", "-s", "x"],
        ["--ops", "files", "--size", "1MiB"],
        ["--ops", "files", "--runs", "0"],
    ],
)
def test_bench_of_the_file_tier_refuses(arguments):
    run("bench", *arguments, code=USAGE)
