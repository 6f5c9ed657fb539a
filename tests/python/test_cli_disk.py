# SPDX-License-Identifier: MIT
"""A full disk and one that refuses, at the level of the command: in a small mount of the test's own."""

import json
import os
import subprocess
import sys

import pytest
from test_cli import CLI, DEGRADED, clean_environment, pytestmark

__all__ = ["clean_environment", "pytestmark"]  # pytest finds them here

PRIVATE = ["unshare", "--mount", "--propagation", "private"]
MOUNT = ["mount", "-t", "tmpfs", "-o", "size=8m", "none"]


@pytest.fixture(scope="module")
def own_mounts(tmp_path_factory):
    """Whether this user may mount something in a mount namespace of its own."""
    folder = tmp_path_factory.mktemp("mount")
    try:
        done = subprocess.run([*PRIVATE, *MOUNT, str(folder)], capture_output=True, text=True)
    except FileNotFoundError:
        pytest.skip("unshare is not installed")
    if done.returncode:
        pytest.skip(f"no mounts of one's own: {done.stderr.strip()}")


def inside(function, tmp_path):
    """Runs a function of this file in a process whose `tmp_path / "disk"` is a disk of 8 MiB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    code = f"import sys; sys.path.insert(0, {os.path.dirname(__file__)!r}); import test_cli_disk as t; "
    code += f"t.{function.__name__}({str(disk)!r})"
    script = 'mount -t tmpfs -o size=8m none "$1" && exec "$2" -c "$3"'
    command = [*PRIVATE, "sh", "-c", script, "sh", str(disk), sys.executable, code]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr


def call(*arguments, data=None):
    done = subprocess.run([CLI, *arguments], input=data, capture_output=True, timeout=120)
    return done.returncode, done.stdout, done.stderr.decode()


def key(number):
    return format(number, "064x")


def block(number):
    return bytes([number]) * (1 << 20)


def fill(store, most):
    """Puts blocks of 1 MiB until the exit code is not 0. How many were put, and that code."""
    for number in range(1, most + 1):
        code = call("put", "-s", store, "--key", key(number), "-", data=block(number))[0]
        if code:
            return number, code
    return most, 0


def expect_blocks(store, count, code):
    for number in range(1, count + 1):
        got, out, err = call("get", "-s", store, key(number), "-k", "-")
        assert got == code and out == block(number), (number, got, err)


def expect_stat(store, code, degraded):
    got, out, err = call("stat", "-s", store, "--json")
    assert got == code and json.loads(out)["file_degraded"] == degraded, (got, err)
    return err


def full_and_freed(disk):
    store, ballast = f"{disk}/store", f"{disk}/ballast"
    with open(ballast, "wb") as file:
        file.write(bytes(4 << 20))
    assert call("init", store, "--dram", "32MiB")[0] == 0
    count, code = fill(store, 20)
    assert code == DEGRADED and 1 < count < 6, (count, code)
    expect_stat(store, DEGRADED, 1)
    assert "REFUSES WRITES" in call("stat", "-s", store)[1].decode()
    assert call("flush", "-s", store)[0] == DEGRADED
    # It goes on from dram: the block that did not fit, and another one.
    assert call("put", "-s", store, "--key", key(count + 1), "-", data=block(count + 1))[0] == DEGRADED
    expect_blocks(store, count + 1, DEGRADED)
    os.unlink(ballast)
    assert call("flush", "-s", store)[0] == 0
    expect_stat(store, 0, 0)
    expect_blocks(store, count + 1, 0)


def refuses_and_takes_again(disk):
    store = f"{disk}/store"
    assert call("init", store, "--dram", "32MiB")[0] == 0
    assert fill(store, 2) == (2, 0)
    subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
    code, _, err = call("put", "-s", store, "--key", key(3), "-", data=block(3))
    assert code == DEGRADED and "waits in" in err
    expect_stat(store, DEGRADED, 1)
    expect_blocks(store, 3, DEGRADED)
    subprocess.run(["mount", "-o", "remount,rw", disk], check=True)
    expect_stat(store, 0, 0)
    expect_blocks(store, 3, 0)


def test_full_disk(own_mounts, tmp_path):
    inside(full_and_freed, tmp_path)


def test_disk_that_refuses(own_mounts, tmp_path):
    inside(refuses_and_takes_again, tmp_path)
