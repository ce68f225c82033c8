"""The sessions of recent changes of the log, for a database that loses some of the changes. No I/O.

A lost event shows by the offsets of clients. A lost join or revocation moves no offset: only a node that had
applied the change can tell. A batch has a number and a chain, and no batch of another history has both. By
these a node finds the lost batches.
"""

from __future__ import annotations

import math
from collections import OrderedDict, deque
from collections.abc import Iterable, Iterator
from itertools import takewhile
from typing import Final, Generic, NamedTuple, TypeAlias, TypeVar

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
MAX_SAMPLES: Final = 10_000
SAMPLE_SECONDS: Final = 10.0
"""How often a batch without changes is known, too: a dump has the batches of its last minute."""
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
Known: TypeAlias = tuple[int, bytes]
"""The number and the chain of a batch."""


class Shared(NamedTuple):
    """What the history of a database shares with the history that a former life of the process knows."""

    lacks_last: bool
    """Whether the database certainly lacks the last batch of the former life, and has not pruned it."""
    newest: int | None
    """The newest batch that both have; None for none."""


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
    """By key the last batch with a change, in the order of the batches.

    Readers begin at the end: a pass through all keys would block the event loop for a tenth of a second.
    """

    def __init__(self) -> None:
        # Not a dict: the search of the first key passes all deleted keys before.
        self.batches: OrderedDict[_Key, Known] = OrderedDict()

    def note(self, key: _Key, batch: Known) -> None:
        self.batches.pop(key, None)
        self.batches[key] = batch
        while len(self.batches) > MAX_CHANGED:
            self.batches.popitem(last=False)

    def batches_from(self, number: int) -> Iterator[Known]:
        """Iterate over the batches from a number on, newest first."""
        return takewhile(lambda batch: batch[0] >= number, reversed(self.batches.values()))

    def since(self, number: float) -> frozenset[_Key]:
        """Return the keys with a change in a batch or a later batch."""
        newest_first = reversed(self.batches.items())
        return frozenset(key for key, _ in takewhile(lambda item: item[1][0] >= number, newest_first))

    def put_before(self, former: _LastChanges[_Key], number: float) -> None:
        """Add the changes of a former life, which is over, from before a batch; infinity for all changes."""
        mine, before = self.batches, former.batches
        if number < math.inf:
            before = OrderedDict(item for item in before.items() if item[1][0] < number)
        self.batches = before
        for key, batch in mine.items():
            self.note(key, batch)


class ChangedSessions:
    """The changes of sessions, own and of other nodes, as known to a life of a node."""

    def __init__(self, epochs: Iterable[tuple[str, int]], seen: Known, uptime: float = 0.0) -> None:
        """``epochs``: all epochs of the database at the beginning, in order, each with its first batch.

        ``seen``: the last batch at the beginning, with its uptime.
        """
        self._epochs = dict(epochs)
        self.seen = seen
        """The last batch that was given out."""
        self.lost: LostChanges | None = None
        """What the database has lost of the former life of the process."""
        self._samples = deque([seen], MAX_SAMPLES)
        self._sampled_at = uptime
        self._sessions = _LastChanges[tuple[str, str]]()
        self._identities = _LastChanges[str]()
        self._rooms = _LastChanges[tuple[str, Room]]()

    @property
    def epochs(self) -> list[str]:
        """The known epochs, in order."""
        return list(self._epochs)

    def batches_from(self, number: int) -> list[Known]:
        """Return the known batches from a number on: those with changes, and some of the others."""
        known = {batch for batch in (self.seen, *self._samples) if batch[0] >= number}
        known.update(*(one.batches_from(number) for one in (self._sessions, self._identities, self._rooms)))
        return list(known)

    def epoch_begun(self, epoch: str, batch: int) -> None:
        """Take note of a new epoch and the epoch's first batch."""
        self._epochs[epoch] = batch

    def given_out(self, seen: Known, uptime: float) -> None:
        """Take note of the next batch."""
        self.seen = seen
        if uptime >= self._sampled_at + SAMPLE_SECONDS:
            self._samples.append(seen)
            self._sampled_at = uptime

    def note(self, batch: Batch) -> None:
        """Take note of the changes in the batch that was given out last."""
        for committed in batch.changes:
            if type(committed.change) in KINDS:
                self._note(committed)

    def _note(self, committed: Committed) -> None:
        change = committed.change
        if isinstance(change, IdentityRevoked):
            self._identities.note(change.identity, self.seen)
        elif isinstance(change, RoomClosed):
            self._rooms.note((change.namespace, change.room), self.seen)
        elif isinstance(change, _OF_SESSIONS) and committed.took_effect:
            if isinstance(change, SessionResumed) and not change.deferred:
                return
            self._sessions.note((change.namespace, change.sid), self.seen)

    def follow_on(self, former: ChangedSessions, shared: Shared) -> None:
        """Go on where a former life of this process ended, and find out what the database has lost of it."""
        first = self._first_lost(former, shared)
        self._sessions.put_before(former._sessions, first)
        self._identities.put_before(former._identities, first)
        self._rooms.put_before(former._rooms, first)
        samples = [batch for batch in (*former._samples, former.seen) if batch[0] < first]
        self._samples = deque([*samples, *self._samples], MAX_SAMPLES)
        lost = LostChanges(
            former._sessions.since(first),
            former._identities.since(first),
            former._rooms.since(first),
            frozenset(former._epochs),
        )
        self.lost = lost if lost.sessions or lost.identities or lost.rooms else None

    def _first_lost(self, former: ChangedSessions, shared: Shared) -> float:
        """Return a number from which on the database has lost all known batches of a former life.

        It certainly lacks the last batch; or it had an epoch that the former life has not seen before that
        batch. Only from a common batch on can be known where the histories part; without one, all is lost.
        """
        last, _ = former.seen
        unseen = [batch for epoch, batch in self._epochs.items() if epoch not in former._epochs]
        if shared.newest == last or not (shared.lacks_last or last >= min(unseen, default=math.inf)):
            return math.inf
        return 0 if shared.newest is None else shared.newest + 1
