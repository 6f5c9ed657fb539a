# SPDX-License-Identifier: MIT
"""From Python objects to runs of bytes, without copies.

Taken are: anything with the buffer protocol, numpy arrays of every dtype without Python objects (bfloat16 and
fp8 of ml_dtypes too), CPU tensors of torch, and anything that exports DLPack from CPU memory. All must be
contiguous in C order. No package is imported for this: an object of numpy or torch can only exist if its
package has been.
"""

from __future__ import annotations

import sys
from typing import Any, Tuple

from ._binding import ffi

_BYTES = ffi.typeof("uint8_t[]")
_PIECES = ffi.typeof("cascade_piece[]")
_PLAIN = frozenset((bytes, bytearray, memoryview))
_from_buffer = ffi.from_buffer

# Memory that the CPU can address: plain, and pinned by CUDA or ROCm.
_DLPACK_CPU = frozenset((1, 3, 11))
_DLPACK_READ_ONLY = 1

Span = Tuple[Any, int, Any]
"""A pointer, its bytes, and what must stay referenced while the pointer is used."""


def span(thing: Any, writable: bool) -> Span:
    """The bytes of one object. TypeError: has none, cannot be written, or not in CPU memory; ValueError: has
    gaps."""
    if type(thing) not in _PLAIN:
        module = sys.modules.get("numpy")
        if module is not None and isinstance(thing, module.ndarray):
            # The buffer of such an array is its pointers.
            if thing.dtype.hasobject:
                raise TypeError("an array of Python objects has no bytes to store")
        else:
            module = sys.modules.get("torch")
            if module is not None and isinstance(thing, module.Tensor):
                return _of_torch(thing)
    try:
        buffer = _from_buffer(_BYTES, thing, writable)
    except (TypeError, ValueError, BufferError) as error:
        return _of_other(thing, writable, error)
    return buffer, len(buffer), buffer


def is_pieces(half: Any) -> bool:
    """Whether K or V was given as a list of pieces."""
    return isinstance(half, (list, tuple))


def pieces(half: Any, writable: bool) -> Tuple[Any, int, Any]:
    """K or V (None: empty) as a C array of pieces, its length, and what must stay referenced."""
    parts = () if half is None else half if is_pieces(half) else (half,)
    spans = [span(part, writable) for part in parts]
    array = ffi.new(_PIECES, [(pointer, size) for pointer, size, _ in spans])
    return array, len(spans), (array, spans)


def fill_block(block: Any, k: Any, v: Any, writable: bool) -> Any:
    """Points a cascade_block at K and V; returns what must stay referenced."""
    block.k, block.k_count, keep_k = pieces(k, writable)
    block.v, block.v_count, keep_v = pieces(v, writable)
    return keep_k, keep_v


def _gaps(thing: Any, remedy: str) -> ValueError:
    return ValueError(f"{_name(thing)} is not contiguous in C order: {remedy}")


def _read_only(thing: Any) -> TypeError:
    return TypeError(f"{_name(thing)} is read-only: a destination must be writable")


def _name(thing: Any) -> str:
    cls = type(thing)
    return f"{cls.__module__}.{cls.__qualname__}" if cls.__module__ != "builtins" else cls.__qualname__


def _of_torch(tensor: Any) -> Span:
    if tensor.device.type != "cpu":
        raise TypeError(f"the tensor is on {tensor.device}: copy it to the CPU first (tensor.cpu())")
    if str(tensor.layout) != "torch.strided":
        raise TypeError(f"the tensor's layout is {tensor.layout}: only dense (strided) tensors can be taken")
    if tensor.is_conj() or tensor.is_neg():
        raise ValueError("the tensor is a lazy conjugate or negation: use resolve_conj() or resolve_neg()")
    if not tensor.is_contiguous():
        raise _gaps(tensor, "use tensor.contiguous(), or give its contiguous parts as a list")
    size = tensor.numel() * tensor.element_size()
    return ffi.cast("uint8_t *", tensor.data_ptr()), size, tensor


def _of_other(thing: Any, writable: bool, error: Exception) -> Span:
    """What has no usable buffer: DLPack, else the reason why not."""
    if isinstance(thing, str):
        raise TypeError("a str has no bytes to store: encode it first") from None
    numpy = sys.modules.get("numpy")
    if numpy is not None and isinstance(thing, numpy.ndarray):
        return _of_numpy(thing, writable, numpy)
    if hasattr(thing, "__dlpack__") and hasattr(thing, "__dlpack_device__"):
        return _of_dlpack(thing, writable)
    try:
        view = memoryview(thing)
    except (TypeError, ValueError, BufferError):
        raise TypeError(
            f"{_name(thing)} has no bytes that can be reached: give a contiguous buffer, array or CPU tensor, "
            "or a list of them"
        ) from error
    with view:
        if not view.c_contiguous:
            raise _gaps(thing, "copy it (bytes(x)), or give its contiguous parts as a list") from None
        if writable and view.readonly:
            raise _read_only(thing) from None
    raise error


def _of_numpy(array: Any, writable: bool, numpy: Any) -> Span:
    if not array.flags.c_contiguous:
        raise _gaps(array, "use numpy.ascontiguousarray, or give its contiguous parts as a list") from None
    if writable and not array.flags.writeable:
        raise _read_only(array) from None
    # A dtype that the buffer protocol has no letter for; its bytes can be had all the same.
    buffer = _from_buffer(_BYTES, array.reshape(-1).view(numpy.uint8), writable)
    return buffer, len(buffer), buffer


def _of_dlpack(thing: Any, writable: bool) -> Span:
    device = thing.__dlpack_device__()
    if int(device[0]) not in _DLPACK_CPU:
        raise TypeError(f"{_name(thing)} is not in CPU memory (DLPack device {tuple(map(int, device))}): copy it first")
    try:
        try:
            capsule = thing.__dlpack__(max_version=(1, 0))
        except TypeError:  # an exporter from before versions
            capsule = thing.__dlpack__()
    except BufferError as error:
        raise TypeError(f"{_name(thing)} does not give its bytes: {error}") from error
    tensor, read_only = _tensor_of(capsule)
    if writable and read_only:
        raise _read_only(thing)
    # The capsule frees the tensor when it goes, as nobody took the tensor out of it.
    count = 1
    contiguous = True
    for axis in reversed(range(tensor.ndim)):
        length = tensor.shape[axis]
        if tensor.strides and length > 1 and tensor.strides[axis] != count:
            contiguous = False
        count *= length
    if count and not contiguous:
        raise _gaps(thing, "make a contiguous copy, or give its contiguous parts as a list")
    bits = tensor.bits * tensor.lanes
    if bits % 8:
        raise TypeError(f"{_name(thing)} has elements of {bits} bits: give whole bytes")
    return ffi.cast("uint8_t *", tensor.data) + tensor.byte_offset, count * (bits // 8), capsule


def _tensor_of(capsule: Any) -> Tuple[Any, bool]:
    import ctypes  # only here, because few need it

    api = ctypes.pythonapi
    api.PyCapsule_IsValid.argtypes = (ctypes.py_object, ctypes.c_char_p)
    api.PyCapsule_GetPointer.restype = ctypes.c_void_p
    api.PyCapsule_GetPointer.argtypes = (ctypes.py_object, ctypes.c_char_p)
    if api.PyCapsule_IsValid(capsule, b"dltensor_versioned"):
        address = api.PyCapsule_GetPointer(capsule, b"dltensor_versioned")
        managed = ffi.cast("binding_dltensor_versioned *", address)
        if managed.major != 1:
            raise TypeError(f"DLPack version {managed.major}.{managed.minor} is not known here")
        return managed.tensor, bool(managed.flags & _DLPACK_READ_ONLY)
    address = api.PyCapsule_GetPointer(capsule, b"dltensor")
    return ffi.cast("binding_dltensor *", address)[0], False


