# SPDX-License-Identifier: MIT
"""How the demo shows its results: tables on the terminal and one picture."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Iterable

import matplotlib
from rich.console import Console
from rich.progress import track as rich_track
from rich.table import Table

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402

console = Console(width=None if sys.stdout.isatty() else 100, highlight=False)
bars = Console(stderr=True)


def track(items: Iterable, what: str) -> Iterable:
    """A progress bar on a terminal, nothing elsewhere."""
    if not bars.is_terminal:
        return items
    return rich_track(list(items), description=what, console=bars, transient=True)


def size(count: float) -> str:
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(count) < 1024 or unit == "GiB":
            return f"{count:.0f} {unit}" if count == int(count) else f"{count:.1f} {unit}"
        count /= 1024
    return ""


def rate(gbps: float | None) -> str:
    return "-" if gbps is None else f"{gbps:.2f} GB/s"


def ratio(gbps: float | None, limit: float) -> str:
    return "-" if gbps is None else f"{gbps / limit:.2f}"


def table(title: str, columns: list, rows: list) -> None:
    made = Table()
    for number, column in enumerate(columns):
        made.add_column(column, justify="left" if number == 0 else "right")
    for row in rows:
        made.add_row(*map(str, row))
    console.print(f"\n{title}", style="bold")
    console.print(made)


def heading(results: dict) -> None:
    facts = results["machine"]
    console.print(f"Cascade {results['versions']['cascade']}, commit {results['commit']}, "
                  f"{results['date']}")
    console.print(f"{facts['cpu']}, {facts['cores']} cores, {size(facts['memory_bytes'])} memory, "
                  f"Linux {facts['kernel']}, {facts['file_system']}")


def blocks_speeds(blocks: dict) -> list:
    """Rows of (what, GB/s, the limit's name, the limit's GB/s)."""
    limits, write, read = blocks["limits"], blocks["write"], blocks["read"]
    copy, reading, writing = limits["memcpy_gbps"], limits["disk_read_gbps"], limits["disk_write_gbps"]
    return [
        ("put, dram has room", write["put_gbps"], "memcpy", copy),
        ("put and flush, all blocks", write["durable_gbps"], "disk write", writing),
        ("get, dram hit", read["dram_gbps"], "memcpy", copy),
        ("get, file hit", read["file_gbps"], "disk read", reading),
    ]


def blocks_table(blocks: dict) -> None:
    read = blocks["read"]
    title = (f"(a) {blocks['blocks']} blocks of {size(blocks['block_bytes'])} (LLaMA-70B, "
             f"{blocks['block_tokens']} tokens), room for {blocks['dram_blocks']} in dram")
    table(title, ["", "result"], [
        ("retention", f"{read['retention']:.1%} ({read['found']} of {blocks['blocks']})"),
        ("wrong blocks", read["wrong"]),
        ("in dram after flush", blocks["resident_after_flush"]),
        ("hits in dram / file", f"{read['dram_hits']} / {read['file_hits']}"),
        ("all reads, as they came", rate(read["mixed_gbps"])),
        ("segment files", blocks["segment_files"]),
        ("metadata operations", sum(blocks["metadata_ops"].values())),
    ])
    if blocks["smaller_because"]:
        console.print(f"Blocks are smaller than the published 80 MiB for want of {blocks['smaller_because']}.")
    console.print(f"Page cache dropped before reading by {blocks['page_cache']}.")
    table("Speed, beside the limit measured in the same run", ["", "speed", "limit", "", "ratio"],
          [(what, rate(speed), name, rate(limit), ratio(speed, limit))
           for what, speed, name, limit in blocks_speeds(blocks)])


def sessions_table(sessions: dict) -> None:
    rows = []
    for title, way in (("equal keys", "equal_keys"), ("own keys, equal contents", "equal_contents")):
        it = sessions[way]
        rows.append((title, it["blocks_named"], it["found_by_key"], it["merged_by_content"],
                     it["blocks_stored"], size(it["bytes_stored"]), size(it["bytes_saved"]), it["wrong"]))
    table(f"(b) {sessions['sessions']} sessions, one system prompt of {sessions['prompt_blocks']} blocks of "
          f"{size(sessions['block_bytes'])}, {sessions['own_blocks']} blocks each of their own",
          ["", "named", "found by key", "merged", "stored", "bytes stored", "saved", "wrong"], rows)


def replay_table(run: dict) -> None:
    replay, facts = run["replay"], run["facts"]
    table(f"(c) replay of {run['trace']}: {facts['requests']:,} requests, dram {size(run['dram_bytes'])} = "
          "10 % of the footprint", ["", "result", "to compare"], [
              ("hit ratio", f"{replay['hit_ratio']:.4f}", f"unlimited store {facts['ceiling']:.4f}"),
              ("  from dram", f"{run['dram_share']:.4f}", f"simulated {run['simulated_dram_share']:.4f}"),
              ("  from file", f"{replay['hit_ratio'] - run['dram_share']:.4f}", ""),
              ("lost blocks", replay["lost"], ""),
              ("wrong blocks", replay["wrong"], ""),
              ("puts", rate(replay["put_gbps"]), f"blocks of {size(run['block_bytes'])}"),
              ("gets", rate(replay["get_gbps"]), ""),
          ])


def speed_panel(axes, blocks: dict) -> None:
    rows = blocks_speeds(blocks)
    for place, (_, speed, name, limit) in enumerate(rows):
        axes.bar(place - 0.2, speed or 0, 0.38, color="#2a6f97", label="Cascade" if place == 0 else None)
        axes.bar(place + 0.2, limit, 0.38, color="#c9c9c9", label="limit, same run" if place == 0 else None)
        axes.annotate(name, (place + 0.2, limit), ha="center", va="bottom", fontsize=8)
    axes.set_xticks(range(len(rows)), ["put\n(dram)", "put + flush\n(disk)", "get\n(dram)", "get\n(file)"])
    axes.set_ylabel("GB/s")
    axes.set_title(f"{blocks['blocks']} blocks of {size(blocks['block_bytes'])}, room for "
                   f"{blocks['dram_blocks']}:\n{blocks['read']['retention']:.0%} read back")
    axes.margins(y=0.25)
    axes.legend(frameon=False, loc="upper left", ncols=2)


def sessions_panel(axes, sessions: dict) -> None:
    ways = [("equal keys", sessions["equal_keys"]), ("own keys,\nequal contents", sessions["equal_contents"])]
    gib = [(name, it["bytes_named"] / 2**30, it["bytes_stored"] / 2**30) for name, it in ways]
    for place, (_, named, stored) in enumerate(gib):
        axes.bar(place - 0.2, named, 0.38, color="#c9c9c9", label="named" if place == 0 else None)
        axes.bar(place + 0.2, stored, 0.38, color="#2a6f97", label="stored" if place == 0 else None)
        axes.annotate(f"-{1 - stored / named:.0%}", (place + 0.2, stored), ha="center", va="bottom")
    axes.set_xticks(range(len(gib)), [name for name, _, _ in gib])
    axes.set_ylabel("GiB")
    axes.set_title(f"{sessions['sessions']} sessions,\none system prompt")
    axes.margins(y=0.25)
    axes.legend(frameon=False, loc="upper left", ncols=2)


def replay_panel(axes, run: dict) -> None:
    replay, share = run["replay"], run["dram_share"]
    axes.bar(0, share, 0.5, color="#2a6f97", label="from dram")
    axes.bar(0, replay["hit_ratio"] - share, 0.5, bottom=share, color="#89c2d9", label="from file")
    axes.bar(1, run["simulated_dram_share"], 0.5, color="#c9c9c9", label="dram alone, simulated")
    axes.axhline(run["facts"]["ceiling"], color="#333333", linestyle="--", linewidth=1,
                 label="unlimited store")
    axes.set_xticks([0, 1], ["Cascade", "dram only"])
    axes.set_xlim(-0.6, 1.6)
    axes.set_ylim(0, run["facts"]["ceiling"] * 1.5)
    axes.set_ylabel("hit ratio (blocks)")
    axes.set_title(f"{run['facts']['requests']:,} requests replayed,\ndram = 10 % of the footprint")
    axes.legend(frameon=False, loc="upper right", fontsize=9)


def picture(results: dict, path: Path) -> None:
    figure, axes = plt.subplots(1, 3, figsize=(14, 4.8), layout="constrained", width_ratios=[1.4, 1, 1])
    speed_panel(axes[0], results["blocks"])
    sessions_panel(axes[1], results["sessions"])
    replay_panel(axes[2], results["replay"])
    for one in axes:
        one.spines[["top", "right"]].set_visible(False)
    facts = results["machine"]
    figure.supxlabel(f"{facts['cpu']}, {facts['cores']} cores, {facts['file_system']}; commit "
                     f"{results['commit']}, {results['date'][:10]}", fontsize=8, color="#555555")
    figure.savefig(path, dpi=130)
    plt.close(figure)


def closing(failures: list, output: Path) -> None:
    console.print()
    for failure in failures:
        console.print(f"FAILED: {failure}")
    if not failures:
        console.print("Every block was found and every byte was right.")
    console.print(f"Results: {output / 'results.json'}, {output / 'demo.png'}")
