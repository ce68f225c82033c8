"""The end of sessions with changes that the database has lost, as after the promotion of a lagging standby.

A revoked session would be open again, and a client would recover into rooms without a sign. So a node that
had applied the changes ends such sessions, and the clients get new sessions.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from typing import Any, Final

from socketio_eventlog.changed_sessions import LostChanges
from socketio_eventlog.errors import StoreError
from socketio_eventlog.session_changes import SessionEnd
from socketio_eventstore.core.context import Context
from socketio_eventstore.core.runtime import Runtime
from socketio_eventstore.core.session_effects import end
from socketio_eventstore.core.session_operations import EndSession
from socketio_eventstore.core.sessions import Session
from socketio_eventstore.core.slices import in_slices

logger = logging.getLogger(__name__)

ENDING_AT_ONCE: Final = 100
"""Sessions that are looked at, and perhaps ended, before the event loop serves others: a millisecond."""


@dataclass(eq=False)
class EndChanged(EndSession):
    """A session lacks changes; no error lets a client recover it."""

    has_happened = passes_full_queue = True

    def refused(self, context: Context, error: StoreError) -> None:
        end(context, self.session, self.reason)


class LostSessions:
    """The lost changes of the former lives of this process, until the end of the sessions."""

    def __init__(self) -> None:
        self._lost: list[LostChanges] = []

    async def follow_on(self, present: Runtime) -> None:
        """Begin to end the sessions of a new life that lack changes, before all that clients begin.

        The operations come before those of clients: no client may connect during this call. A life that ends
        before they have taken effect leaves them to the next one.
        """
        known = present.log.changed_sessions
        if known is not None and known.lost is not None:
            self._lost.append(known.lost)
        if not self._lost:
            return
        count, ends = 0, _Ends(self._lost)
        async for sessions in in_slices(present.registry, ENDING_AT_ONCE):
            concerned = [one for one in sessions if any(_lacks(one, lost) for lost in self._lost)]
            count += len(concerned)
            for session in concerned:
                ends.add(present.queue.submit(EndChanged(session, SessionEnd.REVOKED)))
        ends.are_all_begun()
        if count:
            logger.warning(
                "The database has lost changes of %d sessions. They end, and their clients get new ones.",
                count,
            )


class _Ends:
    """The ends of sessions in one life; when all of them have taken effect, nothing is left to do."""

    def __init__(self, lost: list[LostChanges]) -> None:
        self._lost = lost
        self._waiting = 1  # until all are begun
        self._has_failed = False

    def add(self, ending: asyncio.Future[Any]) -> None:
        self._waiting += 1
        ending.add_done_callback(self._ended)

    def are_all_begun(self) -> None:
        self._one_less()

    def _ended(self, ending: asyncio.Future[Any]) -> None:
        if ending.cancelled() or ending.exception() is not None:
            self._has_failed = True
        self._one_less()

    def _one_less(self) -> None:
        self._waiting -= 1
        if not self._waiting and not self._has_failed:
            self._lost.clear()


def _lacks(session: Session, lost: LostChanges) -> bool:
    """Whether a session lacks any of the changes."""
    if session.start.epoch not in lost.epochs:
        return False
    return (
        (session.namespace, session.sid) in lost.sessions
        or session.identity in lost.identities
        or any((session.namespace, room) in lost.rooms for room in session.joined)
    )
