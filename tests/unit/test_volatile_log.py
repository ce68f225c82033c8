from __future__ import annotations

import pytest

from socketio_eventlog.changes import Pruned
from socketio_eventlog.errors import OffsetUnknown
from socketio_eventlog.events import Missed, Offset
from socketio_eventlog.log import Log
from socketio_eventlog.volatile import VolatileLog
from support.storing import BEAT, always, commit, event, session


async def test_a_commit_counts_events_only() -> None:
    """A commit returns the head after each change, and only an event moves the head."""
    log: Log = VolatileLog()
    assert await commit(log, [session(), event(), session("s2"), event()]) == [0, 1, 1, 2]
    assert await commit(log, [event()]) == [3]
    assert (log.head, log.offset_at(3), log.offset_of(3)) == (3, Offset("volatile", 3), Offset("volatile", 3))


async def test_nothing_is_stored() -> None:
    """Every query answers as for an empty database, and no offset is accepted."""
    log: Log = VolatileLog()
    await commit(log, [session(), event(rooms=("a",))])
    assert not log.is_durable
    assert (log.head, log.pruned_through) == (1, 0)
    assert (await log.join()).sessions == ()
    assert await log.counts() == (0, 0)
    assert await log.missed("/", always("a"), 0, 1) == log.missed_in_memory("/", always("a"), 0, 1)
    assert log.missed_in_memory("/", always("a"), 0, 1, at_most=1) == Missed((), 0)
    assert await log.read([1]) == []
    assert await log.acknowledgement("/", "message", "", "key") is None
    assert not log.precedes_epoch("volatile", "volatile")
    with pytest.raises(OffsetUnknown):
        log.locate("volatile.1")


async def test_maintenance_does_nothing() -> None:
    """Pruning and the heartbeat have nothing to do, and a log can be closed twice."""
    log: Log = VolatileLog()
    assert await commit(log, [event(), BEAT, Pruned(1)]) == [1, 1, 1]
    assert log.pruned_through == 0
    assert await log.prune_idempotency_keys(2_000.0) == 0
    await log.close()
    await log.close()
