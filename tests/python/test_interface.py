# SPDX-License-Identifier: MIT
"""The cffi declarations against cascade.h, and the exceptions against error.h."""

import pathlib
import pickle
import re

import pytest

import cascade
from cascade import _errors
from cascade._binding import ffi, lib

INCLUDE = pathlib.Path(__file__).parents[2] / "include" / "cascade"


def header(name):
    return re.sub(r"/\*.*?\*/", "", (INCLUDE / name).read_text(), flags=re.S)


def public():
    return header("cascade.h") + header("simulator.h")


def test_every_function_is_declared():
    names = re.findall(r"^CASCADE_API\s[^;(]*?\b(cascade_\w+)\s*\(", public(), re.M)
    assert len(names) > 30 and "cascade_store_open" in names
    assert [name for name in names if not hasattr(lib, name)] == []


def test_every_constant_is_declared_and_right():
    text = public()
    names = set(re.findall(r"^\s*(?:enum \{ )?(CASCADE_\w+) = ", text, re.M))
    names |= set(re.findall(r"(CASCADE_\w+) = ", text))
    names |= set(re.findall(r"^#define (CASCADE_\w+) +\S", text, re.M)) - {"CASCADE_API"}
    assert len(names) > 20
    # Reading one compares it with the header's value, in C.
    assert [name for name in sorted(names) if not isinstance(getattr(lib, name), int)] == []


def test_every_structure_is_declared_and_fits():
    names = set(re.findall(r"^typedef struct (\w+) \{", public(), re.M))
    assert len(names) > 10
    # sizeof makes cffi compare size, and each field's offset and size, with the header's.
    assert [name for name in sorted(names) if ffi.sizeof(name) <= 0] == []


def test_error_table_is_the_headers():
    rows = re.findall(r"X\((\w+), (-?\d+), \"([^\"]*)\"\)", header("error.h"))
    assert len(rows) > 15
    assert {int(value): (f"CASCADE_{name}", text) for name, value, text in rows} == {
        code: (name, text) for code, (_, name, text) in _errors.TABLE.items()
    }


def test_every_failure_has_its_class():
    shared = [name for code, (cls, name, _) in _errors.TABLE.items() if cls is cascade.CascadeError and code]
    assert shared == []
    symbols = {cls.symbol for cls in cascade.CascadeError.__subclasses__()}
    known = {name[len("CASCADE_") :] for _, name, _ in _errors.TABLE.values()}
    assert symbols <= known
    for cls in cascade.CascadeError.__subclasses__():
        assert getattr(cascade, cls.__name__) is cls
        assert cls.__name__ in cascade.__all__


@pytest.mark.parametrize("code", sorted(_errors.TABLE))
def test_errors_say_what_they_are(code):
    error = _errors.error_of(code, "the detail", (0, code))
    name, text = _errors.TABLE[code][1:]
    assert (error.code, error.name, error.text, error.detail) == (code, name, text, "the detail")
    assert error.statuses == (0, code)
    assert str(error) == f"{name}: {text} (the detail)"
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is type(error) and again.args == error.args and str(again) == str(error)


def test_a_code_from_the_future_is_an_error():
    assert isinstance(_errors.error_of(-4321, ""), cascade.CascadeError)


def test_errors_are_pythons_own_too():
    assert issubclass(cascade.NotFoundError, KeyError)
    assert issubclass(cascade.InvalidArgumentError, ValueError)
    assert issubclass(cascade.ClosedError, cascade.InvalidArgumentError)
    assert issubclass(cascade.OutOfMemoryError, MemoryError)


def test_version():
    assert cascade.__version__ == f"{lib.CASCADE_VERSION_MAJOR}.{lib.CASCADE_VERSION_MINOR}.{lib.CASCADE_VERSION_PATCH}"


def test_all_is_there():
    assert [name for name in cascade.__all__ if not hasattr(cascade, name)] == []
