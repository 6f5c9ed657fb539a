# SPDX-License-Identifier: MIT
"""`cascade serve`; see test_cli.py. What it says over its socket is src/daemon/server_test.c's affair."""

import contextlib
import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import time

import pytest

import cascade
from test_cli import BUSY, CLI, OK, STORE, USAGE, clean_environment, pytestmark, run, run_json, store

__all__ = ["clean_environment", "pytestmark", "store"]  # pytest finds them here


@pytest.fixture(autouse=True)
def runtime(tmp_path, monkeypatch):
    path = tmp_path / "run"
    path.mkdir(mode=0o700)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(path))
    return path


@contextlib.contextmanager
def serving(path, runtime, *arguments):
    """A daemon that listens."""
    daemon = subprocess.Popen([CLI, "serve", "-s", path, "--json", *arguments], stdout=subprocess.PIPE,
                              stderr=subprocess.PIPE)
    try:
        while not listens(runtime):
            assert daemon.poll() is None, daemon.stderr.read()
            time.sleep(0.01)
        yield daemon
    finally:
        daemon.kill()
        daemon.wait()
        daemon.stdout.close()
        daemon.stderr.close()


def listens(runtime):
    for path in (runtime / "cascade").glob("*.sock"):
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as client:
            try:
                here = os.getcwd()
                os.chdir(path.parent)  # the path may be too long for an address
                client.connect(path.name)
            except OSError:
                return False
            finally:
                os.chdir(here)
        return True
    return False


def end(daemon, number, code=OK):
    daemon.send_signal(number)
    out, err = daemon.communicate()
    assert daemon.returncode == code, (daemon.returncode, out, err)
    return json.loads(out), err.decode()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_in_order(store, runtime, number):
    with cascade.Store(store) as filled:
        filled.put(b"k" * 32, b"block")
    with serving(store, runtime) as daemon:
        (path,) = (runtime / "cascade").iterdir()
        assert path.stat().st_mode & 0o777 == 0o600
        told, err = end(daemon, number)
    assert told == {"puts": 0, "keys": 1, "left_bytes": 0, "recovered_blocks": 0} and err == ""
    assert not list((runtime / "cascade").iterdir())
    assert run_json("stat", "-s", store)["recovered_blocks"] == 0  # it was closed


def test_a_next_one_takes_over(store, runtime):
    with serving(store, runtime) as daemon:
        daemon.kill()
        daemon.wait()
        assert len(list((runtime / "cascade").iterdir())) == 1  # a dead one's
        with serving(store, runtime) as following:
            _, err = run("serve", "-s", store, code=BUSY)
            assert str(following.pid) in err
            end(following, signal.SIGTERM)


def test_it_makes_a_store_and_leaves_when_idle(tmp_path, monkeypatch):
    monkeypatch.setenv("CASCADE_DRAM", "64MiB")
    told = run_json("serve", "-s", tmp_path / "made", "--idle", 1)
    assert told["keys"] == 0
    assert (tmp_path / "made" / "cascade.conf").exists()


def test_what_a_killed_owner_left_is_flushed_at_the_end(store, runtime):
    script = f"import cascade, os; s = cascade.Store({str(store)!r}); s.put(b'k' * 32, b'block' * 99999); os._exit(0)"
    subprocess.run([sys.executable, "-c", script], check=True)
    with serving(store, runtime, "--drain", "600") as daemon:
        assert end(daemon, signal.SIGTERM)[0]["left_bytes"] == 0
    with cascade.Store(store) as opened:
        assert opened.get(b"k" * 32)[0] == b"block" * 99999
        assert opened.stats()["recovered_blocks"] == 0


def test_usage(store, runtime):
    run("serve", "-s", store, "extra", code=USAGE)
    run("serve", "-s", store, "--idle", "soon", code=USAGE)
    pathlib.Path(runtime / "cascade").mkdir(mode=0o755)
    _, err = run("serve", "-s", store, code=STORE)
    assert "open to others" in err
