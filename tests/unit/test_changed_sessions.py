"""What a node knows of the changes that a database may lose."""

from __future__ import annotations

import pytest

from socketio_eventlog import changed_sessions
from socketio_eventlog.changed_sessions import ChangedSessions, LostChanges, Shared
from socketio_eventlog.changes import Batch, Change, Committed
from socketio_eventlog.session_changes import (
    DataSaved,
    IdentityRevoked,
    RoomClosed,
    RoomLeft,
    SessionAway,
    SessionBound,
    SessionClaimed,
    SessionEnd,
    SessionEnded,
    SessionResumed,
    TokenAccepted,
)
from support.storing import event, joined

BEGIN = (1, b"1")
"""The batch with which each life begins."""


def known(*epochs: tuple[str, int]) -> ChangedSessions:
    return ChangedSessions(epochs or [("e1", 1)], BEGIN)


def note(life: ChangedSessions, number: int, *changes: Change, uptime: float = 0.0) -> None:
    life.given_out((number, str(number).encode()), uptime)
    life.note(Batch(number, "a", None, uptime, [Committed(change, 1) for change in changes]))


def saved(sid: str) -> Change:
    return DataSaved("/", sid, "{}")


def lost(
    former: ChangedSessions,
    newest: int | None,
    life: ChangedSessions | None = None,
    *,
    lacks_last: bool = True,
) -> LostChanges | None:
    """What is lost, if the database shares the batches up to a number."""
    life = life or known()
    life.follow_on(former, Shared(lacks_last, newest))
    return life.lost


def sids(changes: LostChanges | None) -> set[str]:
    return set() if changes is None else {sid for _, sid in changes.sessions}


def test_only_what_a_client_relies_on_counts() -> None:
    """Events move offsets, and claims and absences change nothing that a client relies on."""
    former = known()
    note(former, 5, event(), SessionClaimed("/", "s1"), SessionAway("/", "s1", 1, 1.0, 1))
    deferred = (DataSaved("/", "s3", "{}"),)
    note(former, 6, SessionResumed("/", "s2", 1, 1.0), SessionResumed("/", "s3", 1, 1.0, deferred))
    note(former, 7, IdentityRevoked("ann"), RoomClosed("/", 7))
    changes = lost(former, 1)
    assert changes is not None
    assert changes.sessions == frozenset({("/", "s3")})
    assert changes.identities == frozenset({"ann"})
    assert changes.rooms == frozenset({("/", 7)})
    assert changes.epochs == frozenset({"e1"})


@pytest.mark.parametrize(
    "change",
    [
        saved("s1"),
        joined("a"),
        RoomLeft("/", "s1", "a", 1),
        SessionBound("/", "s1", "ann"),
        SessionEnded("/", "s1", SessionEnd.REVOKED),
        TokenAccepted("/", "s1", None, ()),
    ],
)
def test_each_change_of_a_session_counts(change: Change) -> None:
    former = known()
    note(former, 5, change)
    assert sids(lost(former, 1)) == {"s1"}


def test_changes_of_former_lives_may_be_lost_later() -> None:
    """A life knows the changes of the former one, but for those that are lost already."""
    first, second = known(), known()
    note(first, 5, saved("s1"))
    note(first, 8, saved("s2"))
    assert sids(lost(first, 7, second)) == {"s2"}
    note(second, 9, saved("s3"))
    assert sids(lost(second, 9)) == set()
    assert sids(lost(second, 4)) == {"s1", "s3"}


@pytest.mark.parametrize(
    ("lacks_last", "newest", "began_in", "sessions"),
    [
        (False, 7, None, set()),  # all is there
        (True, 5, None, {"s6"}),  # another batch has the number of the last one; no epoch has begun yet
        (True, 5, 9, {"s6"}),  # ... or only later
        (True, None, 9, {"s5", "s6"}),  # nothing is common: the life began after the dump
        (False, None, None, set()),  # all was pruned while the node was frozen
        (False, 5, None, set()),  # ... or a part, since the clock of the rows jumped
        (False, None, 8, set()),  # ... and an epoch has begun later
        (False, None, 7, {"s5", "s6"}),  # ... or before the last batch, so that one was another one
    ],
)
def test_the_last_common_batch_parts_the_histories(
    *, lacks_last: bool, newest: int | None, began_in: int | None, sessions: set[str]
) -> None:
    """Batches that the database certainly lacks are lost; pruned ones are not."""
    former = known()
    note(former, 5, saved("s5"))
    note(former, 6, saved("s6"))
    note(former, 7)
    life = known(("e1", 1)) if began_in is None else known(("e1", 1), ("e2", began_in))
    assert sids(lost(former, newest, life, lacks_last=lacks_last)) == sessions


def test_batches_without_changes_are_known_in_part() -> None:
    """The last batch is known, those with changes, and one of each ten seconds, also of a former life."""
    former, second = known(), known()
    for number in range(2, 50):
        note(former, number, *[saved("s1")] * (number == 34), uptime=2.0 * number)
    samples = range(5, 50, 5)
    assert sorted(batch for batch, _ in former.batches_from(2)) == sorted([*samples, 34, 49])
    former.epoch_begun("e2", 40)
    assert former.epochs == ["e1", "e2"]
    second.follow_on(former, Shared(lacks_last=True, newest=30))
    assert sorted(batch for batch, _ in second.batches_from(2)) == [5, 10, 15, 20, 25, 30]


def test_the_oldest_changes_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    """The number of the known sessions is bounded."""
    monkeypatch.setattr(changed_sessions, "MAX_CHANGED", 2)
    former = known()
    for number, sid in enumerate(("s1", "s2", "s1", "s3"), 2):
        note(former, number, saved(sid))
    assert sids(lost(former, 1)) == {"s1", "s3"}


def test_as_many_sessions_are_known_as_promised() -> None:
    """Of more changed sessions than the bound, the newest are known."""
    former = known()
    count = changed_sessions.MAX_CHANGED + 1000
    note(former, 2, *map(saved, map(str, range(count))))
    assert sids(lost(former, 1)) == set(map(str, range(1000, count)))
