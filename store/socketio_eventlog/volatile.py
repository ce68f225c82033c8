"""A log without storage, for a server without recovery."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from socketio_eventlog.batch_stream import BatchStream
from socketio_eventlog.changes import Batch, Change, Committed, NodeDied, NodeJoined
from socketio_eventlog.errors import NothingChanged, OffsetUnknown, StoreClosed, StoreRejected
from socketio_eventlog.events import Event, LoggedEvent, Missed, MissedSummary, Offset, Publication
from socketio_eventlog.free_space import FreeSpace
from socketio_eventlog.history import SessionHistory
from socketio_eventlog.maintenance import Compacted
from socketio_eventlog.search import Found, Search
from socketio_eventlog.session_changes import (
    IdentityRevoked,
    SessionAway,
    SessionBound,
    SessionClaimed,
    SessionEnded,
    SessionOpened,
    SessionResumed,
)
from socketio_eventlog.snapshot import Membership, NodeRecord, Snapshot
from socketio_eventlog.uptime import UptimeClock

_REJECTED: Final = frozenset({NodeJoined, NodeDied})


@dataclass(slots=True)
class _Session:
    """The state of a session, for the decision of outcomes."""

    claim: int = 1
    identity: str | None = None


class VolatileLog:
    """A ``Log`` with places and outcomes, and without storage."""

    is_durable: Final = False
    index_memory_bytes: Final = 0
    changed_sessions: Final = None

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        self.node = "volatile"
        self.free_space = FreeSpace()
        self.head = 0
        self.pruned_through = 0
        self._uptime = UptimeClock(0.0, monotonic)
        self._batches = BatchStream()
        self._appends = 0
        self._last_batch = 0
        self._sessions: dict[tuple[str, str], _Session] = {}
        self._is_closed = False

    @property
    def contact_at(self) -> float:
        return time.monotonic()

    def offset_at(self, sequence: int) -> Offset:
        """Return an offset for use inside the server only; no client receives the offset."""
        return Offset(self.node, sequence)

    def offset_text(self, sequence: int) -> str:
        """Return ``offset_at`` as text."""
        return f"{self.node}.{sequence}"

    def offset_of(self, sequence: int) -> Offset:
        return Offset(self.node, sequence)

    def locate(self, offset: str) -> Offset:
        """Refuse every offset, since no client ever received one. Raises OffsetUnknown."""
        raise OffsetUnknown

    def precedes_epoch(self, earlier: str, later: str) -> bool:
        """Return False: a volatile log has a single epoch."""
        return False

    async def join(self) -> Snapshot:
        node = NodeRecord(self.node, self._uptime.seconds, applied=self._last_batch, floor=0)
        return Snapshot(self._last_batch, self.head, self._uptime.seconds, (node,), positions=(), sessions=())

    def append(self, changes: Sequence[Change]) -> asyncio.Future[int]:
        if self._is_closed:
            raise StoreClosed
        future: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._appends += 1
        if not _REJECTED.isdisjoint(map(type, changes)):
            future.set_exception(StoreRejected("A volatile log has one node, which no change makes or ends."))
            return future
        uptime, now = self._uptime.next()
        self._uptime.step(uptime, now)
        self._last_batch += 1
        committed = list(self._decide_all(changes))
        self._batches.put(Batch(self._last_batch, self.node, self._appends, uptime, committed))
        future.set_result(self._last_batch)
        return future

    def _decide_all(self, changes: Sequence[Change]) -> Iterator[Committed]:
        for change in changes:
            if type(change) is Event:
                self.head += 1
                yield Committed(change, self.head)
            else:
                yield Committed(change, self.head, *self._decide(change))

    def _decide(self, change: Change) -> tuple[bool, int]:
        """Return whether the change takes effect, and the number of the claim."""
        match change:
            case SessionOpened(namespace, sid):
                self._sessions[namespace, sid] = _Session()
                return True, 1
            case SessionClaimed(namespace, sid):
                return self._claim(namespace, sid)
            case SessionResumed(namespace, sid, claim) | SessionAway(namespace, sid, claim):
                took_effect = self._has(namespace, sid, claim)
            case SessionEnded(namespace, sid):
                took_effect = self._has(namespace, sid, change.claim)
                if took_effect:
                    del self._sessions[namespace, sid]
            case _:
                took_effect = True
        self._note_identity(change, took_effect=took_effect)
        return took_effect, 0

    def _claim(self, namespace: str, sid: str) -> tuple[bool, int]:
        session = self._sessions.get((namespace, sid))
        if session is None:
            return False, 0
        session.claim += 1
        return True, session.claim

    def _has(self, namespace: str, sid: str, claim: int | None) -> bool:
        session = self._sessions.get((namespace, sid))
        return session is not None and claim in (None, session.claim)

    def _note_identity(self, change: Change, *, took_effect: bool) -> None:
        match change:
            case SessionBound(namespace, sid, identity):
                if (session := self._sessions.get((namespace, sid))) is not None:
                    session.identity = identity
            case SessionResumed() if took_effect:
                for deferred in change.deferred:
                    self._note_identity(deferred, took_effect=True)
            case IdentityRevoked(identity):
                sessions = self._sessions
                self._sessions = {key: held for key, held in sessions.items() if held.identity != identity}

    def batches(self) -> BatchStream:
        return self._batches

    async def missed(
        self,
        namespace: str,
        memberships: Sequence[Membership],
        after: int,
        through: int,
        *,
        at_most: int | None = None,
    ) -> Missed:
        return Missed((), 0)

    def missed_in_memory(
        self,
        namespace: str,
        memberships: Sequence[Membership],
        after: int,
        through: int,
        *,
        at_most: int | None = None,
    ) -> Missed | None:
        return Missed((), 0)

    async def summarise_missed(
        self,
        namespace: str,
        memberships: Sequence[Membership],
        after: int,
        through: int,
        *,
        max_events: int,
        max_bytes: int,
    ) -> MissedSummary:
        return MissedSummary((), exceeds=False)

    async def read(self, sequences: Sequence[int], limit_bytes: int | None = None) -> list[LoggedEvent]:
        return []

    async def emission_times(self, sequences: Sequence[int]) -> list[tuple[int, float]]:
        return []

    async def search(self, question: Search) -> Found:
        return Found([], question.first if question.newest_first else question.last)

    async def unreadable(self, first: int, last: int, is_readable: Callable[[str, int], bool]) -> list[int]:
        return []

    async def acknowledgement(self, namespace: str, name: str, identity: str, key: str) -> str | None:
        return None

    async def publication(self, publisher: str, key: str) -> Publication | None:
        return None

    async def prune_idempotency_keys(self, handled_before: float, limit: int = 1000) -> int:
        return 0

    async def session_history(self, namespace: str, sid: str) -> SessionHistory | None:
        return None

    async def prune_session_history(self, before: float, limit: int = 1000) -> bool:
        return False

    async def compact(self, max_bytes: int | None) -> Compacted:
        raise NothingChanged("Nothing is stored.")

    async def scrub(self) -> bool:
        return True

    async def may_live(self, node: str) -> bool:
        return True

    async def counts(self) -> tuple[int, int]:
        return 0, 0

    def abandon(self) -> None:
        self._is_closed = True
        self._batches.abandon()

    async def close(self) -> None:
        self._is_closed = True
        self._batches.close()
