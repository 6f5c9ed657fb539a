# SPDX-License-Identifier: MIT
"""What can be given as bytes, and what is refused. compute_block_id reads; get_into writes."""

import array
import ctypes
import mmap

import numpy
import pytest
from conftest import id_of, key_of
from hypothesis import given
from hypothesis import strategies as st

import cascade
from cascade import _buffers
from cascade._binding import ffi

RAW = bytes(range(256)) * 4


class Exporter:
    """Has DLPack and nothing else, like an array of a library that is not known here."""

    def __init__(self, of, device=None, versioned=True):
        self.of, self.device, self.versioned = of, device, versioned

    def __dlpack_device__(self):
        return self.device or self.of.__dlpack_device__()

    def __dlpack__(self, **options):
        if not self.versioned:
            if options:
                raise TypeError("no such argument")
            return self.of.__dlpack__()
        return self.of.__dlpack__(**options)


class Capsule:
    """DLPack by hand, for what numpy does not export. Versioned if `major` is given."""

    def __init__(self, data, shape, bits=8, lanes=1, offset=0, strides=None, major=None, read_only=False):
        self.kept = [ffi.from_buffer(data), ffi.new("int64_t[]", shape), ffi.new("int64_t[]", strides or shape)]
        self.managed = ffi.new("binding_dltensor *" if major is None else "binding_dltensor_versioned *")
        tensor = self.managed
        self.name = b"dltensor"
        if major is not None:
            self.managed.major, self.managed.flags, tensor = major, read_only, self.managed.tensor
            self.name = b"dltensor_versioned"
        tensor.data, tensor.shape = self.kept[0], self.kept[1]
        tensor.strides = self.kept[2] if strides else ffi.NULL
        tensor.device_type, tensor.ndim, tensor.bits, tensor.lanes, tensor.byte_offset = 1, len(shape), bits, lanes, offset

    def __dlpack_device__(self):
        return (1, 0)

    def __dlpack__(self, **_):
        new = ctypes.pythonapi.PyCapsule_New
        new.restype, new.argtypes = ctypes.py_object, (ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p)
        return new(int(ffi.cast("uintptr_t", self.managed)), self.name, None)


@given(st.binary(max_size=300), st.binary(max_size=300))
def test_block_id_is_the_published_one(k, v):
    assert cascade.compute_block_id(k, v) == id_of(k, v)
    assert cascade.compute_block_id(k) == id_of(k)


@given(st.lists(st.binary(max_size=40), max_size=8), st.lists(st.binary(max_size=40), max_size=8))
def test_pieces_are_gathered_in_order(k, v):
    assert cascade.compute_block_id(k, tuple(v)) == id_of(*k, *v)


def buffers():
    yield "bytes", RAW
    yield "bytearray", bytearray(RAW)
    yield "memoryview", memoryview(RAW)
    yield "memoryview of doubles", memoryview(RAW).cast("d")
    yield "2-d memoryview", memoryview(RAW).cast("B", (4, 256))
    yield "slice", memoryview(b"xx" + RAW)[2:]
    yield "array", array.array("i", memoryview(RAW).cast("i"))
    for dtype in ("u1", "f2", "<f4", ">f4", "f8", "c16", "?", "S4", "V8", "M8[s]", "i4,f4"):
        yield f"numpy {dtype}", numpy.frombuffer(RAW, "u1").view(dtype)
    yield "numpy 3-d", numpy.frombuffer(RAW, "f2").reshape(2, 16, 16)
    yield "numpy row", numpy.frombuffer(RAW + RAW, "u1").reshape(2, -1)[1]
    yield "DLPack", Exporter(numpy.frombuffer(bytearray(RAW), "f4").reshape(4, 64))
    yield "DLPack without versions", Exporter(numpy.frombuffer(bytearray(RAW), "f4"), versioned=False)
    yield "DLPack by hand", Capsule(RAW, [2, 512])
    yield "DLPack of a version", Capsule(RAW, [4, 256], strides=[256, 1], major=1, read_only=True)
    yield "DLPack with vectors", Capsule(RAW, [64], bits=32, lanes=4)
    yield "DLPack with a byte offset", Capsule(b"123" + RAW, [1024], offset=3)
    yield "DLPack with an offset", Exporter(numpy.frombuffer(bytearray(b"1234" + RAW), "f4")[1:])
    yield "DLPack with axes of one", Exporter(numpy.frombuffer(bytearray(RAW), "f4")[:, None].T)


@pytest.mark.parametrize("buffer", [pytest.param(value, id=name) for name, value in buffers()])
def test_every_kind_of_buffer(buffer):
    assert cascade.compute_block_id(buffer) == id_of(RAW)
    assert cascade.compute_block_id([buffer, b"-"], buffer) == id_of(RAW, b"-", RAW)


@pytest.mark.parametrize("name", ["bfloat16", "float8_e4m3fn", "float8_e5m2", "int4"])
def test_dtypes_that_numpy_does_not_know(name):
    ml_dtypes = pytest.importorskip("ml_dtypes")
    given_array = numpy.frombuffer(RAW, "u1").view(getattr(ml_dtypes, name))
    assert cascade.compute_block_id(given_array) == id_of(RAW)


def test_empty_buffers():
    for empty in (b"", numpy.empty((0, 4), "f4"), numpy.empty(0)[::2], [], (), Exporter(numpy.empty((3, 0)))):
        assert cascade.compute_block_id(b"k", empty) == id_of(b"k")


def test_scalar_array():
    assert cascade.compute_block_id(numpy.array(7, "<i4")) == id_of(b"\7\0\0\0")


def test_mmap(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(RAW)
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        assert cascade.compute_block_id(mapped) == id_of(RAW)


@pytest.mark.parametrize(
    "gaps",
    [
        memoryview(RAW)[::2],
        numpy.frombuffer(RAW, "u1")[::2],
        numpy.frombuffer(RAW, "u1")[::-1],
        numpy.frombuffer(RAW, "u1").reshape(4, -1).T,
        numpy.broadcast_to(numpy.uint8(1), (100,)),
        Exporter(numpy.frombuffer(bytearray(RAW), "f4").reshape(4, -1).T),
    ],
)
def test_gaps_are_refused_with_a_remedy(gaps):
    with pytest.raises(ValueError, match="contiguous"):
        cascade.compute_block_id(gaps)


@pytest.mark.parametrize("thing", ["text", 7, None, object(), {}, [b"fine", 7], [[b"nested"]], ["text"]])
def test_what_has_no_bytes(thing):
    if thing is None:
        thing = [None]
    with pytest.raises(TypeError):
        cascade.compute_block_id(thing)


def test_python_objects_are_refused():
    with pytest.raises(TypeError, match="objects"):
        cascade.compute_block_id(numpy.array([object(), "x"]))


@pytest.mark.parametrize("capsule", [Capsule(RAW, [8], bits=4), Capsule(RAW, [8], major=2)])
def test_dlpack_that_is_refused(capsule):
    with pytest.raises(TypeError, match="bits|version"):
        cascade.compute_block_id(capsule)


def test_an_exporter_that_refuses():
    class Refuses(Exporter):
        def __dlpack__(self, **_):
            raise BufferError("not today")

    with pytest.raises(TypeError, match="not today"):
        cascade.compute_block_id(Refuses(numpy.zeros(4)))


def test_a_device_is_refused():
    with pytest.raises(TypeError, match="CPU memory"):
        cascade.compute_block_id(Exporter(numpy.zeros(4), device=(2, 0)))


@pytest.mark.parametrize(
    "target",
    [
        bytes(8),
        memoryview(bytes(8)),
        numpy.frombuffer(bytes(8), "u1"),
        Capsule(bytes(8), [8], major=1, read_only=True),
    ],
)
def test_a_destination_must_be_writable(target):
    with pytest.raises(TypeError, match="read-only"):
        _buffers.span(target, True)


@pytest.mark.parametrize(
    "make",
    [bytearray, lambda n: memoryview(bytearray(n)), lambda n: numpy.zeros(n, "u1"), lambda n: Exporter(numpy.zeros(n, "u1"))],
)
def test_destinations(store, make):
    key, k, v = key_of("destinations"), bytes(range(200)), bytes(range(55))
    store.put(key, k, v)
    into = make(len(k)), make(len(v))
    store.get_into(key, *into)
    assert cascade.compute_block_id(*into) == id_of(k, v)
    pieces = [make(120), make(80)], [make(0), make(55)]
    store.get_into(key, *pieces)
    assert cascade.compute_block_id(*pieces) == id_of(k, v)


def test_bfloat16_destination(store):
    ml_dtypes = pytest.importorskip("ml_dtypes")
    key, source = key_of("bf16"), numpy.arange(300, dtype="f4").astype(ml_dtypes.bfloat16).reshape(3, 100)
    store.put(key, source)
    into = numpy.zeros_like(source)
    store.get_into(key, into)
    assert (into == source).all()


def test_a_bytearray_can_be_resized_after_the_call(store):
    buffer = bytearray(RAW)
    store.put(key_of("resize"), buffer)
    store.get_into(key_of("resize"), buffer)
    buffer.append(1)


class TestTorch:
    """Skipped where torch is not installed: it is optional and large."""

    @pytest.fixture
    def torch(self):
        return pytest.importorskip("torch", reason="torch is not installed (optional)")

    def test_every_dtype(self, torch):
        raw = numpy.frombuffer(bytearray(RAW), "u1")
        for dtype in (torch.uint8, torch.float16, torch.bfloat16, torch.float32, torch.float8_e4m3fn):
            tensor = torch.from_numpy(raw).view(dtype)
            assert cascade.compute_block_id(tensor) == id_of(RAW)
            assert cascade.compute_block_id([tensor, tensor]) == id_of(RAW, RAW)
        assert cascade.compute_block_id(torch.from_numpy(raw)[16:]) == id_of(RAW[16:])
        assert cascade.compute_block_id(torch.nn.Parameter(torch.from_numpy(raw).view(torch.float32))) == id_of(RAW)

    def test_destination(self, torch, store):
        source = torch.arange(4096, dtype=torch.float32).to(torch.bfloat16).reshape(2, 32, 64)
        store.put(key_of("torch"), source[0], [source[1, :16], source[1, 16:]])
        into = torch.zeros_like(source)
        store.get_into(key_of("torch"), into[0], into[1])
        assert torch.equal(into, source)

    def test_refused(self, torch):
        with pytest.raises(ValueError, match="contiguous"):
            cascade.compute_block_id(torch.zeros(4, 8).T)
        with pytest.raises(TypeError, match="layout"):
            cascade.compute_block_id(torch.zeros(4, 8).to_sparse())
        with pytest.raises(TypeError, match="cpu"):
            cascade.compute_block_id(torch.zeros(4, device="meta"))
        with pytest.raises(ValueError, match="lazy"):
            cascade.compute_block_id(torch.zeros(4, dtype=torch.complex64).conj())
