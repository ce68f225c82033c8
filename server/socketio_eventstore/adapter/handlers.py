"""Calls of the connect and disconnect handlers, one at a time for each session.

An application relies on a disconnection before the next connection of the same session, although the client
may be back before the end of the disconnect handler.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Coroutine
from contextvars import ContextVar
from typing import Any, Final

from socketio import exceptions

from socketio_eventlog.errors import StoreError
from socketio_eventstore.adapter.application import Application
from socketio_eventstore.adapter.client_lines import ClientLines
from socketio_eventstore.adapter.tracing import Tracing
from socketio_eventstore.core.repeated_failures import RepeatedFailures, shown
from socketio_eventstore.core.sessions import Session, SessionConnection

logger = logging.getLogger(__name__)

HANDLER_TIMEOUT_SECONDS = 5.0
"""The longest wait of a returning client for the handlers of the former connection."""
LONGEST_NAME_SHOWN = 100


NAMED_HANDLERS: Final = frozenset({"connect", "disconnect", "acknowledgement"})
"""The handlers with a separate count."""


class RunningDisconnect:
    """A running disconnect handler."""

    def __init__(self, session: Session, connection_id: str | None) -> None:
        self.session = session
        self.connection_id = connection_id
        self.is_open = True


_connecting: ContextVar[tuple[Session, SessionConnection] | None] = ContextVar("connecting", default=None)


def connecting_as(session: Session) -> SessionConnection:
    """Return the connection of the running handler: inside a connect handler, the connection to accept.

    Another connection may have claimed the session meanwhile; a handler must not authenticate the other
    connection.
    """
    connecting = _connecting.get()
    return connecting[1] if connecting is not None and connecting[0] is session else session.current


_running: ContextVar[RunningDisconnect | None] = ContextVar("running_disconnect", default=None)


def running_disconnect_of(session: Session) -> RunningDisconnect | None:
    """Return the running disconnect handler of a session, inside the handler; None everywhere else."""
    running = _running.get()
    if running is not None and running.is_open and running.session is session:
        return running
    return None


class HandlerSlot:
    """A slot in the sequence of a session's handler calls; reserved at once, released after the call."""

    def __init__(
        self, last: dict[Session, asyncio.Future[None]], session: Session, failures: RepeatedFailures
    ) -> None:
        self._last = last
        self._session = session
        self._failures = failures
        self.before = last.get(session)
        """The end of the call of the session that ran or waited when the slot was reserved, if one did."""
        self._done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        last[session] = self._done

    async def wait(self) -> None:
        """Wait for the end of the call before, but not longer than ``HANDLER_TIMEOUT_SECONDS``."""
        if self.before is not None:
            _, late = await asyncio.wait([self.before], timeout=HANDLER_TIMEOUT_SECONDS)
            if late:
                text = f"A handler of {self._session.sid} is still running; not waiting any longer"
                self._failures.failed("late", text, level=logging.WARNING)

    def release(self) -> None:
        """Let the next call of the session begin. May be called again."""
        if not self._done.done():
            self._done.set_result(None)
        if self._last.get(self._session) is self._done:
            del self._last[self._session]


class HandlerCalls:
    """The connect and disconnect handlers of an application, and their tasks."""

    def __init__(self, application: Application) -> None:
        self._application = application
        self.failures = RepeatedFailures(logger)
        self.lines = ClientLines(application.environ.request_id)
        self.tracing: Tracing | None = None
        """The spans of the handlers, where OpenTelemetry is configured."""
        self.errors: Counter[str] = Counter()
        """The number of exceptions by kind of handler; the name of an event comes from the client."""
        self.disconnects: Counter[str] = Counter()
        """The number of disconnections of accepted clients, by python-engineio's reason."""
        self._last: dict[Session, asyncio.Future[None]] = {}
        self._tasks: set[asyncio.Future[Any]] = set()

    def reserve(self, session: Session) -> HandlerSlot:
        """Reserve the next slot in the calls of a session."""
        return HandlerSlot(self._last, session, self.failures)

    def start(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """Run work that calls handlers, in a separate task: a slow handler delays no other client."""
        task: asyncio.Task[Any] = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def keep(self, running: asyncio.Future[Any]) -> None:
        """Let the shutdown of the server wait for a future, too."""
        self._tasks.add(running)
        running.add_done_callback(self._tasks.discard)

    def handler_failed(self, event: str, session: Session, error: Exception) -> None:
        """Log the exception of a handler, with the event, the namespace and the sid.

        A client may give any names to a handler for all events, or for all namespaces: the exceptions of such
        a handler share the log lines.
        """
        is_named = event in NAMED_HANDLERS
        self.errors[event if is_named else "event"] += 1
        kind = (*self._application.registered_names(event, session.namespace), is_named, type(error))
        name = event if is_named else ascii(event)[:LONGEST_NAME_SHOWN]
        text = f"The {name} handler of {session.namespace} failed for {session.sid}: {shown(error)}"
        extra = {"sid": session.sid, "namespace": session.namespace}
        self.failures.failed(kind, text, error=error, extra=extra)

    async def finish(self) -> None:
        """Wait for the running tasks."""
        while self._tasks:
            await asyncio.wait(self._tasks)

    def cancel(self) -> None:
        """Cancel the running tasks."""
        for task in self._tasks:
            task.cancel()

    async def connect(
        self, session: Session, attached: SessionConnection, connection_id: str, auth: Any
    ) -> Any:
        """Call the connect handler; return the reason of a refusal, or None. Raises StoreError."""
        if self.tracing is None:
            refusal = await self._connect(session, attached, connection_id, auth)
        else:
            with self.tracing.connect(session, recovered=attached.recovered) as span:
                refusal = await self._connect(session, attached, connection_id, auth)
                span.set_attribute("socketio.refused", refusal is not None)
        if refusal is not None:
            self.lines.refused(session, connection_id)
        return refusal

    async def _connect(
        self, session: Session, attached: SessionConnection, connection_id: str, auth: Any
    ) -> Any:
        refused = exceptions.ConnectionRefusedError().error_args
        environ = self._application.environ.get(connection_id, {})
        token = _connecting.set((session, attached))
        try:
            success = await self._call_connect(session, environ, auth)
        except exceptions.ConnectionRefusedError as error:
            return error.error_args
        except ConnectionRefusedError:
            return {"message": "Connection refused by server"}
        except StoreError:
            raise
        except Exception as error:  # noqa: BLE001 -- a fault of the handler concerns this client alone
            self.handler_failed("connect", session, error)
            return refused
        finally:
            _connecting.reset(token)
        return refused if success is False else None

    async def _call_connect(self, session: Session, environ: Any, auth: Any) -> Any:
        call, arguments = self._application.call_handler, (session.namespace, session.sid, environ)
        try:
            return await call("connect", *arguments, auth)
        except TypeError as first:
            if auth is not None:
                raise
            try:  # handlers from before python-socketio 5 take no auth
                return await call("connect", *arguments)
            except TypeError:
                raise first from None

    async def disconnect(self, session: Session, connection_id: str | None, reason: str) -> None:
        """Call the disconnect handler of an accepted client."""
        self.disconnects[reason] += 1
        self.lines.disconnected(session, connection_id, reason)
        running = RunningDisconnect(session, connection_id)
        token = _running.set(running)
        try:
            await self._application.call_handler("disconnect", session.namespace, session.sid, reason)
        except Exception as error:  # noqa: BLE001 -- a fault of the handler; the session is gone all the same
            self.handler_failed("disconnect", session, error)
        finally:
            running.is_open = False
            _running.reset(token)
