#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""The store's file tier beside fio in the same directory: runs in turns, medians, ratios. See bench_file.sh."""

import argparse
import json
import os
import pathlib
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

DEPTHS = (4, 8, 16, 32)
UNITS = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}
# What is compared with what: a figure of the store, and the best depth of a kind of fio job.
RATIOS = (
    ("persist_fresh", "write"),
    ("persist_recycled", "overwrite"),
    ("cold_get", "read"),
    ("cold_get_many", "read"),
)


def size_of(text):
    digits = text.upper().removesuffix("IB").removesuffix("B")
    unit = UNITS.get(digits[-1:], 1)
    return int(float(digits.rstrip("KMGT")) * unit)


def arguments():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cascade", default="cascade", help="the command to measure")
    parser.add_argument("--directory", default=os.environ.get("TMPDIR", "/tmp"), help="on the disk to measure")
    parser.add_argument("--size", default="8GiB", type=size_of, help="bytes of one pass (8GiB)")
    parser.add_argument("--full", action="store_true", help="7 turns instead of 3, and every fio depth at full size")
    parser.add_argument("--runs", type=int, help="turns")
    parser.add_argument("--key-file", help="also measure persist with encryption")
    parser.add_argument("--output", help="where the JSON goes (build/bench_file.json)")
    return parser.parse_args()


# ---- the store -----------------------------------------------------------------------------------


def run_store(options, folder, ops, key_file=None):
    command = [options.cascade, "bench", "--ops", ops, "--size", str(options.size), "--runs", "1", "--json"]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("CASCADE_")}
    if key_file:
        environment["CASCADE_KEY_FILE"] = key_file
    environment["TMPDIR"] = folder
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    if done.returncode:
        sys.exit(f"cascade bench failed: {done.stderr}")
    sys.stderr.write(done.stderr)
    return json.loads(done.stdout)


# ---- fio -----------------------------------------------------------------------------------------


def fio_rate(folder, kind, depth, size, engine):
    """GB/s of one job, the last sync included. `overwrite` and `read` find the file of `write`."""
    path = pathlib.Path(folder, "fio.raw")
    if kind == "write":
        path.unlink(missing_ok=True)
    else:
        assert path.stat().st_size >= size
    command = ["fio", "--name=job", f"--filename={path}", f"--rw={'read' if kind == 'read' else 'write'}"]
    command += ["--bs=4M", f"--size={size}", "--direct=1", f"--ioengine={engine}", f"--iodepth={depth}"]
    command += ["--overwrite=0", "--fallocate=none" if kind != "write" else "--fallocate=native", "--output-format=json"]
    command += [] if kind == "read" else ["--end_fsync=1"]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(done.stderr.strip() or done.stdout.strip())
    job = json.loads(done.stdout[done.stdout.index("{") :])["jobs"][0]
    side = job["read" if kind == "read" else "write"]
    return side["io_bytes"] / max(job["job_runtime"], side["runtime"], 1) / 1e6


def fio_engine(folder):
    """The engine that works here, or None and why."""
    if not shutil.which("fio"):
        return None, "not run: no fio"
    for engine in ("io_uring", "libaio", "psync"):
        try:
            fio_rate(folder, "write", 4, 16 << 20, engine)
            return engine, None
        except RuntimeError as error:
            reason = f"not run: {error}"
    return None, reason


def run_fio(options, folder, engine):
    """GB/s by kind and depth."""
    size = options.size if options.full else max(options.size // len(DEPTHS), 64 << 20)
    size = size // (4 << 20) * (4 << 20)
    return {
        kind: {depth: fio_rate(folder, kind, depth, size, engine) for depth in DEPTHS}
        for kind in ("write", "overwrite", "read")
    }


# ---- the report ----------------------------------------------------------------------------------


def summary(values):
    return {"median": statistics.median(values), "least": min(values), "most": max(values), "runs": values}


def commit():
    done = subprocess.run(["git", "describe", "--always", "--dirty"], capture_output=True, text=True)
    return done.stdout.strip() or None


def machine(folder):
    cpu = ""
    with open("/proc/cpuinfo", encoding="utf-8") as file:
        cpu = next((line.split(":", 1)[1].strip() for line in file if line.startswith("model name")), cpu)
    kind = subprocess.run(["stat", "-f", "-c", "%T", folder], capture_output=True, text=True).stdout.strip()
    return {"cpu": cpu, "cpus": os.cpu_count(), "kernel": platform.release(), "file_system": kind}


def collect(options, folder, engine, runs):
    store, raw, encrypted, facts = {}, {}, [], {}
    for turn in range(runs):
        print(f"turn {turn + 1} of {runs}", file=sys.stderr)
        ops = "persist,cold,files"
        result = run_store(options, folder, ops)
        facts = {name: value for name, value in result.items() if name != "file_results"}
        for figure in result["file_results"]:
            store.setdefault(figure["op"], []).append(figure)
        if options.key_file:
            result = run_store(options, folder, "persist", options.key_file)
            if not result["encrypted"]:
                sys.exit("the store did not encrypt with that key file")
            encrypted.append(result["file_results"][0]["gbps"])
        if engine:
            for kind, rates in run_fio(options, folder, engine).items():
                for depth, rate in rates.items():
                    raw.setdefault(kind, {}).setdefault(depth, []).append(rate)
    return store, raw, encrypted, facts


def report(options, store, raw, encrypted, engine, reason):
    ops = {op: summary([figure["gbps"] for figure in figures]) for op, figures in store.items()}
    for op, figures in store.items():
        ops[op]["metadata_ops"] = figures[-1]["metadata_ops"]
    kinds = {kind: {depth: summary(rates) for depth, rates in depths.items()} for kind, depths in raw.items()}
    result = {"ops": ops, "fio": kinds, "fio_engine": engine, "fio_reason": reason, "ratios": {}}
    print(f"\n{'figure':<18} {'GB/s':>7} {'least':>7} {'most':>7}  beside")
    for op, found in ops.items():
        line = f"{op:<18} {found['median']:>7.2f} {found['least']:>7.2f} {found['most']:>7.2f}  "
        for name, kind in RATIOS:
            if name == op and kind in kinds:
                depth, best = max(kinds[kind].items(), key=lambda item: item[1]["median"])
                result["ratios"][op] = found["median"] / best["median"]
                line += f"fio {kind} {best['median']:.2f} at depth {depth}: {result['ratios'][op]:.2f}"
        if found["metadata_ops"]:
            line += f"{found['metadata_ops']} metadata operations"
        print(line.rstrip())
    for kind, depths in kinds.items():
        print(f"fio {kind:<14} " + ", ".join(f"depth {d}: {s['median']:.2f}" for d, s in depths.items()))
    if reason:
        print(f"fio: {reason}")
    if encrypted:
        result["encrypted"] = summary(encrypted)
        result["ratios"]["encrypted"] = result["encrypted"]["median"] / ops["persist_fresh"]["median"]
        print(f"persist encrypted {result['encrypted']['median']:.2f}, of plain: {result['ratios']['encrypted']:.2f}")
    one_a_block = ops["files_write"]["metadata_ops"] + ops["files_read"]["metadata_ops"]
    ours = ops["store_write"]["metadata_ops"] + ops["store_read"]["metadata_ops"]
    result["ratios"]["metadata_ops"] = ours / one_a_block
    print(f"metadata operations: {ours} beside {one_a_block} with one file per block: {ours / one_a_block:.4f}")
    return result


def main():
    options = arguments()
    runs = options.runs or (7 if options.full else 3)
    with tempfile.TemporaryDirectory(prefix="bench-file-", dir=options.directory) as folder:
        engine, reason = fio_engine(folder)
        store, raw, encrypted, facts = collect(options, folder, engine, runs)
        result = report(options, store, raw, encrypted, engine, reason)
        result |= {"machine": machine(folder), "commit": commit(), "turns": runs, "time": time.time(), "store": facts}
    output = pathlib.Path(options.output or "build/bench_file.json")
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(json.dumps(result, indent=2) + "\n")
    print(output)


main()
