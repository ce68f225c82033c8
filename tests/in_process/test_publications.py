"""The idempotency keys of publishers in the log."""

from __future__ import annotations

import pytest

from socketio_eventlog.changes import EventHandled, Published
from socketio_eventlog.errors import ConditionFailed
from socketio_eventlog.events import Offset, Publication
from support.log_engines import Store
from support.storing import commit, event

DIGEST = b"d" * 32


def published(key: str = "key", events: int = 1, publisher: str = "ci") -> Published:
    return Published(publisher, key, DIGEST, events)


async def test_offsets_of_a_publication(store: Store) -> None:
    """The log keeps the offsets of the events before the key, also for another life of the process."""
    async with store.open(new_epoch=lambda: "first") as log:
        await commit(log, [event(), event(), event(), published(events=2), event(), published("other")])
        assert await log.publication("ci", "key") == Publication(DIGEST, Offset("first", 3), 2)
        assert await log.publication("ci", "none") is None
        assert await log.publication("ops", "key") is None
    async with store.open(new_epoch=lambda: "second") as log:
        await commit(log, [event(), published("third")])
        for key, offsets in (
            ("key", ("first.2", "first.3")),
            ("other", ("first.4",)),
            ("third", ("second.5",)),
        ):
            found = await log.publication("ci", key)
            assert found is not None and found.offsets == offsets


async def test_a_key_is_stored_once(store: Store) -> None:
    """Of a second publication under a key, nothing is stored; other publishers have keys of their own."""
    async with store.open() as log:
        await commit(log, [event(), published()])
        with pytest.raises(ConditionFailed):
            await log.append([event(), published()])
        assert log.head == 1
        await commit(log, [event(), published(publisher="ops")])


async def test_old_keys_are_deleted(store: Store) -> None:
    """Keys of publishers are deleted with those of clients, in steps, by the uptime."""
    clock = store.clock
    async with store.open() as log:
        await commit(log, [event(), *(published(f"old {number}") for number in range(3))])
        await commit(log, [EventHandled("/", "buy", "ann", "old", "[1]")])
        clock.now = 4.0  # as much as a step of the uptime can be
        await commit(log, [event(), published("new")])
        assert [await log.prune_idempotency_keys(3.0, 2) for _ in range(3)] == [2, 1, 0]
        assert await log.publication("ci", "old 2") is None
        assert await log.acknowledgement("/", "buy", "ann", "old") is None
        assert await log.publication("ci", "new") is not None
