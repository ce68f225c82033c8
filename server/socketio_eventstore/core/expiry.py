"""The end of sessions of clients that did not return in time.

The log has no entry before the call of a handler. A session is overdue by the uptime of a batch in effect.
The uptime only grows, and a claim does not end the absence, so the later claim of a returning client is
overdue on every node. Only the first node calls handlers; after the death of the first node, the next node
becomes the first, and repeats a call without an end in the log.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from dataclasses import dataclass
from functools import partial

from socketio_eventlog.errors import StoreClosed, StoreError, StoreUnavailable
from socketio_eventlog.session_changes import SessionEnd
from socketio_eventstore.core.bounded_lines import BoundedLines
from socketio_eventstore.core.commit_queue import CommitQueue
from socketio_eventstore.core.recovery import Recovery
from socketio_eventstore.core.repeated_failures import RepeatedFailures, shown
from socketio_eventstore.core.senders import Sender, current_sender
from socketio_eventstore.core.session_operations import EndSession
from socketio_eventstore.core.sessions import Session
from socketio_eventstore.core.slices import in_slices

logger = logging.getLogger(__name__)

EXPIRING_AT_ONCE = 100
"""Calls of ``session_expired`` handlers at a time."""
ENDING_AT_ONCE = 25
"""The most waiting ends of sessions. Each end takes the store up to 80 µs, before the changes of others."""
EXPIRY_ATTEMPTS = 8
"""Calls of a failing ``session_expired`` handler, before the session ends without the handler."""
LONGEST_EXPIRY_PAUSE_SECONDS = 3600.0
"""The longest pause between two such calls. The pauses double, from two prune intervals on."""


@dataclass(frozen=True, slots=True)
class FailedExpiry:
    """An expired session with a failed handler."""

    attempts: int
    retry_at: float
    """The uptime of the next call."""


class Expiry:
    """Calls the handlers of expired sessions and ends the sessions, some at a time."""

    def __init__(self, queue: CommitQueue, recovery: Recovery, interval_seconds: float) -> None:
        """``interval_seconds``: the time between two calls of ``start``."""
        self._queue = queue
        self._context = queue.context
        self._recovery = recovery
        self._interval_seconds = interval_seconds
        self._due: deque[Session] = deque()
        self._sender = Sender(ENDING_AT_ONCE)
        self._is_scheduled = False  # the call of _continue_later
        self.running: dict[Session, asyncio.Task[None]] = {}
        """The sessions with a running handler."""
        self._failed: dict[Session, FailedExpiry] = {}
        self._failures = RepeatedFailures(logger)
        self._lines = BoundedLines(logger, "expired sessions")
        self.expired = 0
        """The number of sessions ended by expiry."""

    async def start(self) -> None:
        """Begin to end the expired sessions."""
        now, due = self._context.uptime, deque[Session]()
        async for sessions in in_slices(self._context.registry):
            due += [session for session in sessions if self._is_due(session, now)]
        self._due = due
        self._continue()

    def cancel(self) -> None:
        """Cancel the running handlers."""
        self._due.clear()
        for task in list(self.running.values()):
            task.cancel()

    def _is_due(self, session: Session, now: float) -> bool:
        if session in self.running or not self._recovery.is_expired(session, now):
            return False
        failed = self._failed.get(session)
        return failed is None or failed.retry_at <= now

    def _continue(self) -> None:
        """Start handlers, some at a time, while few ends wait for the store."""
        if self._is_scheduled:
            return
        for _ in range(ENDING_AT_ONCE):
            if not self._due or len(self.running) >= EXPIRING_AT_ONCE:
                return
            if self._sender.is_held:
                self._continue_after(self._sender.ready())
                return
            self._start(self._due.popleft())
        if self._due:
            self._is_scheduled = True
            asyncio.get_running_loop().call_soon(self._continue_later)

    def _start(self, session: Session) -> None:
        if self._is_due(session, self._context.uptime):
            task = asyncio.create_task(self._expire(session))
            if not task.done():  # with asyncio.eager_task_factory, the task may have ended
                self.running[session] = task
                task.add_done_callback(partial(self._ended, session))

    def _continue_after(self, ready: asyncio.Future[None]) -> None:
        self._is_scheduled = True
        ready.add_done_callback(self._continue_later)

    def _continue_later(self, _: object = None) -> None:
        self._is_scheduled = False
        self._continue()

    def _ended(self, session: Session, _: asyncio.Task[None]) -> None:
        self.running.pop(session, None)
        self._continue()

    async def _expire(self, session: Session) -> None:
        current_sender.set(self._sender)  # for this task alone
        try:
            await self._context.listener.expired(session)
        except Exception as error:  # noqa: BLE001 -- of the application's handler or of the store
            await self._expiry_failed(session, error)
        else:
            self._failed.pop(session, None)
            self._count(session)

    def _count(self, session: Session) -> None:
        self.expired += 1
        if self._lines.admit():
            extra = {"sid": session.sid, "namespace": session.namespace}
            logger.info("expired: %s, whose client did not return in time", session.sid, extra=extra)

    async def _expiry_failed(self, session: Session, error: Exception) -> None:
        """Retry the expiry later, with growing pauses, or end the session without the handler."""
        place = f"of {session.namespace} failed for {session.sid}"
        what = f"the session has expired but could not be ended: {shown(error)}"
        text = f"The session_expired handler {place}; {what}"
        self._failures.failed(("expiry", session.namespace, type(error).__name__), text, error=error)
        if isinstance(error, StoreUnavailable | StoreClosed):
            return  # no fault of the handler: the next sweep tries again
        attempts = 1 if session not in self._failed else self._failed[session].attempts + 1
        if attempts < EXPIRY_ATTEMPTS:
            pause = min(self._interval_seconds * 2**attempts, LONGEST_EXPIRY_PAUSE_SECONDS)
            self._failed[session] = FailedExpiry(attempts, self._context.uptime + pause)
            return
        text = f"The session_expired handler {place} {attempts} times; the session ends without it"
        self._failures.failed(("given up", session.namespace), text)
        try:
            await self._queue.submit(EndSession(session, SessionEnd.EXPIRED))
        except StoreError as failure:  # the next sweep calls the handler once more
            self._failures.failed("expiry", f"The session {session.sid} could not be ended. {failure}")
        else:
            self._failed.pop(session, None)
            self._count(session)
