# SPDX-License-Identifier: MIT
"""Stores one block, finds it, and reads it back: hello.py DIRECTORY."""

import sys

import cascade

if len(sys.argv) != 2:
    sys.exit(f"usage: {sys.argv[0]} DIRECTORY")
model = cascade.Namespace(model="demo", dtype="bfloat16", block_tokens=16)
key = model.key(b"the engine's hash of a token prefix")
k, v = b"K" * 4096, b"V" * 4096

with cascade.Store(sys.argv[1], dram="64MiB") as store:
    block_id = store.put(key, k, v, sync=True)
    print("stored", block_id, "and found", store.match_prefix([key]), "of 1")

    into_k, into_v = bytearray(4096), bytearray(4096)
    store.get_into(key, into_k, into_v)  # into memory that is there already

    with store.view(key) as view:  # in place, without a copy
        assert b"".join(view.k) == into_k == k and into_v == v
    print("read back the same bytes")
