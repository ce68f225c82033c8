"""What a node knows of the changes that a database may lose."""

from __future__ import annotations

import pytest

from socketio_eventlog import changed_sessions
from socketio_eventlog.changed_sessions import ChangedSessions
from socketio_eventlog.changes import Batch, Change, Committed
from socketio_eventlog.session_changes import (
    DataSaved,
    IdentityRevoked,
    RoomClosed,
    SessionAway,
    SessionClaimed,
    SessionResumed,
)
from support.storing import event, joined


def batch(number: int, *changes: Change) -> Batch:
    return Batch(number, "a", None, 0.0, [Committed(change, 1) for change in changes])


def sids(known: ChangedSessions, former: ChangedSessions) -> set[str]:
    lost = known.follow_on(former)
    return set() if lost is None else {sid for _, sid in lost.sessions}


def test_only_what_a_client_relies_on_counts() -> None:
    """Events move offsets, and claims and absences change nothing that a client relies on."""
    former = ChangedSessions([("e1", 1)])
    deferred = (DataSaved("/", "s3", "{}"),)
    former.note(batch(5, event(), SessionClaimed("/", "s1"), SessionAway("/", "s1", 1, 1.0, 1)))
    former.note(batch(6, SessionResumed("/", "s2", 1, 1.0, ()), SessionResumed("/", "s3", 1, 1.0, deferred)))
    former.note(batch(7, IdentityRevoked("ann"), RoomClosed("/", 7)))
    lost = ChangedSessions([("e1", 1), ("e2", 5)]).follow_on(former)
    assert lost is not None
    assert lost.sessions == frozenset({("/", "s3")})
    assert lost.identities == frozenset({"ann"})
    assert lost.rooms == frozenset({("/", 7)})


def test_changes_of_former_lives_may_be_lost_later() -> None:
    """A life knows the changes of the former one, but for those that are lost already."""
    first = ChangedSessions([("e1", 1)])
    first.note(batch(5, joined("a")))
    first.note(batch(8, DataSaved("/", "s2", "{}")))
    second = ChangedSessions([("e1", 1), ("e2", 8)])
    assert sids(second, first) == {"s2"}
    second.note(batch(9, DataSaved("/", "s3", "{}")))
    second.epoch_begun("e3", 10)
    assert sids(ChangedSessions([("e1", 1), ("e2", 8), ("e3", 10)]), second) == set()
    assert sids(ChangedSessions([("e1", 1), ("e4", 4)]), second) == {"s1", "s3"}


def test_the_oldest_changes_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    """The number of the known sessions is bounded."""
    monkeypatch.setattr(changed_sessions, "MAX_CHANGED", 2)
    former = ChangedSessions([("e1", 1)])
    for number, sid in enumerate(("s1", "s2", "s1", "s3"), 2):
        former.note(batch(number, DataSaved("/", sid, "{}")))
    assert sids(ChangedSessions([("e1", 1), ("e2", 2)]), former) == {"s1", "s3"}


def test_as_many_sessions_are_known_as_promised() -> None:
    """Of more changed sessions than the bound, the newest are known."""
    former = ChangedSessions([("e1", 1)])
    count = changed_sessions.MAX_CHANGED + 1000
    former.note(batch(2, *[DataSaved("/", str(number), "{}") for number in range(count)]))
    lost = ChangedSessions([("e1", 1), ("e2", 2)]).follow_on(former)
    assert lost is not None
    assert lost.sessions == {("/", str(number)) for number in range(1000, count)}
