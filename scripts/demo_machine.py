# SPDX-License-Identifier: MIT
"""What the demo has to know about the machine: room, facts for the record, and the limits that the store
is compared with (a plain copy in memory, direct transfers to and from the disk)."""

import ctypes
import mmap
import os
import platform
import shutil
import statistics
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

MIB = 1 << 20
GIB = 1 << 30
TRANSFER_BYTES = 4 * MIB
TRANSFERS_IN_FLIGHT = 8


def free_memory() -> int:
    """Bytes that can be taken without swapping, a limit on this group of processes considered."""
    fields = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
    free = int(fields["MemAvailable"].split()[0]) * 1024
    group = Path("/sys/fs/cgroup")
    try:
        limit = (group / "memory.max").read_text().strip()
        if limit != "max":
            free = min(free, int(limit) - int((group / "memory.current").read_text()))
    except (OSError, ValueError):
        pass  # no second version of control groups, no limit known
    return free


def free_disk(path: Path) -> int:
    return shutil.disk_usage(path).free


def file_system(path: Path) -> str:
    """The type of the file system that holds `path`."""
    best, path = ("", "unknown"), path.resolve()
    for line in Path("/proc/mounts").read_text().splitlines():
        _, mount, kind = line.split()[:3]
        if (str(path) + "/").startswith(mount.rstrip("/") + "/") and len(mount) >= len(best[0]):
            best = (mount, kind)
    return best[1]


def facts(scratch: Path) -> dict:
    """The machine, for the record of a run."""
    model = "unknown"
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.split(":", 1)[1].strip()
            break
    return {
        "cpu": model,
        "cores": len(os.sched_getaffinity(0)),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "kernel": platform.release(),
        "file_system": file_system(scratch),
    }


def commit(root: Path) -> str:
    """The commit that runs, with "-dirty" if the tree differs from it."""
    done = subprocess.run(["git", "describe", "--always", "--dirty", "--abbrev=12"], cwd=root,
                          capture_output=True, text=True)
    return done.stdout.strip() or "unknown"


def warm_buffer(size: int) -> np.ndarray:
    """Page-aligned private memory whose every page has been touched."""
    memory = mmap.mmap(-1, size)
    array = np.frombuffer(memory, dtype=np.uint64)
    array[:] = 1
    return array


def copy_gbps(source: np.ndarray, target: np.ndarray, rounds: int = 7) -> float:
    """The C library's memcpy between two warm buffers: the median of `rounds`."""
    times = []
    for _ in range(rounds + 1):
        began = time.perf_counter()
        ctypes.memmove(target.ctypes.data, source.ctypes.data, source.nbytes)
        times.append(time.perf_counter() - began)
    return source.nbytes / statistics.median(times[1:]) / 1e9


def disk_gbps(folder: Path, size: int) -> dict:
    """Writes and reads `size` bytes in a scratch file, several transfers in flight, past the page cache
    where the file system allows. The write ends with fdatasync and goes to a fresh file."""
    path = folder / "disk-limit.scratch"
    size -= size % (TRANSFER_BYTES * TRANSFERS_IN_FLIGHT)
    flags = os.O_RDWR | os.O_CREAT | os.O_TRUNC
    try:
        descriptor, direct = os.open(path, flags | os.O_DIRECT, 0o600), True
    except OSError:
        descriptor, direct = os.open(path, flags, 0o600), False
    buffers = [mmap.mmap(-1, TRANSFER_BYTES) for _ in range(TRANSFERS_IN_FLIGHT)]
    for number, buffer in enumerate(buffers):
        buffer[:] = np.random.default_rng(number).bytes(TRANSFER_BYTES)

    def every(transfer):
        def worker(lane: int) -> None:
            for offset in range(lane * TRANSFER_BYTES, size, TRANSFER_BYTES * TRANSFERS_IN_FLIGHT):
                if transfer(descriptor, [buffers[lane]], offset) != TRANSFER_BYTES:
                    raise OSError(f"short transfer at {offset} of {path}")
        with ThreadPoolExecutor(TRANSFERS_IN_FLIGHT) as pool:
            list(pool.map(worker, range(TRANSFERS_IN_FLIGHT)))

    try:
        began = time.perf_counter()
        every(os.pwritev)
        os.fdatasync(descriptor)
        write_seconds = time.perf_counter() - began
        if not direct:
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        began = time.perf_counter()
        every(os.preadv)
        read_seconds = time.perf_counter() - began
    finally:
        os.close(descriptor)
        path.unlink()
    return {"write_gbps": size / write_seconds / 1e9, "read_gbps": size / read_seconds / 1e9,
            "direct": direct, "bytes": size}


def drop_page_cache(folder: Path) -> str:
    """Drops the store's segment files from the page cache; says how."""
    for path in folder.glob("**/*.bin"):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(descriptor)
    return "posix_fadvise(DONTNEED) on every segment file"
