# SPDX-License-Identifier: MIT
"""Blocks that are read in place."""

from __future__ import annotations

from functools import partial
from typing import Any, List, Sequence

from ._binding import ffi, lib


class View:
    """A block pinned in dram, to be read in place: what :meth:`Store.view` returns. Use it in a ``with``.

    ``k`` and ``v`` are lists of read-only memoryviews (uint8) over the arena; each is a run of the block, in
    order. At the end of the ``with`` they are released (using one raises ValueError) and the block is unpinned.

    Slices and arrays that were made from them can not be taken back by Python. As long as one lives, its bytes
    stay valid and unchanged and the block stays pinned: never a dangling pointer, but pinned memory that cannot
    be evicted, and a store that cannot be closed. Drop them inside the ``with``, or copy.

    Any thread may release.
    """

    k: Sequence[memoryview]
    v: Sequence[memoryview]
    k_bytes: int
    v_bytes: int

    def __init__(self, pinned: Any) -> None:
        # Every memoryview keeps `owner` through its exporter, the cffi buffer, and that one's pointer. So the
        # pin ends with the last of them, whatever Python objects were made in between.
        owner = ffi.gc(pinned, lib.binding_view_free)
        view = owner.pinned
        keep = partial(_keep, owner)
        self.k = _memoryviews(view.k, view.k_count, keep)
        self.v = _memoryviews(view.v, view.v_count, keep)
        self.k_bytes = view.k_bytes
        self.v_bytes = view.v_bytes

    def release(self) -> None:
        """Ends the view; ``k`` and ``v`` are empty afterwards. Again: does nothing."""
        for piece in (*self.k, *self.v):
            try:
                piece.release()
            except BufferError:
                pass  # in use by an array: that array now holds the pin
        self.k = self.v = ()

    def __enter__(self) -> View:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()


def _keep(owner: Any, _pointer: Any) -> None:
    """Does nothing when a piece goes; exists to refer to `owner` until then."""


def _memoryviews(pieces: Any, count: int, keep: Any) -> List[memoryview]:
    return [
        memoryview(ffi.buffer(ffi.gc(piece.data, keep), piece.bytes)).toreadonly()
        for piece in ffi.unpack(pieces, count)
    ]
