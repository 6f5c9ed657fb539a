# SPDX-License-Identifier: MIT
"""Views: right bytes, read-only, and never a pointer to memory that is no longer pinned."""

import gc

import numpy
import pytest
from conftest import DRAM, key_of

import cascade

K, V = bytes(range(256)) * 300, b"v" * 777


@pytest.fixture
def block(store):
    store.put(key_of(1), K, V)
    return store


def pins(store):
    return store.stats()["pins"]


def test_bytes(block):
    with block.view(key_of(1)) as view:
        assert b"".join(view.k) == K and b"".join(view.v) == V
        assert (view.k_bytes, view.v_bytes) == (len(K), len(V))
        assert pins(block) == 1
    assert pins(block) == 0


def test_no_v(store):
    store.put(key_of(2), b"k")
    with store.view(key_of(2)) as view:
        assert b"".join(view.k) == b"k" and list(view.v) == []


def test_read_only(block):
    with block.view(key_of(1)) as view:
        for piece in (*view.k, *view.v):
            assert piece.readonly and piece.format == "B" and piece.contiguous
            with pytest.raises(TypeError):
                piece[0] = 1
            array = numpy.frombuffer(piece, "u1")
            assert not array.flags.writeable
            with pytest.raises(ValueError):
                array.flags.writeable = True
            del array


def test_released_at_the_end(block):
    with block.view(key_of(1)) as view:
        pieces = [*view.k, *view.v]
    assert list(view.k) == list(view.v) == []
    for piece in pieces:
        with pytest.raises(ValueError, match="released"):
            piece[0]
    view.release()
    assert pins(block) == 0


@pytest.mark.parametrize(
    "derive",
    [
        lambda piece: piece[1:9],
        lambda piece: piece.cast("B", (len(piece),)),
        lambda piece: memoryview(piece),
        lambda piece: numpy.frombuffer(piece, "u1"),
        lambda piece: numpy.frombuffer(piece, "u1")[1:9],
        lambda piece: numpy.frombuffer(piece[1:], "u1"),
    ],
)
def test_what_was_made_from_a_view_keeps_the_pin(block, derive):
    with block.view(key_of(1)) as view:
        derived = derive(view.k[0])
        before = bytes(derived)
    assert pins(block) == 1
    # A store that drops the bytes now must not, nor may it go away under them.
    block.delete(key_of(1))
    for number in range(2, 12):
        block.put(key_of(number), bytes([number]) * len(K))
    with pytest.raises(BufferError):
        block.close()
    assert not block.closed and bytes(derived) == before
    del derived
    gc.collect()
    assert pins(block) == 0


def test_a_view_that_is_dropped_unpins(block):
    view = block.view(key_of(1))
    assert pins(block) == 1
    del view
    gc.collect()
    assert pins(block) == 0


def test_an_error_inside_still_unpins(block):
    with pytest.raises(RuntimeError):
        with block.view(key_of(1)):
            raise RuntimeError
    assert pins(block) == 0


def test_close_waits_for_views_to_go(tmp_path):
    store = cascade.Store(tmp_path / "s", DRAM)
    store.put(key_of(1), K)
    with store.view(key_of(1)):
        with pytest.raises(BufferError, match="views"):
            store.close()
        assert key_of(1) in store
    store.close()
    assert store.closed


def test_a_view_outlives_its_store_object(tmp_path):
    store = cascade.Store(tmp_path / "s", DRAM)
    store.put(key_of(1), K)
    view = store.view(key_of(1))
    with pytest.warns(ResourceWarning):
        del store
        gc.collect()
    assert b"".join(view.k) == K
    view.release()
    del view
    gc.collect()
    # The last reference closed the store.
    with cascade.Store(tmp_path / "s") as store:
        assert store.get(key_of(1))[0] == K


def test_views_in_a_cycle_with_their_store(tmp_path):
    store = cascade.Store(tmp_path / "s", DRAM)
    store.put(key_of(1), K)
    cycle = {"store": store, "view": store.view(key_of(1))}
    cycle["self"] = cycle
    with pytest.warns(ResourceWarning):
        del store, cycle
        gc.collect()
    cascade.Store(tmp_path / "s").close()


def test_many_views(block):
    views = [block.view(key_of(1)) for _ in range(20)]
    assert pins(block) == 20
    for view in views:
        assert view.k[0][5] == 5
        view.release()
    assert pins(block) == 0
