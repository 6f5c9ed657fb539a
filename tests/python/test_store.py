# SPDX-License-Identifier: MIT
"""Store: every method once in its good case, and its named errors."""

import gc
import os
import shutil
import tempfile
import threading
import time

import numpy
import pytest
from conftest import DRAM, id_of, key_of
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

import cascade
from cascade import _errors, _store
from cascade._binding import ffi


def test_put_and_get(store):
    key, k, v = key_of(1), b"K" * 1000, b"V" * 500
    assert store.put(key, k, v, sync=True) == id_of(k, v)
    assert store.get(key) == (k, v)
    assert store.get(key.hex()) == (k, v)
    assert all(type(half) is bytearray for half in store.get(key))


def test_put_without_sync_may_not_know_the_id_yet(store):
    assert store.put(key_of(1), b"K") in (None, id_of(b"K"))


def test_no_v(store):
    store.put(key_of(1), b"K")
    store.put(key_of(2), b"K", b"")
    store.put(key_of(3), b"K", [])
    for number in (1, 2, 3):
        assert store.get(key_of(number)) == (b"K", b"")
        into = bytearray(1)
        store.get_into(key_of(number), into)
        store.get_into(key_of(number), into, None)
        store.get_into(key_of(number), into, bytearray())
        assert into == b"K"


def test_layers_in_many_places(store):
    layers = [numpy.random.default_rng(layer).bytes(300 + layer) for layer in range(160)]
    store.put(key_of(1), layers[:80], layers[80:])
    assert store.get(key_of(1)) == (b"".join(layers[:80]), b"".join(layers[80:]))
    into = [bytearray(len(layer)) for layer in layers]
    store.get_into(key_of(1), into[:80], into[80:])
    assert into == layers


def test_a_bound_key_stays(store):
    store.put(key_of(1), b"first")
    store.put(key_of(1), b"other")
    assert store.get(key_of(1))[0] == b"first"
    with pytest.raises(cascade.ConflictError):
        store.put(key_of(1), b"other", verify=True)
    store.put(key_of(1), b"first", verify=True)


def test_durable(store):
    assert store.put(key_of(1), b"K", b"V", durable=True) == id_of(b"K", b"V")


def test_parent(store):
    store.put(key_of(1), b"one")
    store.put(key_of(2), b"two", parent=key_of(1))
    assert store.info(key_of(1)).parent is None
    assert store.info(key_of(2)).parent == key_of(1)
    with pytest.raises(cascade.InvalidArgumentError):
        store.put(key_of(3), b"three", parent=key_of(3))
    assert key_of(3) not in store


def test_misses(store):
    absent = key_of("absent")
    for call in (store.get, store.view, store.info):
        with pytest.raises(cascade.NotFoundError) as caught:
            call(absent)
        assert caught.value.detail == absent.hex()
    with pytest.raises(KeyError):
        store.get_into(absent, bytearray(1))
    with pytest.raises(KeyError):
        store.get_range(absent, 0, bytearray(1))
    assert store.get_many_into([(absent, bytearray(1))]) == [False]
    assert absent not in store
    assert not store.contains(absent)
    assert store.delete(absent) is False


def test_sizes_must_fit(store):
    store.put(key_of(1), b"KKKK", b"VV")
    for k, v in ((5, 2), (3, 2), (4, 1), (4, 3), (6, 0), (3, 3)):
        into = bytearray(k), bytearray(v)
        with pytest.raises(cascade.SizeError):
            store.get_into(key_of(1), *into)
        assert into == (bytearray(k), bytearray(v))
    with pytest.raises(cascade.SizeError):
        store.get_into(key_of(1), bytearray(4))


def test_a_block_that_changes_its_size_meanwhile():
    """get asks for the size again, but not for ever."""
    info = ffi.new("cascade_info *")
    sizes = iter(range(1, 100))

    def read_size():
        info.k_bytes = next(sizes)
        return 0

    def read(into, fits):
        assert into.k.bytes == info.k_bytes
        return 0 if info.k_bytes == fits else _errors.ESIZE

    k, v = _store._get_new(read_size, lambda into: read(into, 3), info, str)
    assert (len(k), len(v)) == (3, 0)
    with pytest.raises(cascade.SizeError):
        _store._get_new(read_size, lambda into: read(into, 0), info, str)


def test_range(store):
    store.put(key_of(1), b"0123", b"4567")
    out = bytearray(4)
    store.get_range(key_of(1), 2, out)
    assert out == b"2345"
    store.get_range(key_of(1), 8, bytearray())
    for offset, size in ((5, 4), (9, 0), (2**64 - 1, 2)):
        with pytest.raises(cascade.SizeError):
            store.get_range(key_of(1), offset, bytearray(size))
    for offset in (-1, 2**64):
        with pytest.raises(cascade.InvalidArgumentError):
            store.get_range(key_of(1), offset, out)


def test_many(store):
    items = [(key_of(n), bytes([n]) * 10, bytes([n]) * n) for n in range(1, 20)]
    assert store.put_many(items, sync=True) == [id_of(k, v) for _, k, v in items]
    into = [(key, bytearray(len(k)), bytearray(len(v))) for key, k, v in items]
    into.insert(3, (key_of("absent"), bytearray(1)))
    assert store.get_many_into(into) == [True] * 3 + [False] + [True] * 16
    del into[3]
    assert into == items
    assert store.put_many([]) == [] and store.get_many_into([]) == []


def test_many_with_parents(store):
    store.put_many([(key_of(1), b"1"), (key_of(2), b"2", None, key_of(1)), (key_of(3), b"3", b"v", key_of(2))])
    assert [store.info(key_of(n)).parent for n in (1, 2, 3)] == [None, key_of(1), key_of(2)]


def test_one_failure_in_a_batch(store):
    with pytest.raises(cascade.InvalidArgumentError) as caught:
        store.put_many([(key_of(1), b"1"), (key_of(2), b"2", None, key_of(2)), (key_of(3), b"3")])
    assert caught.value.statuses == (0, caught.value.code, 0)
    assert key_of(1) in store and key_of(3) in store and key_of(2) not in store
    with pytest.raises(cascade.SizeError) as caught:
        store.get_many_into([(key_of("absent"), bytearray(1)), (key_of(1), bytearray(2)), (key_of(3), bytearray(1))])
    assert caught.value.statuses == (1, caught.value.code, 0)


@pytest.mark.parametrize("item", [(), (key_of(1),), (key_of(1), b"", b"", None, None)])
def test_items_of_a_wrong_shape(store, item):
    with pytest.raises(cascade.InvalidArgumentError):
        store.put_many([item])
    with pytest.raises(cascade.InvalidArgumentError):
        store.get_many_into([item])


def test_prefixes(store):
    keys = [key_of(n) for n in range(10)]
    for key in keys[:7]:
        store.put(key, b"x")
    assert store.match_prefix(keys) == 7
    assert store.match_prefix(key.hex() for key in keys) == 7
    assert store.match_prefix(keys[8:]) == 0
    assert store.match_prefix([]) == 0
    store.release_prefix(keys)
    store.prefetch(keys)


def test_delete(store):
    store.put(key_of(1), b"x")
    assert store.delete(key_of(1)) is True
    assert key_of(1) not in store and store.match_prefix([key_of(1)]) == 0


def test_info(store):
    store.put(key_of(1), b"KKK", b"V", sync=True, tenant="someone")
    info = store.info(key_of(1))
    assert (info.k_bytes, info.v_bytes, info.references) == (3, 1, 1)
    assert info.id == id_of(b"KKK", b"V") and info.tenant == cascade.tenant_id("someone")
    assert info.in_dram or info.in_file


def test_keys(store):
    assert list(store.keys()) == []
    keys = {key_of(n) for n in range(100)}
    store.put_many([(key, b"x") for key in keys])
    found = list(store.keys())
    assert set(found) == keys and len(found) == 100 and all(type(key) is bytes for key in found)


def test_contents(store):
    name = store.put_content(b"K", b"V")
    assert name == id_of(b"K", b"V") == store.put_content(b"K", b"V", durable=True)
    assert store.get_content(name) == (b"K", b"V")
    assert store.get_content(name.upper()) == (b"K", b"V")
    assert store.content_info(name).id == name


def test_content_of_a_key(store):
    name = store.put(key_of(1), b"K", b"V", sync=True)
    assert store.get_content(name) == (b"K", b"V")


def test_contents_are_deleted(store):
    name = store.put_content(b"K")
    assert store.delete_content(name) is True
    assert store.delete_content(name) is False
    with pytest.raises(cascade.NotFoundError):
        store.get_content(name)
    with pytest.raises(KeyError):
        store.content_info(name)


def test_tenants_do_not_see_each_other(store):
    name = store.put_content(b"secret", tenant="one")
    with pytest.raises(cascade.NotFoundError):
        store.get_content(name, tenant="other")
    with pytest.raises(cascade.NotFoundError):
        store.get_content(name)
    assert store.get_content(name, tenant=cascade.tenant_id("one"))[0] == b"secret"


@pytest.mark.parametrize("name", ["", "00" * 15, "00" * 32, "zz" * 16])
def test_what_is_no_block_id(store, name):
    with pytest.raises(cascade.InvalidArgumentError):
        store.get_content(name)
    with pytest.raises(TypeError):
        store.get_content(name.encode())


@pytest.mark.parametrize("tenant", [-1, 2**64, "a\0b"])
def test_what_is_no_tenant(store, tenant):
    with pytest.raises(cascade.InvalidArgumentError):
        store.put(key_of(1), b"x", tenant=tenant)


def test_verify(store):
    store.put(key_of(1), b"K" * 100, sync=True)
    store.flush()
    report = store.verify()
    assert report.ok and set(report.blocks) == set(report.damaged) == {"dram", "file"}
    assert sum(report.blocks.values()) >= 1 and report.bytes >= 100


def test_scrub(tmp_path):
    with cascade.Store(tmp_path / "s", DRAM) as store:
        store.put(key_of(1), bytes(300_000), durable=True)
        report = store.scrub("1MiB", fix=True)
        assert report.ok and report.blocks == {"dram": 1, "file": 1} and report.bytes == 600_000
        with pytest.raises(ValueError):
            store.scrub("slowly")


def test_a_close_ends_a_slow_scrub(tmp_path):
    store = cascade.Store(tmp_path / "s", DRAM)
    store.put(key_of(1), bytes(300_000), durable=True)
    failure = []

    def scrub():
        try:
            store.scrub(1)  # would take days
        except cascade.CascadeError as error:
            failure.append(error)

    thread = threading.Thread(target=scrub)
    thread.start()
    time.sleep(0.3)
    store.close()
    thread.join()
    assert isinstance(failure[0], (cascade.TryAgainError, cascade.ClosedError))


def test_options_of_the_file_tier(tmp_path):
    options = {"io_deadline_ms": 2000, "refresh_ms": 10, "file_age_s": 1 << 40, "background_rate": "8MiB"}
    with cascade.Store(tmp_path / "s", DRAM, scrub_interval_s=1, **options) as store:
        store.put(key_of(1), b"k", durable=True)
        stats = store.stats()
        assert stats["file_encrypted"] == 0 and stats["compactions"] == 0
    for name in ("io_deadline_ms", "file_age_s"):
        with pytest.raises(cascade.InvalidArgumentError):
            cascade.Store(tmp_path / "s", DRAM, **{name: -1})
    with pytest.raises(cascade.InvalidArgumentError):
        cascade.Store(tmp_path / "s", DRAM, key_file="a" * 5000)


def test_stats(store):
    store.put_many([(key_of(n), bytes([n])) for n in range(5)])
    store.get(key_of(1))
    stats = store.stats()
    assert stats["keys"] == 5 and stats["puts"] == 5 and stats["lost"] == 0
    assert set(stats["tiers"]) == {"dram", "file"} and stats["tiers"]["dram"]["hits"] >= 1
    assert {"open", "create", "fsync"} <= set(stats["metadata_ops"])
    assert set(stats["latency"]) == {"put", "get_dram", "get_file", "view", "match", "delete", "flush"}
    put = stats["latency"]["put"]
    assert put["count"] >= 1 and 0 < put["p50_us"] <= put["p99_us"] and put["mean_us"] > 0
    assert "struct_bytes" not in stats


def test_too_big(store):
    with pytest.raises(cascade.TooBigError):
        store.put(key_of(1), bytes(40 << 20))
    assert key_of(1) not in store


def test_reopen(tmp_path):
    with cascade.Store(tmp_path / "s", DRAM) as store:
        store.put(key_of(1), b"K", b"V", parent=key_of(0))
        assert repr(store) == f"<cascade.Store '{tmp_path}/s' open>"
    assert store.closed and "closed" in repr(store)
    with cascade.Store(tmp_path / "s", create=False) as store:
        assert store.get(key_of(1)) == (b"K", b"V") and store.info(key_of(1)).parent == key_of(0)


def test_open_errors(tmp_path):
    with pytest.raises(cascade.NoStoreError):
        cascade.Store(tmp_path / "none", create=False)
    with cascade.Store(tmp_path / "s", DRAM):
        with pytest.raises(cascade.BusyError) as caught:
            cascade.Store(tmp_path / "s")
        assert str(os.getpid()) in caught.value.detail
    with pytest.raises(cascade.ExistsError):
        cascade.Store(tmp_path / "s", exclusive=True)


@pytest.mark.parametrize(
    "options",
    [
        {"dram": "lots"},
        {"dram": -1},
        {"policy": "clairvoyant"},
        {"policy": "lru\0"},
        {"rank": -1},
        {"lease_ms": 2**32},
        {"shm_directory": "/dev/\0shm"},
    ],
)
def test_bad_options(tmp_path, options):
    with pytest.raises(cascade.InvalidArgumentError):
        cascade.Store(tmp_path / "s", **options)
    # Nothing is left behind that would be in the way.
    cascade.Store(tmp_path / "s", DRAM).close()


def test_bad_paths():
    with pytest.raises(cascade.InvalidArgumentError):
        cascade.Store("a\0b")
    with pytest.raises(TypeError):
        cascade.Store(7)


def test_good_options(tmp_path):
    options = dict(file_budget="1GiB", policy="lru", hash_threads=1, lease_ms=500, put_wait_ms=1000)
    more = dict(watermark_low=80, watermark_high=90, prefault=False, page=65536, segment="16MiB")
    with cascade.Store(os.fsencode(tmp_path / "s"), 32 << 20, **options, **more) as store:
        assert store.path == str(tmp_path / "s")
        assert store.stats()["tiers"]["dram"]["capacity_bytes"] == 32 << 20


def test_closed(store):
    store.put(key_of(1), b"x")
    keys = store.keys()
    store.close()
    store.close()
    calls = [
        lambda: store.put(key_of(1), b"x"),
        lambda: store.put_many([]),
        lambda: store.get(key_of(1)),
        lambda: store.get_into(key_of(1), bytearray(1)),
        lambda: store.get_into(key_of(1), [bytearray(1)]),
        lambda: store.get_many_into([]),
        lambda: store.get_range(key_of(1), 0, bytearray(1)),
        lambda: store.view(key_of(1)),
        lambda: store.info(key_of(1)),
        lambda: key_of(1) in store,
        lambda: store.delete(key_of(1)),
        lambda: next(keys),
        lambda: store.match_prefix([key_of(1)]),
        lambda: store.release_prefix([key_of(1)]),
        lambda: store.prefetch([key_of(1)]),
        lambda: store.put_content(b"x"),
        lambda: store.get_content("00" * 16),
        lambda: store.content_info("00" * 16),
        lambda: store.delete_content("00" * 16),
        store.flush,
        store.verify,
        store.scrub,
        store.stats,
    ]
    for call in calls:
        with pytest.raises(cascade.ClosedError, match="closed"):
            call()


def test_a_forgotten_store_is_closed_with_a_warning(tmp_path):
    store = cascade.Store(tmp_path / "s", DRAM)
    store.put(key_of(1), b"x")
    with pytest.warns(ResourceWarning, match="unclosed"):
        del store
        gc.collect()
    with cascade.Store(tmp_path / "s") as store:
        assert key_of(1) in store


class AgainstADict(RuleBasedStateMachine):
    """A store answers as a dict would whose values stay as they were first put."""

    keys = st.integers(0, 5).map(key_of)

    def __init__(self):
        super().__init__()
        self.directory = tempfile.mkdtemp()
        self.store = cascade.Store(self.directory + "/s", DRAM)
        self.model = {}

    def teardown(self):
        self.store.close()
        shutil.rmtree(self.directory)

    @rule(key=keys, k=st.binary(min_size=1, max_size=200), v=st.binary(max_size=200), sync=st.booleans())
    def put(self, key, k, v, sync):
        self.store.put(key, k, v, sync=sync)
        self.model.setdefault(key, (k, v))

    @rule(key=keys)
    def delete(self, key):
        assert self.store.delete(key) == (self.model.pop(key, None) is not None)

    @rule(key=keys)
    def get(self, key):
        if key in self.model:
            assert self.store.get(key) == self.model[key]
            with self.store.view(key) as view:
                assert (b"".join(view.k), b"".join(view.v)) == self.model[key]
        else:
            with pytest.raises(cascade.NotFoundError):
                self.store.get(key)

    @rule(key=keys, data=st.data())
    def get_range(self, key, data):
        whole = b"".join(self.model.get(key, ()))
        offset = data.draw(st.integers(0, len(whole)))
        out = bytearray(data.draw(st.integers(0, len(whole) - offset)))
        if key in self.model:
            self.store.get_range(key, offset, out)
            assert out == whole[offset : offset + len(out)]

    @rule()
    def reopen(self):
        self.store.close()
        self.store = cascade.Store(self.directory + "/s", create=False)

    @rule()
    def flush(self):
        self.store.flush()

    @invariant()
    def same_keys(self):
        assert set(self.store.keys()) == set(self.model)


AgainstADict.TestCase.settings = settings(max_examples=15, stateful_step_count=25)
TestAgainstADict = AgainstADict.TestCase
