# SPDX-License-Identifier: MIT
"""Writes the C source of the extension module: emit_binding.py CDEF BINDING_H OUT."""

import sys

import cffi


def main() -> None:
    cdef_path, binding_path, out_path = sys.argv[1:]
    ffi = cffi.FFI()
    with open(cdef_path, encoding="utf-8") as file:
        ffi.cdef(file.read())
    with open(binding_path, encoding="utf-8") as file:
        ffi.cdef("".join(line for line in file if not line.startswith("#")))
    ffi.set_source("cascade._binding", '#include "binding.h"\n', py_limited_api=True)
    ffi.emit_c_code(out_path)


main()
