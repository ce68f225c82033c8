"""API keys: their form, their hashes, and the check of a presented key."""

from __future__ import annotations

import hashlib

import pytest

from socketio_eventstore.program.keys import PREFIX, ApiKeys, hash_of, is_hash, is_name, new_key


def test_new_key() -> None:
    """A key has a prefix that people recognise, and 32 random bytes."""
    key = new_key()
    assert key.startswith(PREFIX) and len(key) == len(PREFIX) + 43
    assert key != new_key()
    assert hash_of(key) == f"sha256:{hashlib.sha256(key.encode()).hexdigest()}" and is_hash(hash_of(key))


def test_name_of_a_key() -> None:
    """A valid key has the name under which the config file has its hash; any other text has none."""
    first, second, other = new_key(), new_key(), new_key()
    keys = ApiKeys({"ci": [hash_of(first), hash_of(second)], "ops": [hash_of(other)]})
    assert [keys.name_of(key) for key in (first, second, other)] == ["ci", "ci", "ops"]
    for wrong in ("", new_key(), first[:-1], first + "x", hash_of(first), "\udc80", "x" * 10_000):
        assert keys.name_of(wrong) is None


def test_replaced_keys() -> None:
    """After a reload the former keys are not valid any more."""
    former, present = new_key(), new_key()
    keys = ApiKeys({})
    assert not keys and keys.name_of(former) is None
    keys.replace({"ci": [hash_of(former)]})
    assert keys and keys.name_of(former) == "ci"
    keys.replace({"ci": [hash_of(present)]})
    assert keys.name_of(former) is None and keys.name_of(present) == "ci"


@pytest.mark.parametrize("text", ["", "a b", "a.b", "é", "x" * 65, 7, None])
def test_invalid_name(text: object) -> None:
    assert not is_name(text)


@pytest.mark.parametrize("text", ["", "sha256:", "sha256:" + "0" * 63, "sha256:" + "A" * 64, "sioes_key", 7])
def test_invalid_hash(text: object) -> None:
    assert not is_hash(text)
