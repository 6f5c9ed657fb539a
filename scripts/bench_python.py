#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""What Python adds to a get: the time of Store.get_into beside the time the library spent in the very same calls.

The library's own latency counters are read before and after each run, so both figures are of the same copies
into the same warm buffers. Prints a table, or JSON with --json. Needs the package: pip install .
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import sys
import tempfile
import time

import cascade

RUNS = 9
SEED = 20240607


def wait_until_prefaulted(store: cascade.Store) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        stats = store.stats()
        if stats["arena_ready_bytes"] >= stats["tiers"]["dram"]["capacity_bytes"]:
            return
        time.sleep(0.02)


def library_seconds(store: cascade.Store) -> float:
    gets = store.stats()["latency"]["get_dram"]
    return gets["count"] * gets["mean_us"] / 1e6


def measure(folder: str, block_bytes: int, working_set: int) -> dict:
    """Medians over RUNS passes in random order over `working_set` bytes of blocks and as much of buffers."""
    count = max(4, working_set // block_bytes)
    half = block_bytes // 2
    keys = [number.to_bytes(32, "little") for number in range(count)]
    buffers = [(bytearray(half), bytearray(block_bytes - half)) for _ in range(count)]
    python_gbps, library_gbps, ratios = [], [], []
    with cascade.Store(folder, dram=count * block_bytes + count * 65536 + (64 << 20)) as store:
        wait_until_prefaulted(store)
        for number, key in enumerate(keys):
            k, v = buffers[number]
            k[:8] = number.to_bytes(8, "little")
            store.put(key, k, v)
        store.flush()
        order = list(range(count))
        for run in range(RUNS + 1):
            random.Random(SEED + run).shuffle(order)
            inside, begin = library_seconds(store), time.perf_counter()
            for number in order:
                k, v = buffers[number]
                store.get_into(keys[number], k, v)
            whole = time.perf_counter() - begin
            inside = library_seconds(store) - inside
            if run:  # the first warms up
                python_gbps.append(count * block_bytes / whole / 1e9)
                library_gbps.append(count * block_bytes / inside / 1e9)
                ratios.append(inside / whole)
        for number in order:
            assert buffers[number][0][:8] == number.to_bytes(8, "little"), "wrong bytes"
    return {
        "block_bytes": block_bytes,
        "blocks": count,
        "python_gbps": statistics.median(python_gbps),
        "library_gbps": statistics.median(library_gbps),
        "ratio": statistics.median(ratios),
        "ratio_min": min(ratios),
        "ratio_max": max(ratios),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--block-bytes", default="1MiB,16MiB", help="sizes, with commas (1MiB,16MiB)")
    parser.add_argument("--working-set", default="1GiB", help="bytes of blocks (1GiB)")
    parser.add_argument("--json", action="store_true", help="print JSON")
    arguments = parser.parse_args()
    working_set = cascade.parse_size(arguments.working_set)
    results = []
    for text in arguments.block_bytes.split(","):
        with tempfile.TemporaryDirectory(prefix="cascade-bench-") as folder:
            results.append(measure(os.path.join(folder, "store"), cascade.parse_size(text), working_set))
    if arguments.json:
        json.dump({"results": results, "runs": RUNS, "version": cascade.__version__}, sys.stdout, indent=2)
        print()
        return 0
    print(f"{'block':>10} {'get_into GB/s':>14} {'library GB/s':>13} {'ratio':>6}   medians of {RUNS} runs")
    for r in results:
        print(f"{r['block_bytes'] // 1024:>6} KiB {r['python_gbps']:>14.2f} {r['library_gbps']:>13.2f} {r['ratio']:>6.3f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
