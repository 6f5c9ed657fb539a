# SPDX-License-Identifier: MIT
"""Threads, forks, and the end of the interpreter."""

import os
import signal
import subprocess
import sys
import threading
import time

import pytest
from conftest import DRAM, key_of

import cascade

MIB = 1 << 20
TRIES = 500


@pytest.fixture
def no_switching():
    """Threads run on only when another gives the GIL up by itself."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1000)
    yield
    sys.setswitchinterval(before)


@pytest.mark.parametrize("name", ["compute_block_id", "put", "get_into", "get_many_into", "verify"])
def test_the_gil_is_released(store, no_switching, name):
    data, into = bytes(range(256)) * (8 * MIB // 256), bytearray(8 * MIB)
    store.put(key_of("there"), data, sync=True)

    def put():
        store.delete(key_of("new"))
        store.put(key_of("new"), data)

    call = {
        "compute_block_id": lambda: cascade.compute_block_id(data),
        "put": put,
        "get_into": lambda: store.get_into(key_of("there"), into),
        "get_many_into": lambda: store.get_many_into([(key_of("there"), into)]),
        "verify": store.verify,
    }[name]
    ticks = 0
    stop = threading.Event()

    def tick():
        nonlocal ticks
        while not stop.is_set():
            ticks += 1
            time.sleep(0)  # gives the GIL up, so that the caller comes to run

    ticker = threading.Thread(target=tick)
    ticker.start()
    try:
        for _ in range(TRIES):
            before = ticks
            call()
            # With the GIL held, nothing in between would have let the other thread run.
            if ticks != before:
                break
        else:
            pytest.fail(f"no other thread ran during {TRIES} calls")
    finally:
        stop.set()
        ticker.join()


def test_many_threads(store):
    failures = []

    def work(number):
        try:
            for turn in range(60):
                key, data = key_of(turn % 20), bytes([turn % 20]) * 5000
                store.put(key, data, data[:number])
                k, v = store.get(key)
                assert k == data and len(set(v)) <= 1
                with store.view(key) as view:
                    assert b"".join(view.k) == data
                assert store.match_prefix([key]) == 1
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []


@pytest.mark.parametrize("turn", range(5))
def test_close_under_load(tmp_path, turn):
    store = cascade.Store(tmp_path / "s", DRAM)
    data = b"x" * (8 * MIB)  # so that nearly always a copy is running
    store.put(key_of(1), data)
    running = threading.Barrier(5)
    outcomes = []

    def work():
        into = bytearray(len(data))
        running.wait()
        try:
            while True:
                store.get_into(key_of(1), into)
                store.stats()
        except cascade.ClosedError:
            outcomes.append("closed")
        except BaseException as error:
            outcomes.append(error)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    running.wait()
    time.sleep(0.003 * turn)
    seen = []

    def close():
        store.close()
        seen.append(store.closed)

    closers = [threading.Thread(target=close) for _ in range(2)]
    for thread in closers:
        thread.start()
    for thread in threads + closers:
        thread.join()
    assert outcomes == ["closed"] * 4
    # Both closers have waited until it was over.
    assert seen == [True, True]
    cascade.Store(tmp_path / "s").close()


def in_child(function):
    """Runs `function` in a forked child; the child's exit code is 0 if it returned."""
    child = os.fork()
    if child == 0:
        signal.alarm(60)  # kills a child that waits for ever
        try:
            function()
            os._exit(0)
        except BaseException as error:
            print(repr(error), file=sys.stderr, flush=True)
        os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_is_told(store):
    store.put(key_of(1), b"K")

    def child():
        for call in (
            lambda: store.get(key_of(1)),
            lambda: store.put(key_of(2), b"K"),
            lambda: store.view(key_of(1)),
            lambda: store.match_prefix([key_of(1)]),
            store.stats,
        ):
            with pytest.raises(cascade.ForkedError):
                call()
        store.close()

    assert in_child(child) == 0
    # Closing the child's copy has not touched the parent's.
    assert store.get(key_of(1))[0] == b"K"


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_with_a_view(store):
    store.put(key_of(1), b"K" * 1000)
    with store.view(key_of(1)) as view:

        def child():
            with pytest.raises(BufferError):
                store.close()
            view.release()
            store.close()

        assert in_child(child) == 0
        # The child's release has not unpinned for the parent.
        assert store.stats()["pins"] == 1 and bytes(view.k[0][:4]) == b"KKKK"


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_child_forked_during_a_call(store):
    """The call that was running is the parent's: the child's close does not wait for it."""
    store.put(key_of(1), b"K" * (16 * MIB))
    stop = threading.Event()

    def work():
        while not stop.is_set():
            store.verify()

    def child():
        store.close()

    thread = threading.Thread(target=work)
    thread.start()
    try:
        assert [in_child(child) for _ in range(5)] == [0] * 5
    finally:
        stop.set()
        thread.join()
    assert key_of(1) in store


def run(code, *arguments):
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", code, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=300,
    )


def test_the_end_of_the_interpreter_closes(tmp_path):
    code = """
import sys, cascade, threading
store = cascade.Store(sys.argv[1], "32MiB")
store.put(b"k" * 32, b"K" * 1000)
def work():
    into = bytearray(1000)
    while True:
        store.get_into(b"k" * 32, into)
threading.Thread(target=work, daemon=True).start()
"""
    done = run(code, tmp_path / "s")
    assert done.returncode == 0, done.stderr
    with cascade.Store(tmp_path / "s", create=False) as store:
        assert store.get(b"k" * 32)[0] == b"K" * 1000
        assert store.stats()["recovered_blocks"] == 0


def test_the_end_of_the_interpreter_with_a_view(tmp_path):
    code = """
import sys, cascade
store = cascade.Store(sys.argv[1], "32MiB")
store.put(b"k" * 32, b"K" * 1000)
view = store.view(b"k" * 32)
piece = view.k[0][3:]
"""
    done = run(code, tmp_path / "s")
    assert done.returncode == 0, done.stderr
    with cascade.Store(tmp_path / "s", create=False) as store:
        assert store.get(b"k" * 32)[0] == b"K" * 1000


def test_nothing_large_is_imported():
    code = "import sys, cascade; cascade.compute_block_id(b'x'); print([n for n in ('numpy', 'torch') if n in sys.modules])"
    done = run(code)
    assert (done.returncode, done.stdout.strip()) == (0, "[]"), done.stderr
