# SPDX-License-Identifier: MIT
import hashlib

import pytest
from hypothesis import settings

import cascade

# Reproducible, and never failing on time.
settings.register_profile("cascade", derandomize=True, deadline=None, print_blob=True)
settings.load_profile("cascade")

DRAM = "32MiB"


def key_of(*parts):
    """A key made of anything."""
    return hashlib.sha256(repr(parts).encode()).digest()


def id_of(*halves):
    """The block id by definition."""
    return hashlib.sha256(b"".join(bytes(half) for half in halves)).hexdigest()[:32]


@pytest.fixture
def store(tmp_path):
    with cascade.Store(tmp_path / "store", DRAM) as opened:
        yield opened
        # A test that leaves a pin fails here, like one that leaves a file.
        assert opened.closed or opened.stats()["pins"] == 0
