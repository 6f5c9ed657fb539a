# SPDX-License-Identifier: MIT
"""What a store says about itself and its blocks, as Python values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Dict, List, Optional, Sequence

from ._binding import ffi, lib
from ._names import id_text


@dataclass(frozen=True)
class BlockInfo:
    """Facts about a block."""

    k_bytes: int
    v_bytes: int
    tenant: int
    references: int
    """Keys bound to the content."""
    id: Optional[str]
    """The block id, None while the digest is pending."""
    in_dram: bool
    in_file: bool
    """On stable storage."""
    parent: Optional[bytes]


@dataclass(frozen=True)
class VerifyReport:
    """What :meth:`Store.verify` found; ``blocks`` and ``damaged`` by tier name."""

    blocks: Dict[str, int]
    """Read and found right."""
    damaged: Dict[str, int]
    """Found damaged, and quarantined."""
    bytes: int

    @property
    def ok(self) -> bool:
        """Nothing was damaged."""
        return not any(self.damaged.values())


def block_info(info: Any) -> BlockInfo:
    return BlockInfo(
        k_bytes=info.k_bytes,
        v_bytes=info.v_bytes,
        tenant=info.tenant,
        references=info.references,
        id=id_text(info.id) if info.has_id else None,
        in_dram=info.in_dram,
        in_file=info.in_file,
        parent=ffi.buffer(info.parent.bytes)[:] if info.has_parent else None,
    )


def tier_names() -> List[str]:
    return [ffi.string(lib.cascade_tier_name(tier)).decode() for tier in range(lib.CASCADE_TIER_COUNT)]


def _numbers(struct: Any) -> Dict[str, Any]:
    """The fields of a C structure that are plain numbers, by name."""
    return {
        name: int(getattr(struct, name))
        for name, field in ffi.typeof(struct).fields
        if field.type.kind == "primitive"
    }


def _latency(histogram: Any) -> Dict[str, Any]:
    count = int(histogram.count)
    buckets = list(histogram.buckets)
    return {
        "count": count,
        "mean_us": histogram.total_ns / count / 1e3 if count else 0.0,
        "p50_us": _percentile(buckets, 0.50) / 1e3,
        "p99_us": _percentile(buckets, 0.99) / 1e3,
    }


def _percentile(buckets: Sequence[int], part: float) -> float:
    """Nanoseconds below which `part` of the counts lie; bucket i holds [2^i, 2^(i+1))."""
    # Not of `count`: that may already have moved on, the counters are read without a lock.
    wanted = part * sum(buckets)
    seen = 0
    for index, number in enumerate(buckets):
        if number and seen + number >= wanted:
            return float(2**index * (1 + (wanted - seen) / number))
        seen += number
    return 0.0


def verify_report(report: Any) -> VerifyReport:
    """From a ``cascade_verify_report``."""
    tiers = tier_names()
    return VerifyReport(dict(zip(tiers, report.blocks)), dict(zip(tiers, report.damaged)), report.bytes)


def stats_dict(stats: Any) -> Dict[str, Any]:
    """From a ``cascade_stats``."""
    result = _numbers(stats)
    del result["struct_bytes"]
    result["tiers"] = {name: _numbers(tier) for name, tier in zip(tier_names(), stats.tiers)}
    result["metadata_ops"] = _numbers(stats.metadata_ops)
    result["latency"] = {
        ffi.string(lib.cascade_op_name(op)).decode(): _latency(histogram)
        for op, histogram in enumerate(stats.latency)
    }
    return result
