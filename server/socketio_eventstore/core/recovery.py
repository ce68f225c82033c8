"""The decision on a reconnection: recovery or not, and the position.

Recovered or not, never half: a reconnection is recovered only when every missed event can be sent. The reason
for every other result is counted and logged.
"""

from __future__ import annotations

import hashlib
import logging
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum

from socketio_eventlog.errors import OffsetRefused, OffsetRolledBack, OffsetUnknown
from socketio_eventlog.events import MissedSummary
from socketio_eventlog.log import Log
from socketio_eventstore.core.bounded_lines import BoundedLines
from socketio_eventstore.core.old_events import OldEvents
from socketio_eventstore.core.options import Options
from socketio_eventstore.core.position_history import PositionHistory
from socketio_eventstore.core.registry import Registry
from socketio_eventstore.core.repeated_failures import RepeatedFailures
from socketio_eventstore.core.sessions import Session, State
from socketio_eventstore.core.suspicion import NO_SUSPICION

logger = logging.getLogger(__name__)


OVERDUE_EVENTS = 256
OVERDUE_BYTES = 1_000_000
"""Limits of the read for overdue events of a client."""


class RecoveryResult(StrEnum):
    """The result of a reconnection; the label of the metric ``recoveries_total``."""

    RECOVERED = "recovered"
    UNKNOWN_SESSION = "unknown_session"
    EXPIRED = "expired"
    BAD_OFFSET = "bad_offset"
    ROLLED_BACK = "rolled_back"
    TOO_MANY_MISSED = "too_many_missed"
    REFUSED = "refused"
    AUTH_CHANGED = "auth_changed"
    POISONED = "poisoned"
    INCOMPLETE = "incomplete"


@dataclass(frozen=True, slots=True)
class RecoveryLimits:
    """The limits of a recovery; durations in seconds, sizes in bytes."""

    max_disconnection_seconds: float
    max_missed_packets: int
    max_missed_bytes: int
    heartbeat_seconds: float = Options(path=None).heartbeat
    """How long a connection may be dead before the server notices."""

    @property
    def max_unconfirmed_seconds(self) -> float:
        """The longest time to offer an event to a client that returns repeatedly and confirms nothing.

        An honest client answers a heartbeat, or names the received events by the offset on return. The
        longest honest case: a dead connection (one heartbeat), the maximum disconnection duration, a
        connection too short for a heartbeat, and the maximum disconnection duration again.
        """
        return 2 * self.max_disconnection_seconds + self.heartbeat_seconds


def hash_pid(pid: str) -> bytes:
    """Return the SHA-256 of a private id. The store never has the private id itself (promise P7)."""
    return hashlib.sha256(pid.encode("utf-8", "surrogatepass")).digest()


AuthHash = Callable[[], bytes | None]
"""Returns a hash of the client's credentials, or None when there is none; rarely asked."""


def _no_hash() -> None:
    """Return the hash of a client without credentials."""


def _may_return(session: Session, auth_hash: AuthHash) -> bool:
    """Whether credentials allow the recovery of a session after the client's own ``disconnect()``.

    ``disconnect(); auth = …; connect()`` is how a page logs in as another user. The connect handler decides
    about a session bound to an identity.
    """
    if session.identity is not None:
        return True
    return session.auth_hash is not None and session.auth_hash == auth_hash()


class Cursor(int):
    """A position from which a replay sends events, and the number of events to send."""

    missed = 0
    """The number of events, at most (see ``MissedSummary.at_most``)."""

    @classmethod
    def before(cls, position: int, missed: int) -> Cursor:
        """Return the cursor of a replay of so many events beyond a position."""
        cursor = cls(position)
        cursor.missed = missed
        return cursor


class Recovery:
    """Decides whether a reconnection recovers the session."""

    def __init__(
        self, log: Log, registry: Registry, limits: RecoveryLimits, old_events: OldEvents | None = None
    ) -> None:
        """``old_events``: None if this node has stored all events."""
        self._log = log
        self._registry = registry
        self._limits = limits
        self._old_events = old_events
        self._failures = RepeatedFailures(logger)
        self._lines = BoundedLines(logger, "reconnections without recovery")
        self.position_history = PositionHistory(limits.max_unconfirmed_seconds)
        self.results: Counter[RecoveryResult] = Counter()
        """The number of reconnections by result."""

    @property
    def max_disconnection_seconds(self) -> float:
        """How long a client may be away."""
        return self._limits.max_disconnection_seconds

    def count(self, result: RecoveryResult, sid: str | None = None) -> None:
        """Count and log the result of a reconnection."""
        self.results[result] += 1
        if sid is None:  # strangers may try any number of private ids
            text = f"reconnection of an unknown session: {result}"
            self._failures.failed(result, text, level=logging.INFO, extra={"result": str(result)})
            return
        is_recovered = result is RecoveryResult.RECOVERED  # such a client has a line after its replay
        if logger.isEnabledFor(logging.DEBUG) if is_recovered else self._lines.admit():
            level = logging.DEBUG if is_recovered else logging.INFO
            extra = {"sid": sid, "result": str(result)}
            logger.log(level, "reconnection of %s: %s", sid, result, extra=extra)

    def is_expired(self, session: Session, uptime: float) -> bool:
        """Whether a session has been away for longer than the maximum disconnection duration."""
        # From the state of the log: an acceptance may come out of the log before the end of the connection.
        is_away = session.state is State.AWAY and session.node is None
        return is_away and self._is_overdue(session, uptime)

    def _is_overdue(self, session: Session, uptime: float) -> bool:
        # A claim does not end the absence: otherwise a series of claims could keep a session for ever.
        away_since = session.away_since
        return away_since is not None and uptime - away_since > self._limits.max_disconnection_seconds

    async def replaced(self, sequence: int) -> None:
        """Take note of an event's replacement by a readable event."""
        if self._old_events is not None:
            await self._old_events.replaced(sequence)

    def find(
        self, namespace: str, pid: object, offset: object, uptime: float, auth_hash: AuthHash = _no_hash
    ) -> Session | RecoveryResult:
        """Return the session that a client with a private id and an offset may claim.

        ``uptime`` is in seconds; ``auth_hash`` returns the hash of the client's credentials. Any
        RecoveryResult means a new session, and names the reason. ``decide`` has the last word, after the
        claim.
        """
        session = self._registry.with_pid(hash_pid(pid)) if isinstance(pid, str) else None
        if session is None or session.namespace != namespace:
            return RecoveryResult.UNKNOWN_SESSION
        cursor = self._cursor(session, offset)
        if isinstance(cursor, RecoveryResult):
            return cursor
        if self._is_overdue(session, uptime):
            return RecoveryResult.EXPIRED
        may_return = not session.left_by_client or _may_return(session, auth_hash)
        return session if may_return else RecoveryResult.AUTH_CHANGED

    def session_of(self, namespace: str, pid: object) -> Session | None:
        """Return the session of a private id in the namespace."""
        session = self._registry.with_pid(hash_pid(pid)) if isinstance(pid, str) else None
        return session if session is not None and session.namespace == namespace else None

    async def decide(
        self,
        session: Session,
        offset: object,
        position: int,
        uptime: Callable[[], float],
        auth_hash: AuthHash = _no_hash,
    ) -> int | RecoveryResult:
        """Decide whether the client that has claimed a session recovers; return the cursor.

        Events beyond the cursor are to be sent. Called after the effect of the claim: ``position`` and
        ``uptime``, in seconds, are the log's values on this node, and no batch before the claim is missing.
        Any RecoveryResult means a new session, and names the reason. The decision changes nothing. The cursor
        is a ``Cursor``.
        """
        cursor = self._cursor(session, offset)
        if isinstance(cursor, RecoveryResult):
            return cursor
        limits = self._limits
        missed = await self._log.summarise_missed(
            session.namespace,
            session.memberships(),
            cursor,
            position,
            max_events=limits.max_missed_packets,
            max_bytes=limits.max_missed_bytes,
        )
        if missed.exceeds:
            return RecoveryResult.TOO_MANY_MISSED
        if missed.is_incomplete or session.lacks > cursor:
            return RecoveryResult.INCOMPLETE
        if await self._is_poisoned(session, cursor, missed):
            return RecoveryResult.POISONED
        reached = await self._reached(session, missed, position, uptime())
        if session.state is State.ENDED:  # during the search
            return RecoveryResult.UNKNOWN_SESSION
        if reached is None or self._is_overdue(session, uptime()):
            return RecoveryResult.EXPIRED
        if session.left_by_client and not _may_return(
            session, auth_hash
        ):  # asked last: the client may have left during the search
            return RecoveryResult.AUTH_CHANGED
        # Events for other sessions need not be kept for this session: a quiet client must not hold up
        # pruning.
        position = max(cursor, reached, session.confirmed, self._log.pruned_through)
        return Cursor.before(position, missed.at_most)

    async def _is_poisoned(self, session: Session, cursor: int, missed: MissedSummary) -> bool:
        """Whether a missed event is unreadable for clients."""
        if session.suspected is not NO_SUSPICION and session.suspected.is_confirmed(cursor):
            sequence, times = session.suspected
            offset = self._log.offset_of(sequence)
            text = (
                f"The client of {session.sid} cannot read the event at offset {offset}: "
                f"it closed the connection on it {times} times in a row. It gets a new session."
            )
            self._failures.failed(sequence, text, level=logging.WARNING)
            return True
        ranges, old_events = missed.ranges, self._old_events
        if not ranges or old_events is None or ranges[0][0] > old_events.through:
            return False
        if not (unreadable := await old_events.unreadable(ranges)):
            return False
        addressed = await self._missed(session, max(cursor, unreadable[0] - 1), unreadable[-1])
        found = sorted(set(unreadable).intersection(addressed))
        for start in range(0, len(found), OVERDUE_EVENTS):
            logged = await self._log.read(found[start : start + OVERDUE_EVENTS])
            if any(session.sid not in entry.event.skip for entry in logged):
                return True
        return False

    async def _reached(
        self, session: Session, missed: MissedSummary, position: int, now: float
    ) -> int | None:
        """Return the sequence before the first event to send; None when the session is overdue.

        A client that returns for the same event again and again, and answers no heartbeat, would otherwise
        prevent the pruning of the event for ever.
        """
        if not missed.ranges:
            return position
        first, passed = missed.ranges[0][0], self.position_history.passed(now)
        if first > passed or now - session.pong_at <= self._limits.max_unconfirmed_seconds:
            return first - 1
        overdue = await self._missed(session, first - 1, passed, OVERDUE_EVENTS - 1)
        logged = await self._log.read(overdue, OVERDUE_BYTES)
        if any(session.sid not in entry.event.skip for entry in logged):
            return None
        later = await self._missed(session, logged[-1].sequence if logged else first - 1, position, 0)
        return later[0] - 1 if later else position

    async def _missed(
        self, session: Session, after: int, through: int, at_most: int | None = None
    ) -> Sequence[int]:
        memberships = session.memberships()
        missed = await self._log.missed(session.namespace, memberships, after, through, at_most=at_most)
        return missed.sequences

    def _cursor(self, session: Session, offset: object) -> int | RecoveryResult:
        # Positions are compared and rows never looked up: confirmed and pruned events need no offset.
        known = max(session.start.sequence, session.confirmed, self._log.pruned_through)
        if offset is None or offset == session.former_offset:
            return known
        if not isinstance(offset, str):
            return RecoveryResult.BAD_OFFSET
        try:
            located = self._log.locate(offset)
        except OffsetUnknown:
            return RecoveryResult.ROLLED_BACK
        except OffsetRolledBack:
            epoch = offset.partition(".")[0]
            # The client keeps the offset of the former session until an event arrives.
            is_former = self._log.precedes_epoch(epoch, session.start.epoch)
            return known if is_former else RecoveryResult.ROLLED_BACK
        except OffsetRefused:
            return RecoveryResult.BAD_OFFSET
        return max(known, located.sequence)
