"""Who may look at the inspector: keys, links, tokens, their ends and their bounds."""

from __future__ import annotations

import pytest

from socketio_eventstore.program.inspector import logins
from socketio_eventstore.program.inspector.logins import Failures, Logins
from socketio_eventstore.program.keys import ApiKeys, hash_of, new_key


class Clock:
    """A clock that a test moves."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


KEY = new_key()
KEYS = {"ann": [hash_of(KEY)]}


def test_login_with_a_key(clock: Clock) -> None:
    """A key opens a login, which ends with its time or by a logout."""
    present = Logins(ApiKeys(KEYS), clock)
    assert present.with_key(KEY + "x") is None and present.with_key("") is None
    token, other = present.with_key(KEY), present.with_key(KEY)
    assert token and other and token != other and KEY not in token
    assert present.name_of(token) == "ann" and present.name_of("") is None
    present.end(token)
    assert present.name_of(token) is None and present.name_of(other) == "ann"
    clock.now = logins.LOGIN_SECONDS
    assert present.name_of(other) is None


def test_names_of_cookies() -> None:
    """Servers of one host have cookies of their own: cookies do not know ports."""
    assert Logins(ApiKeys(KEYS)).cookie != Logins(ApiKeys(KEYS)).cookie


@pytest.mark.parametrize("key", [KEY, None], ids=["a key", "the socket"])
def test_link_works_once(clock: Clock, key: str | None) -> None:
    """A link becomes one login, and only for a short time."""
    present = Logins(ApiKeys(KEYS), clock)
    link = present.new_link("ann", key)
    assert present.name_of(link) is None
    token = present.with_link(link)
    assert token and token != link and present.name_of(token) == "ann"
    assert present.with_link(link) is None
    late = present.new_link("ann", key)
    clock.now = logins.LINK_SECONDS
    assert present.with_link(late) is None


def test_login_ends_with_its_key(clock: Clock) -> None:
    """A key that was taken out of the configuration ends its logins and links; the owner's need any key."""
    keys = ApiKeys(KEYS)
    present = Logins(keys, clock)
    token, link = present.with_key(KEY) or "", present.new_link("ann", KEY)
    own, own_link = present.with_link(present.new_link("owner", None)) or "", present.new_link("owner", None)
    keys.replace({"ann": [hash_of(new_key())]})
    assert present and present.name_of(token) is None and present.with_link(link) is None
    assert present.name_of(own) == "owner"
    keys.replace({})
    assert not present and present.name_of(own) is None and present.with_link(own_link) is None


def test_bounds(clock: Clock) -> None:
    """Beyond the limits the oldest logins and links end."""
    present = Logins(ApiKeys(KEYS), clock)
    tokens = [present.with_key(KEY) or "" for _ in range(logins.MAX_LOGINS + 1)]
    assert [present.name_of(token) for token in tokens[:2]] == [None, "ann"]
    links = [present.new_link("ann", KEY) for _ in range(logins.MAX_LINKS + 1)]
    assert present.with_link(links[0]) is None and present.with_link(links[1]) is not None


def test_wrong_keys_of_an_address(clock: Clock) -> None:
    """After some wrong keys an address waits, and others do not; the memory for addresses is bounded."""
    failures = Failures(clock)
    for count in range(logins.MAX_FAILURES):
        assert failures.wait_seconds("a") == 0.0, count
        failures.failed("a")
    clock.now = 1.0
    assert failures.wait_seconds("a") == logins.FAILURE_SECONDS - 1.0 and failures.wait_seconds("b") == 0.0
    clock.now = logins.FAILURE_SECONDS
    assert failures.wait_seconds("a") == 0.0
    failures.failed("a")
    assert failures.wait_seconds("a") == 0.0
    for number in range(2 * logins.MAX_ADDRESSES):
        failures.failed(str(number))
    assert len(failures._counts) == logins.MAX_ADDRESSES
