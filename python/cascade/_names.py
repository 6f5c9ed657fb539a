# SPDX-License-Identifier: MIT
"""Keys, block ids, namespaces, tenants, sizes."""

from __future__ import annotations

import operator
from dataclasses import astuple, dataclass
from typing import Any, Iterable, List, Optional, Tuple, Union

from ._binding import ffi, lib
from ._buffers import fill_block, span
from ._errors import OK, error_of, invalid

KEY_BYTES: int = lib.CASCADE_KEY_BYTES
ID_BYTES: int = lib.CASCADE_ID_BYTES

Key = Union[bytes, str, Any]
"""32 bytes (any buffer of that length), or 64 hex digits as a str."""


def as_key(key: Key) -> bytes:
    """A key as 32 bytes. Raises InvalidArgumentError or TypeError."""
    if isinstance(key, str):
        return _from_hex(key, KEY_BYTES, "key")
    if not isinstance(key, bytes):
        try:
            with memoryview(key) as view:
                key = view.tobytes()
        except TypeError:
            raise TypeError(f"a key is 32 bytes or 64 hex digits, not {type(key).__name__}") from None
    if len(key) != KEY_BYTES:
        raise invalid(f"a key has {KEY_BYTES} bytes, not {len(key)}")
    return bytes(key)


def as_keys(keys: Iterable[Key]) -> Tuple[bytes, int]:
    """Keys one after the other in one run of bytes, and their number."""
    if isinstance(keys, (bytes, bytearray, memoryview, str)):
        raise TypeError("a sequence of keys is wanted, not one key")
    given: List[Any] = list(keys)
    if set(map(type, given)) != {bytes} or set(map(len, given)) != {KEY_BYTES}:
        given = [as_key(key) for key in given]
    return b"".join(given), len(given)


def as_id(block_id: str) -> Any:
    """A block id (32 hex digits) as a new ``cascade_id *``."""
    if not isinstance(block_id, str):
        raise TypeError(f"a block id is a str of 32 hex digits, not {type(block_id).__name__}")
    return ffi.new("cascade_id *", {"bytes": _from_hex(block_id, ID_BYTES, "block id")})


def as_tenant(tenant: Union[int, str, None]) -> int:
    """A tenant number from a number, a name or None."""
    if tenant is None:
        return 0
    if isinstance(tenant, str):
        return tenant_id(tenant)
    return unsigned("tenant", tenant, 64)


def unsigned(what: str, value: Any, bits: int) -> int:
    """An integer of [0, 2^bits)."""
    number = operator.index(value)
    if not 0 <= number < 1 << bits:
        raise invalid(f"{what} is {number}: not in [0, 2^{bits})")
    return number


def c_text(what: str, text: str) -> bytes:
    """UTF-8 for the library. A zero byte would end the text early and make two names one."""
    if not isinstance(text, str):
        raise TypeError(f"{what} must be a str, not {type(text).__name__}")
    if "\0" in text:
        raise invalid(f"{what} contains a zero byte")
    return text.encode()


def _from_hex(text: str, size: int, what: str) -> bytes:
    try:
        value = bytes.fromhex(text)
    except ValueError:
        value = b""
    # fromhex skips blanks, so the length of the text counts too.
    if len(value) != size or len(text) != 2 * size:
        raise invalid(f"a {what} as text is {2 * size} hex digits, not {text[:80]!r}")
    return value


def parse_size(size: Union[int, str]) -> int:
    """Bytes from ``"4GiB"``, ``"512M"``, ``"1.5g"`` (powers of 1024, case ignored) or an int.

    Raises InvalidArgumentError for anything else, negative numbers and sizes over 2^63-1.
    """
    if not isinstance(size, str):
        return unsigned("size", size, 63)
    out = ffi.new("uint64_t *")
    code = lib.cascade_size_parse(c_text("size", size), out)
    if code != OK:
        raise error_of(code)
    return int(out[0])


def tenant_id(name: str) -> int:
    """The tenant number that a tenant's name stands for; ``""`` is 0, the default tenant."""
    return int(lib.cascade_tenant(c_text("tenant", name)))


def compute_block_id(k: Any, v: Any = None) -> str:
    """The block id of a content, without storing it: the first 32 hex digits of SHA-256 over K, then V.

    ``k`` and ``v`` as in :meth:`Store.put`. The GIL is released while the bytes are hashed.
    """
    block = ffi.new("cascade_block *")
    out = ffi.new("cascade_id *")
    kept = fill_block(block, k, v, False)
    code = lib.cascade_block_id(block, out)
    del kept
    if code != OK:
        raise error_of(code)
    return id_text(out)


def id_text(block_id: Any) -> str:
    """A ``cascade_id`` as 32 hex digits."""
    return bytes(ffi.buffer(block_id.bytes)[:]).hex()


@dataclass(frozen=True)
class Namespace:
    """What must agree for two engines to share KV bytes; folded into their keys.

    Texts are UTF-8 of at most 4,096 bytes, numbers of 32 bits. Two namespaces that differ in any field give
    different keys. Immutable, hashable, safe to share between threads.

    Raises InvalidArgumentError for a text that is too long or holds a zero byte, or a number out of range.
    """

    model: str = ""
    """Model name."""
    revision: str = ""
    """Revision of the weights."""
    dtype: str = ""
    """Dtype or quantisation of the KV, such as ``"bfloat16"``."""
    lora: str = ""
    """Adapter name and revision."""
    numerics: str = ""
    """Numerics class: kernels whose low bits agree."""
    tenant: str = ""
    """Dedup and get by id never cross tenants. Give it to puts and gets by id too."""
    layout_version: int = 0
    """Version of the layout of the bytes inside a block."""
    block_tokens: int = 0
    """Tokens per block."""
    layer_first: int = 0
    """First layer of the range."""
    layer_count: int = 0
    """Layers in the range."""
    kv_head_first: int = 0
    """First KV head of the range; not the TP rank, so that MLA replicas meet."""
    kv_head_count: int = 0
    """KV heads in the range."""

    def __post_init__(self) -> None:
        struct = ffi.new("cascade_namespace *", {"struct_bytes": ffi.sizeof("cascade_namespace")})
        texts = []
        for name in self.__dataclass_fields__:
            value = getattr(self, name)
            if isinstance(self.__dataclass_fields__[name].default, str):
                texts.append(ffi.new("char[]", c_text(name, value)))
                setattr(struct, name, texts[-1])
            else:
                setattr(struct, name, unsigned(name, value, 32))
        # Not fields: built once because keys are folded often, and no part of the value.
        object.__setattr__(self, "_struct", struct)
        object.__setattr__(self, "_texts", texts)
        object.__setattr__(self, "_encoding", self._encode())

    def __reduce__(self) -> Any:
        return Namespace, astuple(self)

    def key(self, raw: Any) -> bytes:
        """The store's key (32 bytes) for an engine's own key, 1 to 4,096 bytes in any buffer."""
        pointer, size, kept = span(raw, False)
        out = ffi.new("cascade_key *")
        code = lib.cascade_key_fold(self._struct, pointer, size, out)  # type: ignore[attr-defined]
        del kept
        if code != OK:
            raise error_of(code)
        return bytes(ffi.buffer(out)[:])

    def encode(self) -> bytes:
        """The canonical encoding (docs/formats.md, "Namespace"); a key is SHA-256 over it and the raw key."""
        return self._encoding  # type: ignore[attr-defined, no-any-return]

    @property
    def tenant_id(self) -> int:
        """The number of the tenant, for :meth:`Store.put` and gets by id."""
        return tenant_id(self.tenant)

    def _encode(self) -> bytes:
        struct = self._struct  # type: ignore[attr-defined]
        size = ffi.new("size_t *")
        lib.cascade_namespace_encode(struct, ffi.NULL, size)
        out = ffi.new("uint8_t[]", size[0])
        code = lib.cascade_namespace_encode(struct, out, size)
        if code != OK:
            raise error_of(code)
        return bytes(ffi.buffer(out, size[0])[:])


def optional_text(what: str, text: Optional[str]) -> Any:
    """A new C string, or NULL for None."""
    return ffi.NULL if text is None else ffi.new("char[]", c_text(what, text))
