"""The end of sessions whose changes the database has lost, as after the promotion of a standby that lagged.

A revoked session would be open again, and a client would recover into rooms without a sign. So a node that
had applied the changes ends these sessions, and their clients get new ones.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from typing import Any

from socketio_eventlog.changed_sessions import LostChanges
from socketio_eventlog.errors import StoreError
from socketio_eventlog.session_changes import SessionEnd
from socketio_eventstore.core.context import Context
from socketio_eventstore.core.runtime import Runtime
from socketio_eventstore.core.session_effects import end
from socketio_eventstore.core.session_operations import EndSession
from socketio_eventstore.core.sessions import Session

logger = logging.getLogger(__name__)


@dataclass(eq=False)
class EndChanged(EndSession):
    """A session lacks changes; no error lets a client recover it."""

    has_happened = passes_full_queue = True

    def refused(self, context: Context, error: StoreError) -> None:
        end(context, self.session, self.reason)


class LostSessions:
    """What the database has lost of the former lives of this process, until its sessions have ended."""

    def __init__(self) -> None:
        self._lost: list[LostChanges] = []
        self._ending: asyncio.Future[Any] | None = None

    def follow_on(self, former: Runtime, present: Runtime) -> None:
        """Begin to end the sessions of a new life that lack changes, before all that clients begin.

        The operations come first in the order of this node. A life that ends before they have taken effect
        leaves them to the next one.
        """
        if former.log.changed_sessions is None or present.log.changed_sessions is None:
            return
        lost = present.log.changed_sessions.follow_on(former.log.changed_sessions)
        self._lost += [] if lost is None else [lost]
        concerned = [one for one in present.registry if any(_lacks(one, lost) for lost in self._lost)]
        if concerned:
            logger.warning(
                "The database has lost changes of %d sessions. They end, and their clients get new ones.",
                len(concerned),
            )
        operations = [EndChanged(session, SessionEnd.REVOKED) for session in concerned]
        self._ending = asyncio.gather(*map(present.queue.submit, operations))
        self._ending.add_done_callback(self._ended)

    def _ended(self, ending: asyncio.Future[Any]) -> None:
        if not ending.cancelled() and ending.exception() is None:
            self._lost.clear()


def _lacks(session: Session, lost: LostChanges) -> bool:
    """Whether a session lacks one of the changes."""
    if session.start.epoch not in lost.epochs:
        return False
    return (
        (session.namespace, session.sid) in lost.sessions
        or session.identity in lost.identities
        or any((session.namespace, room) in lost.rooms for room in session.joined)
    )
