#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""The demonstration behind scripts/demo.sh, which installs and builds what this needs.

Three workloads, each checked byte for byte: (a) 200 blocks through a store whose memory holds 80; (b) 50
sessions that share a system prompt; (c) a replayed trace of conversations. Prints tables, writes
results.json and demo.png. Exits 1 if a single block was lost or a single byte was wrong.
"""

from __future__ import annotations

import argparse
import datetime
import hashlib
import json
import os
import platform
import random
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path

import cascade
import demo_machine as machine
import demo_report as report
import numpy as np
from demo_machine import GIB, MIB

ROOT = Path(__file__).resolve().parent.parent
SEED = 20240229
BLOCKS = 200
BLOCKS_IN_DRAM = 80
LLAMA_70B_TOKEN_BYTES = 2 * 80 * 8 * 128 * 2  # K and V, layers, KV heads, head size, bytes: 320 KiB
LLAMA_8B_TOKEN_BYTES = 2 * 32 * 8 * 128 * 2  # 128 KiB
SESSIONS = 50
SESSION_BLOCK_TOKENS = 16
PROMPT_BLOCKS = 32  # of the shared system prompt: 512 tokens
OWN_BLOCKS = 8  # of each session after it: 128 tokens
TRACE_BLOCK_BYTES = 4096
DISK_LIMIT_BYTES = 2 * GIB


class Contents:
    """Block contents from numbers: one random block, each 8 bytes XORed with a word drawn from the number.
    Cheap to make again, so that every byte read can be checked."""

    def __init__(self, block_bytes: int):
        words = block_bytes // 8
        rng = np.random.default_rng(SEED)
        self.block_bytes = block_bytes
        self._base = machine.warm_buffer(block_bytes)
        self._base[:] = rng.integers(0, 1 << 64, words, dtype=np.uint64, endpoint=False)
        self.made = machine.warm_buffer(block_bytes)
        self.read = machine.warm_buffer(block_bytes)

    def make(self, number: int) -> tuple:
        """K and V of a content, in a buffer that the next call overwrites."""
        word = hashlib.sha256(f"{SEED} {number}".encode()).digest()[:8]
        np.bitwise_xor(self._base, np.frombuffer(word, np.uint64)[0], out=self.made)
        return self._halves(self.made)

    def target(self) -> tuple:
        """K and V of the buffer to read into."""
        return self._halves(self.read)

    def read_right(self, number: int) -> bool:
        self.make(number)
        return np.array_equal(self.made, self.read)

    @staticmethod
    def _halves(block: np.ndarray) -> tuple:
        half = len(block) // 2
        return block[:half], block[half:]


def key_after(parent: bytes, content: int) -> bytes:
    return hashlib.sha256(parent + content.to_bytes(8, "little")).digest()


def hits(store) -> dict:
    return {name: tier["hits"] for name, tier in store.stats()["tiers"].items()}


def wait_until_prefaulted(store, dram_bytes: int) -> None:
    """Waits for the background to touch the arena's pages, at most for a minute and while it goes on."""
    ready, deadline = -1, time.monotonic() + 60
    while time.monotonic() < deadline:
        now = store.stats().get("arena_ready_bytes", dram_bytes)
        if now >= dram_bytes or now == ready:
            return
        ready = now
        time.sleep(0.5)


# ---- (a) 200 blocks, room for 80 ---------------------------------------------------------------


def choose_tokens(scratch: Path, shm: Path) -> tuple[int, str]:
    """The most tokens a block, up to 256, for which memory and disk have room, and what was short."""
    short = ""
    for tokens in (256, 128, 64, 32, 16, 8, 4, 2, 1):
        block = tokens * LLAMA_70B_TOKEN_BYTES
        dram = BLOCKS_IN_DRAM * block
        rooms = {
            "memory": (machine.free_memory(), dram + 5 * block + 3 * GIB // 2),
            "shared memory": (machine.free_disk(shm), dram + dram // 50 + 64 * MIB),
            "disk": (machine.free_disk(scratch), BLOCKS * block + min(DISK_LIMIT_BYTES, dram) + GIB),
        }
        missing = [f"{name} (free {free / GIB:.1f} GiB, wanted {wanted / GIB:.1f})"
                   for name, (free, wanted) in rooms.items() if free < wanted]
        if not missing:
            return tokens, short
        short = short or ", ".join(missing)
    raise SystemExit(f"demo: not even blocks of one token fit: {short}")


def write_blocks(store, contents: Contents, keys: list) -> dict:
    times = []
    began = time.perf_counter()
    for number in report.track(range(BLOCKS), "writing"):
        k, v = contents.make(number)
        call = time.perf_counter()
        store.put(keys[number], k, v)
        times.append(time.perf_counter() - call)
    store.flush()
    total = contents.block_bytes * BLOCKS
    burst = times[1:BLOCKS_IN_DRAM // 2]  # dram has room: nothing waits
    return {"put_gbps": contents.block_bytes / statistics.median(burst) / 1e9,
            "durable_gbps": total / (time.perf_counter() - began) / 1e9}


def read_blocks(store, contents: Contents, keys: list) -> dict:
    order = list(range(BLOCKS))
    random.Random(SEED).shuffle(order)
    k, v = contents.target()
    found = wrong = 0
    times: dict[str, list] = {"dram": [], "file": []}
    before = hits(store)
    for number in report.track(order, "reading"):
        call = time.perf_counter()
        try:
            store.get_into(keys[number], k, v)
        except cascade.CascadeError as error:
            print(f"block {number}: {error}", file=sys.stderr)
            continue
        seconds = time.perf_counter() - call
        after = hits(store)
        times["dram" if after["dram"] > before["dram"] else "file"].append(seconds)
        before = after
        found += 1
        wrong += not contents.read_right(number)
    result = {"found": found, "wrong": wrong, "retention": found / BLOCKS}
    for tier, seconds in times.items():
        result[f"{tier}_hits"] = len(seconds)
        result[f"{tier}_gbps"] = contents.block_bytes / statistics.median(seconds) / 1e9 if seconds else None
    result["mixed_gbps"] = found * contents.block_bytes / sum(map(sum, times.values())) / 1e9
    return result


def blocks_demo(scratch: Path, shm: Path) -> dict:
    tokens, short = choose_tokens(scratch, shm)
    block_bytes = tokens * LLAMA_70B_TOKEN_BYTES
    dram_bytes = BLOCKS_IN_DRAM * block_bytes
    contents = Contents(block_bytes)
    keys = [key_after(b"", number) for number in range(BLOCKS)]
    folder = scratch / "blocks"
    copies = [machine.copy_gbps(contents.made, contents.read)]
    disks = [machine.disk_gbps(scratch, min(DISK_LIMIT_BYTES, dram_bytes))]
    with cascade.Store(folder, dram=dram_bytes, watermark_low=100, watermark_high=100) as store:
        wait_until_prefaulted(store, dram_bytes)
        written = write_blocks(store, contents, keys)
        copies.append(machine.copy_gbps(contents.made, contents.read))
        resident = store.stats()["tiers"]["dram"]["blocks"]
        dropped = machine.drop_page_cache(folder)
        read = read_blocks(store, contents, keys)
        stats = store.stats()
    files = len(list(folder.glob("**/agg_rank*.bin")))
    shutil.rmtree(folder)
    copies.append(machine.copy_gbps(contents.made, contents.read))
    disks.append(machine.disk_gbps(scratch, min(DISK_LIMIT_BYTES, dram_bytes)))
    return {
        "block_bytes": block_bytes, "block_tokens": tokens, "smaller_because": short, "blocks": BLOCKS,
        "dram_blocks": BLOCKS_IN_DRAM, "resident_after_flush": resident, "page_cache": dropped,
        "write": written, "read": read, "segment_files": files, "metadata_ops": stats["metadata_ops"],
        "lost": stats["lost"],
        "limits": {
            "memcpy_gbps": statistics.median(copies),
            "disk_write_gbps": statistics.median(disk["write_gbps"] for disk in disks),
            "disk_read_gbps": statistics.median(disk["read_gbps"] for disk in disks),
            "disk_direct": disks[0]["direct"],
        },
    }


# ---- (b) 50 sessions, one system prompt --------------------------------------------------------


def session_contents(session: int) -> list:
    own = PROMPT_BLOCKS + session * OWN_BLOCKS
    return [*range(PROMPT_BLOCKS), *range(own, own + OWN_BLOCKS)]


def session_keys(session: int, shared_keys: bool) -> list:
    """The chained keys of a session's blocks. Engines that name equal prefixes equally share keys; salted
    ones do not, and then only equal contents can be found."""
    keys, parent = [], b"" if shared_keys else f"session {session}".encode()
    for content in session_contents(session):
        parent = key_after(parent, content)
        keys.append(parent)
    return keys


def run_sessions(folder: Path, dram_bytes: int, shared_keys: bool) -> dict:
    contents = Contents(SESSION_BLOCK_TOKENS * LLAMA_8B_TOKEN_BYTES)
    found = wrong = put = 0
    with cascade.Store(folder, dram=dram_bytes) as store:
        for session in report.track(range(SESSIONS), "sessions"):
            keys = session_keys(session, shared_keys)
            present = store.match_prefix(keys)
            found += present
            for position in range(present, len(keys)):
                k, v = contents.make(session_contents(session)[position])
                store.put(keys[position], k, v, parent=keys[position - 1] if position else None)
                put += 1
        store.flush()
        stats = store.stats()
        k, v = contents.target()
        for session in report.track(range(SESSIONS), "checking"):
            for key, content in zip(session_keys(session, shared_keys), session_contents(session)):
                store.get_into(key, k, v)
                wrong += not contents.read_right(content)
    shutil.rmtree(folder)
    named = SESSIONS * (PROMPT_BLOCKS + OWN_BLOCKS)
    return {"blocks_named": named, "found_by_key": found, "put": put, "keys": stats["keys"],
            "blocks_stored": stats["contents"], "merged_by_content": stats["dedup_blocks"],
            "bytes_named": named * contents.block_bytes,
            "bytes_stored": stats["contents"] * contents.block_bytes,
            "bytes_saved": (named - stats["contents"]) * contents.block_bytes,
            "dedup_bytes_saved": stats["dedup_bytes_saved"], "wrong": wrong}


def sessions_demo(scratch: Path, shm: Path) -> dict:
    dram_bytes = min(GIB, machine.free_memory() // 4, machine.free_disk(shm) * 3 // 4)
    dram_bytes -= dram_bytes % MIB
    return {"sessions": SESSIONS, "block_bytes": SESSION_BLOCK_TOKENS * LLAMA_8B_TOKEN_BYTES,
            "prompt_blocks": PROMPT_BLOCKS, "own_blocks": OWN_BLOCKS, "dram_bytes": dram_bytes,
            "equal_keys": run_sessions(scratch / "sessions", dram_bytes, True),
            "equal_contents": run_sessions(scratch / "sessions", dram_bytes, False)}


# ---- (c) a trace of conversations --------------------------------------------------------------


def choose_trace(given: str | None, scratch: Path) -> tuple[Path, str]:
    if given:
        return Path(given), Path(given).name
    published = ROOT.parent / "shared/traces/conversation_trace.jsonl"
    if published.exists():
        return published, "published conversation trace"
    made = scratch / "generated_trace.jsonl"
    subprocess.run([sys.executable, ROOT / "scripts/make_trace.py", made], check=True)
    return made, "generated conversations (scripts/make_trace.py)"


def trace_facts(trace: Path) -> dict:
    """What the trace holds, and the hit ratio of a store that never forgets."""
    seen: set = set()
    requests = blocks = reused = 0
    with open(trace, encoding="utf-8") as lines:
        for line in lines:
            ids = json.loads(line)["hash_ids"]
            requests += 1
            blocks += len(ids)
            reused += next((i for i, block in enumerate(ids) if block not in seen), len(ids))
            seen.update(ids)
    return {"requests": requests, "blocks": blocks, "distinct_blocks": len(seen), "ceiling": reused / blocks}


def command_json(*command) -> dict:
    """Runs a command whose standard output is one JSON object; its progress bar stays in sight."""
    done = subprocess.run([str(part) for part in command], stdout=subprocess.PIPE, text=True)
    if done.returncode != 0:
        raise SystemExit(f"demo: {command[1]} failed with exit status {done.returncode}:\n{done.stdout}")
    return json.loads(done.stdout)


def replay_demo(cli: Path, trace: Path, name: str, scratch: Path) -> dict:
    facts = trace_facts(trace)
    capacity = max(1, facts["distinct_blocks"] // 10)
    dram_bytes = capacity * TRACE_BLOCK_BYTES
    folder = scratch / "replay"
    command_json(cli, "init", folder, "--dram", dram_bytes, "--page", TRACE_BLOCK_BYTES, "--json")
    replay = command_json(cli, "replay", "-s", folder, trace, "--block-bytes", TRACE_BLOCK_BYTES, "--json")
    shutil.rmtree(folder)
    simulated = command_json(cli, "simulate", trace, "--capacity-blocks", capacity, "--json")
    return {"trace": name, "facts": facts, "block_bytes": TRACE_BLOCK_BYTES, "dram_bytes": dram_bytes,
            "replay": replay, "dram_share": replay["hits_by_tier"]["dram"] / replay["blocks"],
            "simulated_dram_share": simulated["results"][0]["hit_ratio"]}


# ---- all of it ---------------------------------------------------------------------------------


def failures(results: dict) -> list:
    """What broke a promise, in words."""
    read, replay = results["blocks"]["read"], results["replay"]["replay"]
    broken = []
    if read["retention"] != 1 or read["wrong"] or results["blocks"]["lost"]:
        broken.append(f"200 blocks: {read['found']} found, {read['wrong']} wrong")
    for way in ("equal_keys", "equal_contents"):
        sessions = results["sessions"][way]
        if sessions["wrong"] or sessions["blocks_stored"] != PROMPT_BLOCKS + SESSIONS * OWN_BLOCKS:
            broken.append(f"sessions, {way}: {sessions['blocks_stored']} stored, {sessions['wrong']} wrong")
    if replay["lost"] or replay["wrong"]:
        broken.append(f"replay: {replay['lost']} lost, {replay['wrong']} wrong")
    if abs(replay["hit_ratio"] - results["replay"]["facts"]["ceiling"]) > 5e-5:
        broken.append(f"replay: hit ratio {replay['hit_ratio']:.4f} is not the ceiling")
    return broken


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cli", type=Path, required=True, help="the cascade command")
    parser.add_argument("--trace", help="a trace to replay")
    parser.add_argument("--scratch", type=Path, required=True, help="an empty folder for stores")
    parser.add_argument("--output", type=Path, required=True, help="folder for results.json and demo.png")
    arguments = parser.parse_args()
    shm = Path(os.environ.get("CASCADE_SHM_DIR", "/dev/shm"))
    trace, name = choose_trace(arguments.trace, arguments.scratch)
    results = {
        "commit": machine.commit(ROOT),
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "seed": SEED,
        "machine": machine.facts(arguments.scratch),
        "versions": {"cascade": cascade.__version__, "python": platform.python_version(),
                     "numpy": np.__version__},
    }
    report.heading(results)
    results["blocks"] = blocks_demo(arguments.scratch, shm)
    report.blocks_table(results["blocks"])
    results["sessions"] = sessions_demo(arguments.scratch, shm)
    report.sessions_table(results["sessions"])
    results["replay"] = replay_demo(arguments.cli, trace, name, arguments.scratch)
    report.replay_table(results["replay"])
    results["failures"] = failures(results)
    (arguments.output / "results.json").write_text(json.dumps(results, indent=2) + "\n")
    report.picture(results, arguments.output / "demo.png")
    report.closing(results["failures"], arguments.output)
    return 1 if results["failures"] else 0


if __name__ == "__main__":
    sys.exit(main())
