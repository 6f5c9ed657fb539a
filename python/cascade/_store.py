# SPDX-License-Identifier: MIT
"""The store, its views, and what it reports."""

from __future__ import annotations

import atexit
import os
import warnings
import weakref
from types import TracebackType
from typing import Any, Dict, Iterable, Iterator, List, Optional, Sequence, Tuple, Type, Union

from ._binding import ffi, lib
from ._buffers import fill_block, is_pieces, span
from ._errors import ECORRUPT, ESIZE, MISS, OK, CascadeError, error_of, invalid
from ._names import (
    KEY_BYTES,
    Key,
    as_id,
    as_key,
    as_keys,
    as_tenant,
    id_text,
    optional_text,
    parse_size,
    unsigned,
)
from ._reports import BlockInfo, VerifyReport, block_info, stats_dict, verify_report
from ._view import View

Half = Any
"""K or V: one contiguous buffer, array or CPU tensor, or a list or tuple of them."""

Size = Union[int, str, None]
Tenant = Union[int, str, None]

# A block can be replaced between asking for its size and reading it; one that keeps changing is given up on.
_SIZE_TRIES = 8

_open_stores: "weakref.WeakSet[Store]" = weakref.WeakSet()
_get_pair = lib.binding_get_pair


class Store:
    """An open store. Usable in a ``with``, which closes it.

    Args:
        path: the store's directory (str, bytes or os.PathLike).
        dram: budget of the dram tier, in bytes or as text such as ``"4GiB"``. None, here and below: the
            environment variable, else the settings file, else the library's default (1 GiB).
        file_budget: bytes of the file tier; 0 is unlimited.
        page: bytes of a page, fixed at creation.
        segment: bytes at which a segment file is sealed.
        policy: ``"hazard"``, ``"lru"`` or ``"published"``.
        rank: 0 to 999; one owner per directory, rank and node.
        create: make the directory and the settings file if missing.
        exclusive: with ``create``, refuse a directory that holds a store.
        shm_directory: where the arena lies, by default ``/dev/shm``.
        hash_threads: threads that digest behind puts.
        prefault: touch the arena's pages ahead of use.
        lease_ms: how long a match holds blocks.
        watermark_low, watermark_high: per cent of dram to evict down to, and to start evicting at.
        put_wait_ms: the longest that a put waits for room.
        io_deadline_ms: the longest that a read waits for a file.
        refresh_ms: how often a miss looks for what other ranks wrote.
        file_age_s: seconds after which a block that is in files only and was not used goes.
        background_rate: bytes a second that compaction and background scrubbing move.
        scrub_interval_s: seconds between the starts of background scrubs.
        key_file, key_command: encrypt files with the first key in this file, or that this program prints.

    Raises:
        BusyError: in use (the detail names the owner's pid). NoStoreError, ExistsError, AccessDeniedError,
        FormatError, CorruptError, NoSpaceError, InputOutputError, OutOfMemoryError, InvalidArgumentError.

    Threads: every method may be called from any thread, several at once; each releases the GIL while it is in
    the library. Buffers that are being read or written must not be changed meanwhile by others.

    Every method can raise InvalidArgumentError, ClosedError after :meth:`close`, ForkedError in a child made by
    fork (open the store again there), and PoisonedError; the methods' texts name the others.
    """

    def __init__(
        self,
        path: Union[str, bytes, "os.PathLike[str]", "os.PathLike[bytes]"],
        dram: Size = None,
        *,
        file_budget: Size = None,
        page: Size = None,
        segment: Size = None,
        policy: Optional[str] = None,
        rank: Optional[int] = None,
        create: bool = True,
        exclusive: bool = False,
        shm_directory: Union[str, "os.PathLike[str]", None] = None,
        hash_threads: Optional[int] = None,
        prefault: bool = True,
        lease_ms: Optional[int] = None,
        watermark_low: Optional[int] = None,
        watermark_high: Optional[int] = None,
        put_wait_ms: Optional[int] = None,
        io_deadline_ms: Optional[int] = None,
        refresh_ms: Optional[int] = None,
        file_age_s: Optional[int] = None,
        background_rate: Size = None,
        scrub_interval_s: Optional[int] = None,
        key_file: Union[str, "os.PathLike[str]", None] = None,
        key_command: Optional[str] = None,
    ) -> None:
        directory = os.fsencode(path)
        if b"\0" in directory:
            raise invalid("path contains a zero byte")
        self._path = os.fsdecode(directory)
        options = ffi.new("cascade_options *", {"struct_bytes": ffi.sizeof("cascade_options")})
        shm = None if shm_directory is None else os.fspath(shm_directory)
        texts = (
            ffi.new("char[]", directory),
            optional_text("policy", policy),
            optional_text("shm_directory", shm),
            optional_text("key_file", None if key_file is None else os.fspath(key_file)),
            optional_text("key_command", key_command),
        )
        options.directory, options.policy, options.shm_directory, options.key_file, options.key_command = texts
        for name, size in (
            ("dram_bytes", dram),
            ("file_budget_bytes", file_budget),
            ("page_bytes", page),
            ("segment_bytes", segment),
            ("background_rate_bytes", background_rate),
        ):
            setattr(options, name, 0 if size is None else parse_size(size))
        for name, value in (
            ("rank", rank),
            ("hash_threads", hash_threads),
            ("lease_ms", lease_ms),
            ("watermark_low_pct", watermark_low),
            ("watermark_high_pct", watermark_high),
            ("put_wait_ms", put_wait_ms),
            ("io_deadline_ms", io_deadline_ms),
            ("refresh_ms", refresh_ms),
        ):
            setattr(options, name, 0 if value is None else unsigned(name, value, 32))
        for name, value in (("file_age_s", file_age_s), ("scrub_interval_s", scrub_interval_s)):
            setattr(options, name, 0 if value is None else unsigned(name, value, 64))
        options.open_flags = (
            (lib.CASCADE_OPEN_CREATE if create else 0)
            | (lib.CASCADE_OPEN_EXCLUSIVE if exclusive else 0)
            | (0 if prefault else lib.CASCADE_OPEN_NO_PREFAULT)
        )
        out = ffi.new("binding_store **")
        _check(lib.binding_store_open(options, out))
        self._handle = ffi.gc(out[0], lib.binding_store_free)
        _open_stores.add(self)

    # ---- life ------------------------------------------------------------------------------

    @property
    def path(self) -> str:
        """The store's directory."""
        return self._path

    @property
    def closed(self) -> bool:
        """Whether the store has been closed."""
        return not lib.binding_store_is_open(self._handle)

    def close(self) -> None:
        """Flushes, removes the arena, and closes. Again: does nothing.

        Waits for calls of other threads; calls that come later raise ClosedError. A store that is never closed
        is closed when the interpreter ends.

        Raises:
            BufferError: views are held; the store stays open.
            NoSpaceError, InputOutputError: something could not be flushed. The store is closed, and the next
                open takes the arena over.
        """
        _check(lib.binding_store_close(self._handle))

    def __enter__(self) -> Store:
        return self

    def __exit__(
        self,
        kind: Optional[Type[BaseException]],
        error: Optional[BaseException],
        trace: Optional[TracebackType],
    ) -> None:
        self.close()

    def __del__(self) -> None:
        # The handle closes the store by itself, once no view refers to it either.
        if hasattr(self, "_handle") and not self.closed:
            warnings.warn(f"unclosed {self!r}", ResourceWarning, source=self, stacklevel=2)

    def __repr__(self) -> str:
        return f"<cascade.Store {self._path!r} {'closed' if self.closed else 'open'}>"

    # ---- blocks by key ---------------------------------------------------------------------

    def put(
        self,
        key: Key,
        k: Half,
        v: Half = None,
        parent: Optional[Key] = None,
        sync: bool = False,
        durable: bool = False,
        verify: bool = False,
        tenant: Tenant = None,
    ) -> Optional[str]:
        """Binds a key to a block and copies the block into dram. A bound key: copies and hashes nothing.

        Args:
            key: 32 bytes or 64 hex digits; so is ``parent``, the key of the prefix one block shorter.
            k, v: one contiguous buffer, numpy array (any dtype), CPU tensor (torch, or anything with DLPack) or
                a list or tuple of those, which are gathered in order. Read during the call only. ``v`` may be
                None or empty.
            sync: wait for the digest.
            durable: wait until the block is on stable storage; implies ``sync``.
            verify: if the key is bound, compare the bytes.
            tenant: a name, or a number of :func:`tenant_id`.

        Returns:
            The block id, 32 hex digits; None if it is not known yet (only without ``sync`` and ``durable``).

        Raises:
            NoSpaceError, TooBigError, TimedOutError, ConflictError (with ``verify``), InputOutputError (the put
            is then acknowledged in memory but not durable). TypeError or ValueError for ``k`` or ``v`` that
            cannot be taken as they are.
        """
        put = ffi.new("cascade_put *")
        kept = _fill_put(put, key, k, v, parent, as_tenant(tenant))
        code = lib.binding_put(self._handle, put, _put_flags(sync, durable, verify))
        del kept
        if code != OK:
            raise error_of(code)
        return _put_id(put)

    def put_many(
        self,
        items: Iterable[Sequence[Any]],
        *,
        sync: bool = False,
        durable: bool = False,
        verify: bool = False,
        tenant: Tenant = None,
    ) -> List[Optional[str]]:
        """Puts blocks as one request for the eviction policy; the last is its tail.

        ``items`` are tuples ``(key, k)``, ``(key, k, v)`` or ``(key, k, v, parent)``; all as in :meth:`put`.
        Returns the block ids. If puts fail, the others are done all the same and the exception of the first
        that failed is raised, with the code of each in its ``statuses``.
        """
        items = list(items)
        number = as_tenant(tenant)
        puts = ffi.new("cascade_put[]", len(items))
        kept = []
        for index, item in enumerate(items):
            if not 2 <= len(item) <= 4:
                raise invalid(f"item {index}: (key, k[, v[, parent]]) is wanted, not {len(item)} things")
            key, k, v, parent = (*item, None, None)[:4]
            kept.append(_fill_put(puts[index], key, k, v, parent, number))
        code = lib.binding_put_many(self._handle, puts, len(items), _put_flags(sync, durable, verify))
        del kept
        if code != OK:
            raise error_of(code, statuses=tuple(put.status for put in puts))
        return [_put_id(put) for put in puts]

    def get(self, key: Key) -> Tuple[bytearray, bytearray]:
        """A block's K and V, in new memory of the caller's; V is an empty bytearray if the block has none.

        The kernel has to supply fresh pages for it: :meth:`get_into` a buffer that is used again is several
        times faster.

        Raises NotFoundError, and as :meth:`get_into`.
        """
        name = as_key(key)
        info = ffi.new("cascade_info *")

        def read_size() -> int:
            return int(lib.binding_info(self._handle, name, info))

        def read(into: Any) -> int:
            return int(lib.binding_get(self._handle, name, into))

        return _get_new(read_size, read, info, lambda: name.hex())

    def get_into(self, key: Key, k: Half, v: Half = None) -> None:
        """Copies a block into the caller's memory, without another copy, and ends one lease on it.

        ``k`` and ``v`` are writable and as in :meth:`put`; their sizes must add up to exactly the block's K and
        V. After an exception they may hold part of the block.

        Raises:
            NotFoundError: no such block. SizeError: sizes do not fit; nothing was written. NoSlotError,
            TryAgainError, InputOutputError. TypeError or ValueError for buffers that cannot be written as they
            are.
        """
        name = key if type(key) is bytes and len(key) == KEY_BYTES else as_key(key)
        if is_pieces(k) or is_pieces(v):
            block = ffi.new("cascade_block *")
            kept = fill_block(block, k, v, True)
            code = lib.binding_get(self._handle, name, block)
        else:
            kept = k_pointer, k_bytes, _ = span(k, True)
            if v is None:
                code = _get_pair(self._handle, name, k_pointer, k_bytes, ffi.NULL, 0)
            else:
                v_pointer, v_bytes, v_kept = span(v, True)
                code = _get_pair(self._handle, name, k_pointer, k_bytes, v_pointer, v_bytes)
                del v_kept
        del kept
        if code != OK:
            raise _miss_names(code, name.hex)

    def get_many_into(self, items: Iterable[Sequence[Any]]) -> List[bool]:
        """Copies blocks into the caller's memory; True for each that was read, False for each miss.

        ``items`` are tuples ``(key, k)`` or ``(key, k, v)``, as in :meth:`get_into`. A failure that is no miss
        is raised after all have been tried, with the code of each in its ``statuses``.
        """
        items = list(items)
        gets = ffi.new("cascade_get[]", len(items))
        kept = []
        for index, item in enumerate(items):
            if not 2 <= len(item) <= 3:
                raise invalid(f"item {index}: (key, k[, v]) is wanted, not {len(item)} things")
            get = gets[index]
            ffi.memmove(get.key.bytes, as_key(item[0]), KEY_BYTES)
            kept.append(fill_block(get.into, item[1], item[2] if len(item) == 3 else None, True))
        code = lib.binding_get_many(self._handle, gets, len(items))
        del kept
        statuses = tuple(get.status for get in gets)
        failed = next((status for status in statuses if status not in (OK, MISS)), None)
        if code not in (OK, MISS) or failed is not None:
            raise error_of(code if failed is None else failed, statuses=statuses)
        return [status == OK for status in statuses]

    def get_range(self, key: Key, offset: int, out: Any) -> None:
        """Fills ``out`` (one writable buffer) with the bytes of K, then V, from ``offset`` on.

        Reads little more than that range from disk; ends no lease. Raises SizeError if the range leaves the
        block, else as :meth:`get_into`.
        """
        name = as_key(key)
        pointer, size, kept = span(out, True)
        code = lib.binding_get_range(self._handle, name, unsigned("offset", offset, 64), size, pointer)
        del kept
        if code != OK:
            raise _miss_names(code, name.hex)

    def view(self, key: Key) -> View:
        """Pins a block in dram and gives its bytes without a copy, for a ``with``; see :class:`View`.

        Raises NotFoundError, NoSlotError, TryAgainError, InputOutputError, and NoSpaceError if dram cannot make
        room for a block that is only in the file tier.
        """
        name = as_key(key)
        out = ffi.new("binding_view **")
        code = lib.binding_view_open(self._handle, name, out)
        if code != OK:
            raise _miss_names(code, name.hex)
        return View(out[0])

    def info(self, key: Key) -> BlockInfo:
        """Facts about a block. Touches nothing. Raises NotFoundError, TryAgainError."""
        name = as_key(key)
        info = ffi.new("cascade_info *")
        code = lib.binding_info(self._handle, name, info)
        if code != OK:
            raise _miss_names(code, name.hex)
        return block_info(info)

    def contains(self, key: Key) -> bool:
        """Whether the key is bound; so is ``key in store``. Raises TryAgainError."""
        code = lib.binding_info(self._handle, as_key(key), ffi.new("cascade_info *"))
        return _found(code)

    def __contains__(self, key: Key) -> bool:
        return self.contains(key)

    def delete(self, key: Key) -> bool:
        """Unbinds a key; its content goes when no key is left. False if there was none. Raises NoSpaceError."""
        return _found(lib.binding_delete(self._handle, as_key(key)))

    def keys(self) -> Iterator[bytes]:
        """All keys, in no order. Keys bound or deleted meanwhile may or may not be seen."""
        cursor = ffi.new("uint64_t *")
        key = ffi.new("uint8_t[]", KEY_BYTES)
        info = ffi.new("cascade_info *")
        while _found(lib.binding_key_next(self._handle, cursor, key, info)):
            yield ffi.buffer(key)[:]

    # ---- prefixes --------------------------------------------------------------------------

    def match_prefix(self, keys: Iterable[Key]) -> int:
        """How many leading keys are present, in any tier.

        Those are held by a lease: kept until each is read, released, or ``lease_ms`` have passed. Raises
        TryAgainError.
        """
        packed, count = as_keys(keys)
        matched = ffi.new("size_t *")
        _check(lib.binding_prefix_match(self._handle, packed, count, matched))
        return int(matched[0])

    def release_prefix(self, keys: Iterable[Key]) -> None:
        """Gives up one lease on each of the keys; absent keys are ignored."""
        packed, count = as_keys(keys)
        _check(lib.binding_prefix_release(self._handle, packed, count))

    def prefetch(self, keys: Iterable[Key]) -> None:
        """Brings keys from the file tier into dram in the background. A hint: returns at once."""
        packed, count = as_keys(keys)
        _check(lib.binding_prefetch(self._handle, packed, count))

    # ---- contents by block id --------------------------------------------------------------

    def put_content(self, k: Half, v: Half = None, *, durable: bool = False, tenant: Tenant = None) -> str:
        """Stores a content under its block id alone, which is returned; one reference until
        :meth:`delete_content`. Arguments and errors as in :meth:`put`."""
        block = ffi.new("cascade_block *")
        out = ffi.new("cascade_id *")
        kept = fill_block(block, k, v, False)
        flags = lib.CASCADE_PUT_DURABLE if durable else 0
        code = lib.binding_content_put(self._handle, as_tenant(tenant), block, flags, out, ffi.NULL)
        del kept
        _check(code)
        return id_text(out)

    def get_content(self, block_id: str, *, tenant: Tenant = None) -> Tuple[bytearray, bytearray]:
        """A content of the tenant by its block id, however it was put; as :meth:`get`."""
        name = as_id(block_id)
        number = as_tenant(tenant)
        info = ffi.new("cascade_info *")

        def read_size() -> int:
            return int(lib.binding_content_info(self._handle, number, name, info))

        def read(into: Any) -> int:
            return int(lib.binding_content_get(self._handle, number, name, into))

        return _get_new(read_size, read, info, lambda: block_id)

    def content_info(self, block_id: str, *, tenant: Tenant = None) -> BlockInfo:
        """Facts about a content. Raises NotFoundError, TryAgainError."""
        info = ffi.new("cascade_info *")
        code = lib.binding_content_info(self._handle, as_tenant(tenant), as_id(block_id), info)
        if code != OK:
            raise _miss_names(code, lambda: block_id)
        return block_info(info)

    def delete_content(self, block_id: str, *, tenant: Tenant = None) -> bool:
        """Gives up the reference that :meth:`put_content` made. False if there was none. Raises NoSpaceError."""
        return _found(lib.binding_content_delete(self._handle, as_tenant(tenant), as_id(block_id)))

    # ---- what an operator sees -------------------------------------------------------------

    def flush(self) -> None:
        """Returns once all that was put or deleted before is on stable storage.

        Raises NoSpaceError, InputOutputError; nothing already stored is harmed.
        """
        _check(lib.binding_store_flush(self._handle))

    def verify(self) -> VerifyReport:
        """Reads every content in every tier and checks its SHA-256; damaged ones are quarantined.

        Damage is reported, not raised: look at ``report.ok``. Raises InputOutputError, TimedOutError (a file
        could not be read), TryAgainError (another thread closes the store).
        """
        return self.scrub()

    def scrub(self, rate: Size = None, *, fix: bool = False) -> VerifyReport:
        """As :meth:`verify`, reading at most ``rate`` bytes a second. A damaged copy is written anew from another
        tier that has the block; with ``fix``, so is what lies in segments whose index is missing or damaged.

        Raises also NoSpaceError (``fix`` only).
        """
        options = ffi.new("cascade_scrub_options *", {"struct_bytes": ffi.sizeof("cascade_scrub_options"), "fix": fix})
        options.rate_bytes = 0 if rate is None else parse_size(rate)
        report = ffi.new("cascade_verify_report *")
        code = lib.binding_store_scrub(self._handle, options, report)
        if code not in (OK, ECORRUPT):
            raise error_of(code)
        return verify_report(report)

    def gc(self, *, dry_run: bool = False) -> Dict[str, int]:
        """Drops blocks that are too old and empties segments that are partly dead; or says what would go.

        Returns what ``cascade_gc_report`` in cascade.h has: ``segments``, ``file_bytes``, ``live_bytes``,
        ``moved_segments``, ``moved_bytes``, ``freed_bytes``, ``dropped_blocks``, ``dropped_bytes``.
        Raises also NoSpaceError and OSError of the file tier.
        """
        report = ffi.new("cascade_gc_report *")
        _check(lib.binding_store_gc(self._handle, dry_run, report))
        return {name: getattr(report, name) for name, _ in ffi.typeof("cascade_gc_report").fields}

    def stats(self) -> Dict[str, Any]:
        """All counters since open, by the names of ``cascade_stats`` in cascade.h.

        Nested: ``tiers`` (``dram``, ``file``: capacity_bytes, used_bytes, blocks, hits, misses, ...),
        ``metadata_ops`` (open, create, ...), and ``latency`` by operation (``put``, ``get_dram``, ...: count,
        mean_us, p50_us, p99_us). Percentiles are interpolated in buckets that double.
        """
        stats = ffi.new("cascade_stats *", {"struct_bytes": ffi.sizeof("cascade_stats")})
        _check(lib.binding_store_stats(self._handle, stats))
        return stats_dict(stats[0])


# ---- helpers ---------------------------------------------------------------------------------


def _check(code: int) -> None:
    if code != OK:
        raise error_of(code)


def _found(code: int) -> bool:
    if code not in (OK, MISS):
        raise error_of(code)
    return bool(code == OK)


def _miss_names(code: int, name: Any) -> Exception:
    """The exception for a code; a miss says what was looked for."""
    return error_of(code, name()) if code == MISS else error_of(code)


def _put_flags(sync: bool, durable: bool, verify: bool) -> int:
    return (
        (lib.CASCADE_PUT_SYNC if sync else 0)
        | (lib.CASCADE_PUT_DURABLE if durable else 0)
        | (lib.CASCADE_PUT_VERIFY if verify else 0)
    )


def _fill_put(put: Any, key: Key, k: Half, v: Half, parent: Optional[Key], tenant: int) -> Any:
    ffi.memmove(put.key.bytes, as_key(key), KEY_BYTES)
    if parent is not None:
        ffi.memmove(put.parent.bytes, as_key(parent), KEY_BYTES)
        put.has_parent = True
    put.tenant = tenant
    return fill_block(put.block, k, v, False)


def _put_id(put: Any) -> Optional[str]:
    return id_text(put.id) if put.has_id else None


def _get_new(read_size: Any, read: Any, info: Any, name: Any) -> Tuple[bytearray, bytearray]:
    """Reads a block into new memory of its size."""
    code = ESIZE
    for _ in range(_SIZE_TRIES):
        code = read_size()
        if code != OK:
            break
        k, v = bytearray(info.k_bytes), bytearray(info.v_bytes)
        into = ffi.new("cascade_block *")
        kept = fill_block(into, k, v, True)
        code = read(into)
        # A bytearray cannot be resized while a buffer of it is exported.
        del kept
        if code == OK:
            return k, v
        if code != ESIZE:
            break
    raise _miss_names(code, name)


@atexit.register
def _close_all() -> None:
    for store in list(_open_stores):
        try:
            store.close()
        except BufferError:
            pass  # views outlive the interpreter: what was put is safe, the next open takes the arena over
        except CascadeError as error:
            warnings.warn(f"closing {store!r}: {error}", RuntimeWarning, stacklevel=1)
