"""Reconnections: whether a client may have its session back, and from where in the log.

Recovered or not, never half: a reconnection is answered with ``recovered`` only when every missed
event can be sent. The reason for the other answers is counted and logged.
"""

from __future__ import annotations

import hashlib
import logging
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from socketio_eventlog.errors import OffsetRefused, OffsetRolledBack, OffsetUnknown
from socketio_eventlog.records import LoggedEvent, Membership, Missed, Offset
from socketio_eventstore.core.position_history import PositionHistory
from socketio_eventstore.core.sessions import Registry, Session, State

logger = logging.getLogger(__name__)


OVERDUE_EVENTS = 256
OVERDUE_BYTES = 1_000_000
"""How much is looked at to find out whether a client was to receive any of it."""


class RecoveryResult(StrEnum):
    """How a reconnection was answered; the label of ``recoveries_total``."""

    RECOVERED = "recovered"
    UNKNOWN_SESSION = "unknown_session"
    EXPIRED = "expired"
    BAD_OFFSET = "bad_offset"
    ROLLED_BACK = "rolled_back"
    TOO_MANY_MISSED = "too_many_missed"
    REFUSED = "refused"


class ReadableLog(Protocol):
    """What a recovery needs of the log."""

    @property
    def pruned_through(self) -> int:
        """Events up to this number are gone; every unexpired session had confirmed its own of them."""
        ...

    def locate(self, offset: str) -> Offset:
        """The place that an offset names. Raises OffsetRefused when it cannot be one of this log."""
        ...

    def precedes_epoch(self, earlier: str, later: str) -> bool:
        """Whether a server start came before another."""
        ...

    async def missed(
        self,
        namespace: str,
        memberships: Sequence[Membership],
        after: int,
        through: int,
        *,
        at_most: int | None = None,
    ) -> Missed:
        """The events in (after, through] that fell into one of the memberships.

        The search may end once it has found more than ``at_most``.
        """
        ...

    def missed_in_memory(
        self, namespace: str, memberships: Sequence[Membership], after: int, through: int
    ) -> Missed | None:
        """The same at once, or None when a part of the answer is on disk only."""
        ...

    async def read(self, sequences: Sequence[int], limit_bytes: int) -> list[LoggedEvent]:
        """The events with these numbers, ascending, until the limit is passed: at least one, if there."""
        ...

    def offset_of(self, sequence: int) -> Offset:
        """The place that an event was given when it was emitted, perhaps by an earlier server start."""
        ...


@dataclass(frozen=True, slots=True)
class RecoveryLimits:
    """What a recovery may cost."""

    max_disconnection_seconds: float
    max_missed_packets: int
    max_missed_bytes: int
    heartbeat_seconds: float = 45.0
    """How long a connection may be dead before the server notices."""

    @property
    def max_unconfirmed_seconds(self) -> float:
        """How long an event is offered again and again to a client that does not confirm it.

        A client that is honest lives to answer a heartbeat, or says by its offset, when it comes back,
        what it received. It may be gone for a heartbeat before that is noticed, away for as long as is
        allowed, have a connection too short for a heartbeat, and be away for as long again before it says
        so.
        """
        return 2 * self.max_disconnection_seconds + self.heartbeat_seconds


@dataclass(frozen=True, slots=True)
class Restore:
    """The session is its owner's again; everything beyond the cursor is to be sent."""

    session: Session
    cursor: int


def hash_pid(pid: str) -> bytes:
    """What the store knows of a private id (P7): its SHA-256."""
    return hashlib.sha256(pid.encode("utf-8", "surrogatepass")).digest()


class Recovery:
    """Decides whether a reconnection recovers its session."""

    def __init__(self, history: ReadableLog, registry: Registry, limits: RecoveryLimits) -> None:
        self._history = history
        self._registry = registry
        self._limits = limits
        self.position_history = PositionHistory(limits.max_unconfirmed_seconds)
        self.results: Counter[RecoveryResult] = Counter()
        """How many reconnections were answered how."""

    def count(self, result: RecoveryResult, sid: str | None = None) -> None:
        """Count and log how a reconnection was answered."""
        self.results[result] += 1
        level = logging.DEBUG if result is RecoveryResult.RECOVERED else logging.INFO
        logger.log(level, "reconnection of %s: %s", sid or "an unknown session", result)

    def is_expired(self, session: Session, uptime_now: float) -> bool:
        """Whether a session has been away for longer than the maximum disconnection duration."""
        return session.state is State.AWAY and self._is_overdue(session, uptime_now)

    def _is_overdue(self, session: Session, uptime_now: float) -> bool:
        # While it connects the time goes on: with a claim after the other nobody could ever be refused.
        waits = session.state in (State.AWAY, State.CONNECTING)
        return waits and uptime_now - session.away_since > self._limits.max_disconnection_seconds

    async def decide(
        self, namespace: str, pid: object, offset: object, position: int, clock: Callable[[], float]
    ) -> Restore | RecoveryResult:
        """Whether the client with this private id may have its session back, and from where.

        ``clock`` gives the service time. A result other than RECOVERED means a fresh session, and says
        why. Nothing is changed.
        """
        if not isinstance(pid, str):
            return RecoveryResult.UNKNOWN_SESSION
        session = self._registry.with_pid(hash_pid(pid))
        if session is None or session.namespace != namespace:
            return RecoveryResult.UNKNOWN_SESSION
        cursor = self._cursor(session, offset)
        if isinstance(cursor, RecoveryResult):
            return cursor
        limits, memberships = self._limits, list(session.memberships())
        missed = await self._history.missed(
            namespace, memberships, cursor, position, at_most=limits.max_missed_packets
        )
        if len(missed.sequences) > limits.max_missed_packets or missed.size_bytes > limits.max_missed_bytes:
            return RecoveryResult.TOO_MANY_MISSED
        sequences = await self._still_missed(session, missed.sequences, clock())
        if self._registry.with_pid(hash_pid(pid)) is not session:  # it ended while the log was asked
            return RecoveryResult.UNKNOWN_SESSION
        if sequences is None or self._is_overdue(session, clock()):
            return RecoveryResult.EXPIRED
        # What was not for it need not be kept for it: a quiet client must not hold up pruning.
        reached = sequences[0] - 1 if sequences else position
        return Restore(session, max(cursor, reached, session.confirmed, self._history.pruned_through))

    async def _still_missed(
        self, session: Session, sequences: Sequence[int], now: float
    ) -> Sequence[int] | None:
        """The missed events, perhaps without first ones that it is not to be sent; None if it is too late.

        A client that came back for the same event for so long, and answers no heartbeat, does not mean
        to receive it: pruning would wait for it for ever.
        """
        limit = self._limits.max_unconfirmed_seconds
        overdue = sequences[: bisect_right(sequences, self.position_history.passed(now))]
        if not overdue or now - session.pong_at <= limit:
            return sequences
        logged = await self._history.read(overdue[:OVERDUE_EVENTS], OVERDUE_BYTES)
        if any(session.sid not in entry.event.skip for entry in logged):
            return None
        return sequences[len(logged) :]

    def _cursor(self, session: Session, offset: object) -> int | RecoveryResult:
        # What was confirmed or pruned needs no offset: positions are compared, rows never looked up.
        known = max(session.start.sequence, session.confirmed, self._history.pruned_through)
        if offset is None or offset == session.former_offset:
            return known
        if not isinstance(offset, str):
            return RecoveryResult.BAD_OFFSET
        try:
            place = self._history.locate(offset)
        except OffsetUnknown:
            return RecoveryResult.ROLLED_BACK
        except OffsetRolledBack:
            epoch = offset.partition(".")[0]
            # The client keeps the offset of its former session until it receives something.
            return (
                known
                if self._history.precedes_epoch(epoch, session.start.epoch)
                else RecoveryResult.ROLLED_BACK
            )
        except OffsetRefused:
            return RecoveryResult.BAD_OFFSET
        return max(known, place.sequence)
