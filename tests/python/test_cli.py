# SPDX-License-Identifier: MIT
"""The `cascade` command, from outside. Runs the binary that CASCADE_CLI names; skipped without it."""

import hashlib
import json
import os
import re
import signal
import subprocess
import time

import pytest

CLI = os.environ.get("CASCADE_CLI")
pytestmark = pytest.mark.skipif(not CLI, reason="CASCADE_CLI does not name the cascade binary")

OK, NEGATIVE, USAGE, STORE, BUSY, FILE, DEGRADED = range(7)
COMMANDS = "init put get match ls stat delete flush verify scrub replay simulate bench".split()
KEYS = [format(i, "064x") for i in range(1, 9)]


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch):
    for name in list(os.environ):
        if name.startswith("CASCADE_") and name not in ("CASCADE_CLI", "CASCADE_SHM_DIR"):
            monkeypatch.delenv(name)


def run(*arguments, code=OK, data=None, **options):
    """Runs the command, expects its exit code, returns (stdout, stderr)."""
    done = subprocess.run([CLI, *map(str, arguments)], input=data, capture_output=True, timeout=120, **options)
    assert done.returncode == code, (arguments, done.returncode, done.stdout, done.stderr)
    return done.stdout, done.stderr.decode()


def run_json(*arguments, **options):
    return json.loads(run(*arguments, "--json", **options)[0])


def block_id(data):
    return hashlib.sha256(data).hexdigest()[:32]


@pytest.fixture
def store(tmp_path):
    path = tmp_path / "store"
    run("init", path, "--dram", "64MiB")
    return path


@pytest.fixture
def files(tmp_path):
    k, v = tmp_path / "k.bin", tmp_path / "v.bin"
    k.write_bytes(os.urandom(100_001))
    v.write_bytes(os.urandom(70_000))
    return k, v


@pytest.fixture
def trace(tmp_path):
    path = tmp_path / "trace.jsonl"
    requests = [[0, 1, 2], [0, 1, 3], [0, 1, 2, 4], [], [5], [0, 1, 3]]
    path.write_text("".join(json.dumps({"timestamp": 0, "hash_ids": ids}) + "\n" for ids in requests))
    return path


# ---- the command as such --------------------------------------------------------------------


def test_version():
    assert re.fullmatch(rb"cascade \d+\.\d+\.\d+\n", run("--version")[0])


@pytest.mark.parametrize("command", COMMANDS)
def test_help(command):
    out = run(command, "--help")[0].decode()
    assert f"Usage: cascade {command}" in out
    assert "--json" in out


def test_help_lists_commands():
    out = run("--help")[0].decode()
    for command in COMMANDS:
        assert re.search(rf"^  {command} ", out, re.M)


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["frobnicate"],
        ["--frobnicate"],
        ["init"],
        ["init", "a", "b"],
        ["init", "a", "--dram", "much"],
        ["init", "a", "--dram", "0"],
        ["init", "a", "--dram", "99999P"],
        ["put"],
        ["put", "-s", "x", "k", "v", "w"],
        ["put", "-s", "x", "--key", "abc", "k"],
        ["put", "-s", "x", "--key", "g" * 64, "k"],
        ["put", "-s", "x", "--parent", KEYS[0], "k"],
        ["get", "-s", "x", "-k", "out"],
        ["get", "-s", "x", KEYS[0]],
        ["get", "-s", "x", "abc", "-k", "out"],
        ["get", "-s", "x", "z" * 32, "-k", "out"],
        ["get", "-s", "x", KEYS[0], KEYS[1], "-k", "out"],
        ["get", "-s", "x", KEYS[0], "-k", "out", "--range", "5"],
        ["get", "-s", "x", KEYS[0], "-k", "out", "--range", "-1:5"],
        ["get", "-s", "x", KEYS[0], "-k", "out", "-v", "out2", "--range", "0:5"],
        ["get", "-s", "x", KEYS[0], "-k", "-", "--json"],
        ["match", "-s", "x"],
        ["match", "-s", "x", "0" * 32],
        ["match", "-s", "x", "abc"],
        ["ls", "-s", "x", "extra"],
        ["stat", "-s", "x", "extra"],
        ["delete", "-s", "x"],
        ["delete", "-s", "x", "abc"],
        ["replay", "-s", "x", "trace"],
        ["replay", "-s", "x", "--block-bytes", "0", "trace"],
        ["replay", "-s", "x", "--block-bytes", "4KiB"],
        ["replay", "-s", "x", "--block-bytes", "4KiB", "--limit", "0", "trace"],
        ["simulate"],
        ["simulate", "trace"],
        ["simulate", "trace", "--capacity-blocks", "0"],
        ["simulate", "trace", "--capacity-blocks", "1,,2"],
        ["simulate", "trace", "--capacity-blocks", "101%"],
        ["simulate", "trace", "--capacity-blocks", "4294967295"],
        ["bench", "--ops", "fly"],
        ["bench", "--threads", "0"],
        ["bench", "--blocks", "x"],
        ["bench", "--block-bytes", "1"],
        ["bench", "--block-bytes", "1TiB", "--blocks", "4000000000"],
        ["bench", "--block-bytes", "1TiB", "--blocks", "100"],
    ],
)
def test_usage_errors(arguments, tmp_path):
    err = run(*arguments, code=USAGE, cwd=tmp_path)[1]
    assert err.startswith("cascade")
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("command", [["ls"], ["stat"], ["match", KEYS[0]], ["flush"]])
def test_no_store_named(command):
    assert "CASCADE_DIR" in run(*command, code=USAGE)[1]


def test_directory_from_environment(store, monkeypatch):
    monkeypatch.setenv("CASCADE_DIR", str(store))
    assert run_json("ls") == []


def start_owner(store, *options):
    """Starts a replay of standard input, and returns once it has the store open: it reads no more than a pipe
    and a buffer hold before."""
    owner = subprocess.Popen(
        [CLI, "replay", "-s", str(store), "-", "--block-bytes", "4KiB", *options],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    owner.stdin.write(b"\n" * 4_000_000)
    owner.stdin.flush()
    return owner


# ---- opening --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "command",
    [["ls"], ["stat"], ["flush"], ["verify"], ["match", KEYS[0]], ["delete", KEYS[0]], ["get", KEYS[0], "-k", "out"]],
)
def test_missing_store(command, tmp_path):
    err = run(*command, "-s", tmp_path / "nowhere", code=STORE, cwd=tmp_path)[1]
    assert "CASCADE_ENOSTORE" in err
    assert "cascade init" in err
    assert os.listdir(tmp_path) == []


def test_init(tmp_path):
    path = tmp_path / "new"
    made = run_json("init", path, "--dram", "64M", "--file-budget", "1GiB", "--page", "4KiB", "--policy", "lru")
    assert made["directory"] == str(path)
    assert made["dram_bytes"] >= 64 << 20
    assert made["file_budget_bytes"] == 1 << 30
    text = (path / "cascade.conf").read_text()
    assert text.startswith("cascade-store 1\n")
    assert "page_bytes = 4096\n" in text
    assert "policy = lru\n" in text
    assert "CASCADE_EEXIST" in run("init", path, code=STORE)[1]
    assert (path / "cascade.conf").read_text() == text


@pytest.mark.parametrize("options", [["--page", "5000"], ["--page", "4M"], ["--policy", "random"]])
def test_init_refuses(options, tmp_path):
    assert "CASCADE_EINVAL" in run("init", tmp_path / "s", *options, code=USAGE)[1]
    assert not (tmp_path / "s" / "cascade.conf").exists()


def test_foreign_settings(store):
    (store / "cascade.conf").write_text("something else\n")
    assert "CASCADE_EFORMAT" in run("stat", "-s", store, code=STORE)[1]


def test_damaged_settings(store):
    conf = store / "cascade.conf"
    text = conf.read_text()
    conf.write_text(text.replace("page_bytes = 65536", "page_bytes = 32768"))
    err = run("stat", "-s", store, code=STORE)[1]
    assert "CASCADE_ECORRUPT" in err and "line" in err
    conf.write_text(text[: len(text) // 2])
    assert "CASCADE_ECORRUPT" in run("stat", "-s", store, code=STORE)[1]
    conf.write_text(text)
    run("stat", "-s", store)


def test_settings_edited_by_hand(store):
    conf = store / "cascade.conf"
    lines = [line for line in conf.read_text().splitlines(True) if not line.startswith("checksum")]
    conf.write_text("".join(re.sub(r"dram_bytes = \d+", "dram_bytes = 96MiB", line) for line in lines))
    assert run_json("stat", "-s", store)["tiers"]["dram"]["capacity_bytes"] >= 96 << 20


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_unreadable_directory(store):
    store.chmod(0)
    try:
        err = run("stat", "-s", store, code=STORE)[1]
    finally:
        store.chmod(0o700)
    assert "CASCADE_EACCES" in err


def test_store_is_a_file(tmp_path):
    path = tmp_path / "file"
    path.write_text("x")
    run("stat", "-s", path, code=STORE)
    run("init", path, code=STORE)
    assert path.read_text() == "x"


def test_busy(store):
    """A second process is refused, and told the owner's pid."""
    owner = start_owner(store)
    try:
        err = run("ls", "-s", store, code=BUSY)[1]
        assert "CASCADE_EBUSY" in err
        assert str(owner.pid) in err
        out, err = owner.communicate(b'{"hash_ids": [1, 2]}\n', timeout=60)
        assert owner.returncode == OK, err
    finally:
        owner.kill()
    assert len(run_json("ls", "-s", store)) == 2


# ---- blocks ---------------------------------------------------------------------------------


def test_put_and_get_by_content(store, files, tmp_path):
    k, v = files
    expected = block_id(k.read_bytes() + v.read_bytes())
    out = run("put", "-s", store, k, v)[0].decode()
    assert out == expected + "\n"
    run("get", "-s", store, expected, "-k", tmp_path / "k.out", "-v", tmp_path / "v.out")
    assert (tmp_path / "k.out").read_bytes() == k.read_bytes()
    assert (tmp_path / "v.out").read_bytes() == v.read_bytes()
    again = run_json("put", "-s", store, k, v)
    assert again["id"] == expected and again["existed"] is True and again["key"] is None


def test_put_and_get_by_key(store, files, tmp_path):
    k, v = files
    put = run_json("put", "-s", store, "--key", KEYS[0], k, v)
    assert put == {
        "id": block_id(k.read_bytes() + v.read_bytes()),
        "key": KEYS[0],
        "existed": False,
        "k_bytes": 100_001,
        "v_bytes": 70_000,
    }
    got = run_json("get", "-s", store, KEYS[0].upper(), "-k", tmp_path / "k.out")
    assert got["id"] == put["id"] and got["written_bytes"] == 100_001
    assert (tmp_path / "k.out").read_bytes() == k.read_bytes()
    assert run("get", "-s", store, KEYS[0], "-k", "-", "-v", "-")[0] == k.read_bytes() + v.read_bytes()
    assert run_json("put", "-s", store, "--key", KEYS[0], k, v)["existed"] is True


def test_k_alone_and_standard_input(store):
    out = run("put", "-s", store, "-", data=b"only K")[0].decode().strip()
    assert out == block_id(b"only K")
    assert run("get", "-s", store, out, "-k", "-", "-v", "-")[0] == b"only K"


def test_get_range(store, files):
    k, v = files
    both = k.read_bytes() + v.read_bytes()
    name = run_json("put", "-s", store, "--key", KEYS[0], k, v)["id"]
    for block in KEYS[0], name:
        for offset, length in (0, 10), (100_000, 2), (170_000, 1), (170_001, 0), (4096, 65536):
            got = run("get", "-s", store, block, "-k", "-", "--range", f"{offset}:{length}")[0]
            assert got == both[offset : offset + length]
        assert run("get", "-s", store, block, "-k", "-", "--range", "4KiB:1KiB")[0] == both[4096 : 4096 + 1024]
        for bad in "170000:2", "170002:0", "0:1G":
            assert "170001 bytes" in run("get", "-s", store, block, "-k", "-", "--range", bad, code=USAGE)[1]


@pytest.mark.parametrize("name", [KEYS[0], "0" * 32])
def test_get_of_nothing(name, store, tmp_path):
    err = run("get", "-s", store, name, "-k", tmp_path / "out", code=NEGATIVE)[1]
    assert name in err
    assert not (tmp_path / "out").exists()


def test_tenants(store, files):
    k, _ = files
    name = run("put", "-s", store, "--tenant", "alice", k)[0].decode().strip()
    run("get", "-s", store, name, "-k", "-", code=NEGATIVE)
    run("get", "-s", store, name, "-k", "-", "--tenant", "bob", code=NEGATIVE)
    assert run("get", "-s", store, name, "-k", "-", "--tenant", "alice")[0] == k.read_bytes()
    run("delete", "-s", store, name, code=NEGATIVE)
    run("delete", "-s", store, name, "--tenant", "alice")
    run("get", "-s", store, name, "-k", "-", "--tenant", "alice", code=NEGATIVE)


def test_unreadable_files(store, tmp_path, files):
    assert "no-such-file" in run("put", "-s", store, tmp_path / "no-such-file", code=FILE)[1]
    assert "directory" in run("put", "-s", store, tmp_path, code=FILE)[1].lower()
    run("put", "-s", store, "--key", KEYS[0], files[0])
    run("get", "-s", store, KEYS[0], "-k", tmp_path / "no-folder" / "out", code=FILE)
    run("get", "-s", store, KEYS[0], "-k", "/dev/full", code=FILE)
    assert run_json("ls", "-s", store)[0]["key"] == KEYS[0]


def test_own_parent(store, files):
    err = run("put", "-s", store, "--key", KEYS[0], "--parent", KEYS[0], files[0], code=STORE)[1]
    assert "CASCADE_EINVAL" in err
    assert run_json("ls", "-s", store) == []


def test_block_larger_than_dram(store, tmp_path):
    big = tmp_path / "big"
    with open(big, "wb") as file:
        file.truncate(200 << 20)
    assert "CASCADE_ETOOBIG" in run("put", "-s", store, "--key", KEYS[0], big, code=STORE)[1]
    assert run_json("ls", "-s", store) == []


# ---- names ----------------------------------------------------------------------------------


def put_chain(store, files, count):
    for i in range(count):
        parent = ["--parent", KEYS[i - 1]] if i else []
        run("put", "-s", store, "--key", KEYS[i], *parent, *files)


def test_match(store, files):
    put_chain(store, files, 3)
    assert run("match", "-s", store, *KEYS[:3])[0] == b"3\n"
    assert run_json("match", "-s", store, *KEYS[:5]) == {"matched": 3, "keys": 5}
    assert run("match", "-s", store, KEYS[4], KEYS[0], code=NEGATIVE)[0] == b"0\n"


def test_ls(store, files):
    assert run("ls", "-s", store)[0] == b""
    assert run_json("ls", "-s", store) == []
    put_chain(store, files, 3)
    listed = {entry["key"]: entry for entry in run_json("ls", "-s", store)}
    assert sorted(listed) == KEYS[:3]
    entry = listed[KEYS[1]]
    assert entry["id"] == block_id(files[0].read_bytes() + files[1].read_bytes())
    assert (entry["k_bytes"], entry["v_bytes"]) == (100_001, 70_000)
    assert entry["parent"] == KEYS[0] and listed[KEYS[0]]["parent"] is None
    assert set(entry["tiers"]) <= {"dram", "file"} and entry["tiers"]
    lines = run("ls", "-s", store)[0].decode().splitlines()
    assert sorted(line.split()[0] for line in lines) == KEYS[:3]


def test_ls_into_a_closed_pipe(store, files):
    put_chain(store, files, 2)
    done = subprocess.run(f"'{CLI}' ls -s '{store}' | true", shell=True, capture_output=True, timeout=60)
    assert done.stderr == b""
    assert len(run_json("ls", "-s", store)) == 2


def test_delete(store, files):
    put_chain(store, files, 3)
    assert run_json("delete", "-s", store, KEYS[2]) == {"deleted": 1, "missing": []}
    assert run_json("delete", "-s", store, KEYS[2], KEYS[1], code=NEGATIVE) == {"deleted": 1, "missing": [KEYS[2]]}
    assert [entry["key"] for entry in run_json("ls", "-s", store)] == KEYS[:1]
    # deleting keys does not harm another key of the same content
    assert run("get", "-s", store, KEYS[0], "-k", "-")[0] == files[0].read_bytes()


# ---- the store as a whole -------------------------------------------------------------------


def test_stat(store, files):
    put_chain(store, files, 2)
    stat = run_json("stat", "-s", store)
    assert set(stat["tiers"]) == {"dram", "file"}
    for tier in stat["tiers"].values():
        assert set(tier) == set(
            "capacity_bytes used_bytes blocks block_bytes hits misses promotions demotions evictions drops "
            "quarantined read_bytes written_bytes".split()
        )
    assert set(stat["metadata_ops"]) == set("open create rename unlink stat mkdir readdir truncate fsync".split())
    assert set(stat["latency"]) == set("put get_dram get_file view match delete flush".split())
    for operation in stat["latency"].values():
        assert set(operation) == {"count", "total_ns", "p50_us", "p99_us", "buckets"}
        assert len(operation["buckets"]) == 40
    assert stat["keys"] == 2 and stat["contents"] == 1 and stat["lost"] == 0
    assert stat["dedup_bytes_saved"] == 170_001
    assert stat["tiers"]["file"]["blocks"] == 1
    text = run("stat", "-s", store)[0].decode()
    assert "dram" in text and "keys 2" in text


def test_flush(store, files):
    put_chain(store, files, 1)
    assert run("flush", "-s", store)[0] == b""
    assert "written_bytes" in run_json("flush", "-s", store)


def test_verify(store, files):
    put_chain(store, files, 2)
    report = run_json("verify", "-s", store)
    assert report["ok"] is True and sum(report["damaged"].values()) == 0
    assert report["blocks"]["file"] == 1
    assert b"0 damaged" in run("verify", "-s", store)[0]


def test_verify_finds_damage(store, files):
    put_chain(store, files, 1)
    (segment,) = store.glob("agg_*.bin")
    data = bytearray(segment.read_bytes())
    at = bytes(data).find(files[0].read_bytes()[50_000:50_064])
    assert at > 0
    data[at] ^= 1
    segment.write_bytes(data)
    report = run_json("verify", "-s", store, code=NEGATIVE)
    assert report["ok"] is False and report["damaged"]["file"] == 1
    run("get", "-s", store, KEYS[0], "-k", "-", code=NEGATIVE)
    run("put", "-s", store, "--key", KEYS[0], *files)
    assert run("get", "-s", store, KEYS[0], "-k", "-")[0] == files[0].read_bytes()


def test_truncated_segment(store, files):
    put_chain(store, files, 1)
    other = files[0].read_bytes()[:5000]
    run("put", "-s", store, "--key", KEYS[5], "-", data=other)
    first, second = sorted(store.glob("agg_*.bin"))[:2]
    with open(first, "r+b") as file:
        file.truncate(first.stat().st_size // 2)
    got = subprocess.run([CLI, "get", "-s", str(store), KEYS[0], "-k", "-"], capture_output=True, timeout=60)
    assert got.returncode == NEGATIVE, got.stderr
    assert run("get", "-s", store, KEYS[5], "-k", "-")[0] == other


# ---- replay and simulate --------------------------------------------------------------------


def test_replay(store, trace):
    result = run_json("replay", "-s", store, trace, "--block-bytes", "64KiB")
    assert result["requests"] == 6 and result["blocks"] == 14
    assert result["hits"] == 2 + 3 + 3 and result["hit_ratio"] == pytest.approx(8 / 14)
    assert result["lost"] == 0 and result["wrong"] == 0
    assert sum(result["hits_by_tier"].values()) == 8 and set(result["hits_by_tier"]) == {"dram", "file"}
    assert result["put_gbps"] > 0 and result["get_gbps"] > 0 and result["dedup_bytes_saved"] == 0
    again = run_json("replay", "-s", store, trace, "--block-bytes", "64KiB")
    assert again["hits"] == 14 and again["stored_blocks"] == 0 and again["lost"] == 0
    text = run("replay", "-s", store, trace, "--block-bytes", "64KiB")
    assert b"hit ratio       1.0000" in text[0] and text[1] == ""


@pytest.mark.parametrize("block_bytes", [1, 7, 4097])
def test_replay_of_odd_sizes(store, trace, block_bytes):
    result = run_json("replay", "-s", store, trace, "--block-bytes", block_bytes)
    assert result["hits"] == 8 and result["wrong"] == 0


def test_replay_limit_and_standard_input(store, trace):
    result = run_json("replay", "-s", store, "-", "--block-bytes", "4K", "--limit", "2", data=trace.read_bytes())
    assert result["requests"] == 2


def test_replay_larger_than_dram(store, tmp_path):
    """Nothing is lost when three quarters of the blocks have to live in files."""
    path = tmp_path / "large.jsonl"
    requests = [list(range(16 * i, 16 * i + 16)) for i in range(16)] * 2
    path.write_text("".join(json.dumps({"hash_ids": ids}) + "\n" for ids in requests))
    result = run_json("replay", "-s", store, path, "--block-bytes", "1MiB")
    assert result["lost"] == 0 and result["wrong"] == 0
    assert result["hits"] == 256
    assert result["hits_by_tier"]["file"] > 0


@pytest.mark.parametrize("line", ["{", "[]", '{"hash_ids": [-1]}', '{"hash_ids": [1.5]}', '{"ids": [1]}', "\x00"])
def test_bad_traces(store, tmp_path, line):
    path = tmp_path / "bad.jsonl"
    path.write_text('{"hash_ids": [1]}\n' + line + "\n")
    for command in (["replay", "-s", store, "--block-bytes", "4K"], ["simulate", "--capacity-blocks", "5"]):
        err = run(*command, path, code=FILE)[1]
        assert "line 2" in err and "bad.jsonl" in err


def test_missing_traces(store, tmp_path):
    for command in (["replay", "-s", store, "--block-bytes", "4K"], ["simulate", "--capacity-blocks", "5"]):
        assert "no-such" in run(*command, tmp_path / "no-such", code=FILE)[1]
    (tmp_path / "empty").write_text("")
    assert "no blocks" in run("simulate", "--capacity-blocks", "5", tmp_path / "empty", code=FILE)[1]


def test_trace_with_a_cycle(store, tmp_path):
    path = tmp_path / "cycle.jsonl"
    path.write_text('{"hash_ids": [1, 1]}\n')
    err = run("replay", "-s", store, path, "--block-bytes", "4K", code=STORE)[1]
    assert "CASCADE_EINVAL" in err and "line 1" in err


def test_simulate(trace):
    result = run_json("simulate", trace, "--capacity-blocks", "2,100%", "--policy", "all")
    assert result["requests"] == 6 and result["blocks"] == 14 and result["distinct_blocks"] == 6
    assert result["ceiling"] == pytest.approx(8 / 14)
    assert [(r["policy"], r["capacity_blocks"]) for r in result["results"]] == [
        (policy, blocks) for policy in ("hazard", "lru", "published") for blocks in (2, 6)
    ]
    for r in result["results"]:
        assert 0 <= r["hit_ratio"] <= result["ceiling"] + 1e-9
        if r["capacity_blocks"] == 6:
            assert r["hit_ratio"] == pytest.approx(result["ceiling"])
    assert run_json("simulate", trace, "--capacity-blocks", "1%")["results"][0]["capacity_blocks"] == 1
    assert b"unlimited" in run("simulate", "-", "--capacity-blocks", "3", data=trace.read_bytes())[0]


def test_simulate_unknown_policy(trace):
    assert "fifo" in run("simulate", trace, "--capacity-blocks", "2", "--policy", "fifo", code=USAGE)[1]


# ---- signals --------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signal_ends_replay_in_order(store, number):
    owner = start_owner(store, "--json")
    try:
        owner.stdin.write(b'{"hash_ids": [1, 2, 3]}\n')
        owner.stdin.flush()
        time.sleep(1)  # for the request; were it not done, there would be less to check
        owner.send_signal(number)
        out, err = owner.communicate(timeout=60)
    finally:
        owner.kill()
    assert owner.returncode == 128 + number, err
    requests = json.loads(out)["requests"]
    assert requests in (0, 1)
    # closed in order: nothing was left to recover, all is in files
    stat = run_json("stat", "-s", store)
    assert stat["keys"] == 3 * requests and stat["recovered_blocks"] == 0
    assert stat["tiers"]["file"]["blocks"] == 3 * requests
