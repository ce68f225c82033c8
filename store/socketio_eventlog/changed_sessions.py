"""The sessions of recent changes of the log, for a database that loses some of the changes. No I/O.

A lost event shows by the offsets of clients. A lost join or revocation moves no offset: only a node that had
applied the change can tell.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Iterable
from typing import Final, Generic, NamedTuple, TypeVar

from socketio_eventlog.changes import Batch, Committed
from socketio_eventlog.events import Room
from socketio_eventlog.session_changes import (
    DataSaved,
    IdentityRevoked,
    RoomClosed,
    RoomJoined,
    RoomLeft,
    SessionBound,
    SessionEnded,
    SessionResumed,
    TokenAccepted,
)

MAX_CHANGED: Final = 100_000
"""The most known sessions, identities and closed rooms; the oldest changes are forgotten first."""
_OF_SESSIONS: Final = (
    DataSaved,
    RoomJoined,
    RoomLeft,
    SessionBound,
    SessionEnded,
    SessionResumed,
    TokenAccepted,
)
KINDS: Final = frozenset({*_OF_SESSIONS, IdentityRevoked, RoomClosed})
"""The changes without an offset that a client relies on; without claims and absences."""

_Key = TypeVar("_Key")


class LostChanges(NamedTuple):
    """The lost changes of a database."""

    sessions: frozenset[tuple[str, str]]
    """Namespace and sid of the changed sessions."""
    identities: frozenset[str]
    """The revoked identities."""
    rooms: frozenset[tuple[str, Room]]
    """The closed rooms, with namespaces."""
    epochs: frozenset[str]
    """The epochs in which the sessions began. A session of a later epoch had none of the changes."""


class _LastChanges(Generic[_Key]):
    """By key the number of the last batch with a change, the oldest change first."""

    def __init__(self) -> None:
        # Not a dict: the search of the first key passes all deleted keys before.
        self._batches: OrderedDict[_Key, int] = OrderedDict()

    def note(self, key: _Key, batch: int) -> None:
        self._batches.pop(key, None)
        self._batches[key] = batch
        while len(self._batches) > MAX_CHANGED:
            self._batches.popitem(last=False)

    def since(self, batch: float) -> frozenset[_Key]:
        """Return the keys with a change in a batch or a later batch."""
        return frozenset(key for key, number in self._batches.items() if number >= batch)

    def put_before(self, former: _LastChanges[_Key], batch: float) -> None:
        """Add the changes of a former life from before a batch."""
        mine = self._batches
        kept = [(key, number) for key, number in former._batches.items() if number < batch]
        self._batches = OrderedDict(kept)
        for key, number in mine.items():
            self.note(key, number)


class ChangedSessions:
    """The changes of sessions, own and of other nodes, as known to a life of a node."""

    def __init__(self, epochs: Iterable[tuple[str, int]]) -> None:
        """``epochs``: all epochs of the database at the beginning, in order, with first batches."""
        self._epochs = dict(epochs)
        self._sessions = _LastChanges[tuple[str, str]]()
        self._identities = _LastChanges[str]()
        self._rooms = _LastChanges[tuple[str, Room]]()

    def epoch_begun(self, epoch: str, batch: int) -> None:
        """Take note of a new epoch and the epoch's first batch."""
        self._epochs[epoch] = batch

    def note(self, batch: Batch) -> None:
        """Take note of the changes in the next batch."""
        for committed in batch.changes:
            if type(committed.change) in KINDS:
                self._note(committed, batch.number)

    def _note(self, committed: Committed, batch: int) -> None:
        change = committed.change
        if isinstance(change, IdentityRevoked):
            self._identities.note(change.identity, batch)
        elif isinstance(change, RoomClosed):
            self._rooms.note((change.namespace, change.room), batch)
        elif isinstance(change, _OF_SESSIONS) and committed.took_effect:
            if isinstance(change, SessionResumed) and not change.deferred:
                return
            self._sessions.note((change.namespace, change.sid), batch)

    def follow_on(self, former: ChangedSessions) -> LostChanges | None:
        """Go on where a former life of this process ended; return the lost changes of that life.

        A history without some batches of the former life goes on with an epoch unknown to the former life.
        """
        unseen = [batch for epoch, batch in self._epochs.items() if epoch not in former._epochs]
        first = unseen[0] if unseen else math.inf
        self._sessions.put_before(former._sessions, first)
        self._identities.put_before(former._identities, first)
        self._rooms.put_before(former._rooms, first)
        lost = LostChanges(
            former._sessions.since(first),
            former._identities.since(first),
            former._rooms.since(first),
            frozenset(former._epochs),
        )
        return lost if lost.sessions or lost.identities or lost.rooms else None
