"""Calling the handlers of connect and disconnect, one at a time for each session.

An application counts on seeing a disconnection before the next connection of the same session,
although the client is back before its disconnect handler has ended.
"""

from __future__ import annotations

import asyncio
import logging
from contextvars import ContextVar
from types import TracebackType
from typing import TYPE_CHECKING, Any

from socketio import exceptions

from socketio_eventlog.errors import StoreError
from socketio_eventstore.core.sessions import Session

if TYPE_CHECKING:
    from socketio_eventstore.adapter.server import AsyncServer

logger = logging.getLogger(__name__)

HANDLER_TIMEOUT_SECONDS = 5.0
"""How long a client that is back waits for the handlers of its former connection."""


class RunningDisconnect:
    """The disconnect handler of a session, while it runs."""

    def __init__(self, session: Session, connection_id: str | None) -> None:
        self.session = session
        self.connection_id = connection_id
        self.is_open = True


_departing: ContextVar[RunningDisconnect | None] = ContextVar("departing", default=None)


def running_disconnect_of(session: Session) -> RunningDisconnect | None:
    """The departure of a session, asked from within its disconnect handler; None from elsewhere."""
    departure = _departing.get()
    if departure is not None and departure.is_open and departure.session is session:
        return departure
    return None


class HandlerSlot:
    """A place in the line of handler calls of one session; taken at once, waited for on entering."""

    def __init__(self, line: dict[Session, asyncio.Future[None]], session: Session) -> None:
        self._line = line
        self._session = session
        self._before = line.get(session)
        self._done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        line[session] = self._done

    async def __aenter__(self) -> None:
        if self._before is not None:
            _, late = await asyncio.wait([self._before], timeout=HANDLER_TIMEOUT_SECONDS)
            if late:
                logger.warning("A handler of %s still runs; not waiting for it any longer", self._session.sid)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.give_up()

    def give_up(self) -> None:
        """Let the next in line go on."""
        if not self._done.done():
            self._done.set_result(None)
        if self._line.get(self._session) is self._done:
            del self._line[self._session]


class HandlerCalls:
    """The handlers of connect and disconnect of a server."""

    def __init__(self, server: AsyncServer) -> None:
        self._server = server
        self._line: dict[Session, asyncio.Future[None]] = {}

    def slot(self, session: Session) -> HandlerSlot:
        """The next place in a session's line."""
        return HandlerSlot(self._line, session)

    async def connect(self, session: Session, connection_id: str, auth: Any) -> Any:
        """Call the connect handler; return why it refuses, or None if it does not. Raises StoreError."""
        server, refused = self._server, exceptions.ConnectionRefusedError().error_args
        environ = server.environ.get(connection_id, {})
        arguments: tuple[Any, ...] = (session.namespace, session.sid, environ)
        try:
            try:
                success = await server.call_handler("connect", *arguments, auth)
            except TypeError as first:
                if auth is not None:
                    raise
                try:  # handlers from before python-socketio 5 take no auth
                    success = await server.call_handler("connect", *arguments)
                except TypeError:
                    raise first from None
        except exceptions.ConnectionRefusedError as error:
            return error.error_args
        except ConnectionRefusedError:
            return {"message": "Connection refused by server"}
        except StoreError:
            raise
        except Exception:  # a fault of the handler concerns this client only, who must get an answer
            logger.exception("The connect handler of %s failed", session.namespace)
            return refused
        return refused if success is False else None

    async def disconnect(self, session: Session, connection_id: str | None, reason: str) -> None:
        """Call the disconnect handler."""
        departure = RunningDisconnect(session, connection_id)
        token = _departing.set(departure)
        try:
            await self._server.call_handler("disconnect", session.namespace, session.sid, reason)
        except Exception:  # a fault of the handler; the session is gone all the same
            logger.exception("The disconnect handler of %s failed", session.namespace)
        finally:
            departure.is_open = False
            _departing.reset(token)
