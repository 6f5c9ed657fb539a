# SPDX-License-Identifier: MIT
"""Cascade: a tiered, content-addressed store for the KV blocks of LLM engines.

A block is two runs of bytes, K and V, under a 32-byte key. See ``docs/python.md`` and :class:`Store`.
"""

from ._binding import ffi as _ffi
from ._binding import lib as _lib
from ._errors import (
    AccessDeniedError,
    BusyError,
    CascadeError,
    ClosedError,
    ConflictError,
    CorruptError,
    ExistsError,
    ForkedError,
    FormatError,
    InputOutputError,
    InvalidArgumentError,
    NoKeyError,
    NoSlotError,
    NoSpaceError,
    NoStoreError,
    NotFoundError,
    NotSupportedError,
    OutOfMemoryError,
    PoisonedError,
    SizeError,
    TimedOutError,
    TooBigError,
    TryAgainError,
)
from ._names import Namespace, compute_block_id, parse_size, tenant_id
from ._reports import BlockInfo, VerifyReport
from ._store import Store
from ._view import View

__version__: str = _ffi.string(_lib.cascade_version()).decode()

__all__ = [
    "AccessDeniedError",
    "BlockInfo",
    "BusyError",
    "CascadeError",
    "ClosedError",
    "ConflictError",
    "CorruptError",
    "ExistsError",
    "ForkedError",
    "FormatError",
    "InputOutputError",
    "InvalidArgumentError",
    "Namespace",
    "NoKeyError",
    "NoSlotError",
    "NoSpaceError",
    "NoStoreError",
    "NotFoundError",
    "NotSupportedError",
    "OutOfMemoryError",
    "PoisonedError",
    "SizeError",
    "Store",
    "TimedOutError",
    "TooBigError",
    "TryAgainError",
    "VerifyReport",
    "View",
    "compute_block_id",
    "parse_size",
    "tenant_id",
]
