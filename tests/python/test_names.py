# SPDX-License-Identifier: MIT
"""Keys, ids, namespaces, tenants, sizes."""

import copy
import dataclasses
import hashlib
import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

import cascade
from cascade import _names

TEXT = st.text(st.characters(blacklist_categories=("Cs",), blacklist_characters="\0"), max_size=40)
NUMBER = st.integers(0, 2**32 - 1)
NAMESPACES = st.builds(
    cascade.Namespace,
    **{
        field.name: TEXT if isinstance(field.default, str) else NUMBER
        for field in dataclasses.fields(cascade.Namespace)
    },
)


@given(st.binary(min_size=32, max_size=32))
def test_a_key_in_every_form(raw):
    forms = [raw, raw.hex(), raw.hex().upper(), bytearray(raw), memoryview(raw)]
    assert [_names.as_key(form) for form in forms] == [raw] * len(forms)
    assert _names.as_keys(forms) == (raw * len(forms), len(forms))


@pytest.mark.parametrize("key", [b"", b"k" * 31, b"k" * 33, "00" * 31, "00" * 33, "0g" * 32, "00 " * 21 + "0", "00 " * 32, "\u0660" * 64])
def test_what_is_no_key(key):
    with pytest.raises(cascade.InvalidArgumentError):
        _names.as_key(key)


@pytest.mark.parametrize("key", [32, None, 1.5, ["00"] * 32])
def test_what_is_not_even_like_a_key(key):
    with pytest.raises(TypeError):
        _names.as_key(key)


@pytest.mark.parametrize("keys", [b"k" * 32, "00" * 32, bytearray(32)])
def test_one_key_is_no_list_of_keys(keys):
    with pytest.raises(TypeError):
        _names.as_keys(keys)


def test_keys_whose_lengths_add_up_are_still_wrong():
    with pytest.raises(cascade.InvalidArgumentError):
        _names.as_keys([b"k" * 31, b"k" * 33])


@given(NAMESPACES, st.binary(min_size=1, max_size=100))
def test_a_namespace_key_is_the_digest_of_encoding_and_raw(namespace, raw):
    assert namespace.key(raw) == hashlib.sha256(namespace.encode() + raw).digest()
    assert namespace.key(bytearray(raw)) == namespace.key(raw)


@given(NAMESPACES, NAMESPACES)
def test_namespaces_that_differ_encode_differently(one, other):
    assert (one == other) == (one.encode() == other.encode())


@pytest.mark.parametrize("field", dataclasses.fields(cascade.Namespace), ids=lambda field: field.name)
def test_every_field_counts(field):
    value = "x" if isinstance(field.default, str) else 1
    other = cascade.Namespace(**{field.name: value})
    assert other.encode() != cascade.Namespace().encode()
    assert other.key(b"raw") != cascade.Namespace().key(b"raw")


def test_a_namespace_is_a_value():
    one = cascade.Namespace(model="llama", layer_count=80)
    assert dataclasses.replace(one, model="other").model == "other"
    assert dataclasses.asdict(one)["layer_count"] == 80
    for other in (pickle.loads(pickle.dumps(one)), copy.deepcopy(one), copy.copy(one)):
        assert other == one and hash(other) == hash(one) and other.key(b"x") == one.key(b"x")
    with pytest.raises(dataclasses.FrozenInstanceError):
        one.model = "other"


@pytest.mark.parametrize("bad", [{"model": "a\0b"}, {"tenant": "x" * 4097}, {"layer_count": -1}, {"layer_count": 2**32}])
def test_what_no_namespace_holds(bad):
    with pytest.raises(cascade.InvalidArgumentError):
        cascade.Namespace(**bad)


@pytest.mark.parametrize("bad", [{"model": 7}, {"model": None}, {"layer_count": "7"}, {"layer_count": 1.5}])
def test_types_of_a_namespace(bad):
    with pytest.raises(TypeError):
        cascade.Namespace(**bad)


@pytest.mark.parametrize("raw", [b"", b"x" * 4097])
def test_raw_keys_out_of_range(raw):
    with pytest.raises(cascade.InvalidArgumentError):
        cascade.Namespace().key(raw)


@given(TEXT.filter(bool))
def test_tenants(name):
    digest = hashlib.sha256(b"cascade tenant\0" + name.encode()).digest()
    assert cascade.tenant_id(name) == (int.from_bytes(digest[:8], "little") or 1)
    assert cascade.Namespace(tenant=name).tenant_id == cascade.tenant_id(name)


def test_default_tenant():
    assert cascade.tenant_id("") == cascade.Namespace().tenant_id == 0


@pytest.mark.parametrize(
    "text, value",
    [("0", 0), ("17", 17), ("4GiB", 4 << 30), ("512M", 512 << 20), ("1.5g", 3 << 29), ("64k", 65536), ("2TB", 2 << 40)],
)
def test_sizes(text, value):
    assert cascade.parse_size(text) == value


def test_sizes_as_numbers():
    assert cascade.parse_size(4096) == 4096


@pytest.mark.parametrize("text", ["", "x", "-1", "4 apples", "1e99", "4GiBs", "4\0", "99999999P", -1, 2**63])
def test_what_is_no_size(text):
    with pytest.raises(cascade.InvalidArgumentError):
        cascade.parse_size(text)


def test_an_error_carries_name_text_and_detail():
    with pytest.raises(cascade.InvalidArgumentError) as caught:
        cascade.parse_size("4 apples")
    error = caught.value
    assert error.name == "CASCADE_EINVAL" and error.code < 0 and error.text
    assert "apples" in error.detail
