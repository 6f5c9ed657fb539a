# SPDX-License-Identifier: MIT
"""Exceptions: one class per code of the C library.

Codes, names and texts come from the library's own table when the module is imported. What is written here is
only which Python class stands for which name, so that type checkers and readers can see the classes.
"""

from __future__ import annotations

from typing import Optional, Tuple

from ._binding import ffi, lib


class CascadeError(Exception):
    """A call of the store failed.

    Attributes:
        code: the C library's code; positive for a normal outcome such as a miss, negative for a failure.
        name: the code's name, such as ``"CASCADE_EBUSY"``.
        text: one sentence about the code.
        detail: what happened this time, or ``""``.
        statuses: of a batch, the code of each item in order; else ``None``.
    """

    symbol = ""

    def __init__(
        self,
        code: int,
        name: str,
        text: str,
        detail: str = "",
        statuses: Optional[Tuple[int, ...]] = None,
    ) -> None:
        super().__init__(code, name, text, detail, statuses)
        self.code = code
        self.name = name
        self.text = text
        self.detail = detail
        self.statuses = statuses

    def __str__(self) -> str:
        return f"{self.name}: {self.text}" + (f" ({self.detail})" if self.detail else "")


class NotFoundError(CascadeError, KeyError):
    """CASCADE_MISS."""

    symbol = "MISS"


class InvalidArgumentError(CascadeError, ValueError):
    """CASCADE_EINVAL."""

    symbol = "EINVAL"


class ClosedError(InvalidArgumentError):
    """CASCADE_EINVAL, because the store has been closed."""

    symbol = ""


class OutOfMemoryError(CascadeError, MemoryError):
    """CASCADE_ENOMEM."""

    symbol = "ENOMEM"


class NoSpaceError(CascadeError):
    """CASCADE_ENOSPC."""

    symbol = "ENOSPC"


class BusyError(CascadeError):
    """CASCADE_EBUSY."""

    symbol = "EBUSY"


class TryAgainError(CascadeError):
    """CASCADE_EAGAIN."""

    symbol = "EAGAIN"


class InputOutputError(CascadeError):
    """CASCADE_EIO."""

    symbol = "EIO"


class CorruptError(CascadeError):
    """CASCADE_ECORRUPT."""

    symbol = "ECORRUPT"


class FormatError(CascadeError):
    """CASCADE_EFORMAT."""

    symbol = "EFORMAT"


class NoStoreError(CascadeError):
    """CASCADE_ENOSTORE."""

    symbol = "ENOSTORE"


class AccessDeniedError(CascadeError):
    """CASCADE_EACCES."""

    symbol = "EACCES"


class NoSlotError(CascadeError):
    """CASCADE_ENOSLOT."""

    symbol = "ENOSLOT"


class ForkedError(CascadeError):
    """CASCADE_EFORKED."""

    symbol = "EFORKED"


class TooBigError(CascadeError):
    """CASCADE_ETOOBIG."""

    symbol = "ETOOBIG"


class PoisonedError(CascadeError):
    """CASCADE_EPOISONED."""

    symbol = "EPOISONED"


class TimedOutError(CascadeError):
    """CASCADE_ETIMEDOUT."""

    symbol = "ETIMEDOUT"


class NotSupportedError(CascadeError):
    """CASCADE_ENOTSUP."""

    symbol = "ENOTSUP"


class ExistsError(CascadeError):
    """CASCADE_EEXIST."""

    symbol = "EEXIST"


class SizeError(CascadeError, ValueError):
    """CASCADE_ESIZE."""

    symbol = "ESIZE"


class ConflictError(CascadeError):
    """CASCADE_ECONFLICT."""

    symbol = "ECONFLICT"


class NoKeyError(CascadeError):
    """CASCADE_ENOKEY."""

    symbol = "ENOKEY"


def _text(pointer: object) -> str:
    return str(ffi.string(pointer).decode("utf-8", "replace"))


def _read_table() -> dict[int, tuple[type[CascadeError], str, str]]:
    classes = {cls.symbol: cls for cls in CascadeError.__subclasses__()}
    count = ffi.new("size_t *")
    codes = lib.binding_error_codes(count)
    table = {}
    for code in ffi.unpack(codes, count[0]):
        name = _text(lib.cascade_error_name(code))
        table[code] = (
            classes.get(name[len("CASCADE_") :], CascadeError),
            name,
            _text(lib.cascade_error_text(code)),
        )
    return table


TABLE = _read_table()
_CODES = {name: code for code, (_, name, _) in TABLE.items()}
OK = _CODES["CASCADE_OK"]
MISS = _CODES["CASCADE_MISS"]
EINVAL = _CODES["CASCADE_EINVAL"]
ECORRUPT = _CODES["CASCADE_ECORRUPT"]
ESIZE = _CODES["CASCADE_ESIZE"]


def error_of(
    code: int, detail: Optional[str] = None, statuses: Optional[Tuple[int, ...]] = None
) -> Exception:
    """The exception for a code. Without a detail: the calling thread's last one, if the code is a failure."""
    if code == lib.BINDING_VIEWS:
        return BufferError("views are still held (a memoryview or array made from one counts): release them first")
    if code == lib.BINDING_CLOSED:
        return ClosedError(EINVAL, TABLE[EINVAL][1], TABLE[EINVAL][2], "the store is closed")
    if detail is None:
        detail = _text(lib.cascade_last_error()) if code < 0 else ""
    cls, name, text = TABLE.get(code, (CascadeError, "CASCADE_UNKNOWN", f"unknown code {code}"))
    return cls(code, name, text, detail, statuses)


def invalid(detail: str) -> Exception:
    """An argument that was refused before it reached the library."""
    return error_of(EINVAL, detail)
