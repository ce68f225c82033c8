"""New sessions: opened on disk, and accepted in the same transaction without a connect handler."""

from __future__ import annotations

import asyncio
import secrets
import time
from typing import Any, Final

from socketio_eventlog.session_changes import RefusedRecovery, SessionEnd, SessionOpened
from socketio_eventstore.adapter.answers import Answers
from socketio_eventstore.adapter.application import Application
from socketio_eventstore.adapter.attempt import Attempt
from socketio_eventstore.adapter.authentication import Token
from socketio_eventstore.adapter.credentials import hash_credentials
from socketio_eventstore.adapter.departures import Departures
from socketio_eventstore.adapter.handlers import HandlerCalls
from socketio_eventstore.adapter.identity_limit import IdentityLimit
from socketio_eventstore.core.random_ids import PRIVATE_ID_BYTES, random_id
from socketio_eventstore.core.recovery import hash_pid
from socketio_eventstore.core.runtime import Runtime
from socketio_eventstore.core.session_operations import EndWithTransport, OpenAcceptedSession, OpenSession
from socketio_eventstore.core.sessions import PID_HASH_BYTES, Session
from socketio_eventstore.transport.connection import EngineConnection

MAX_FORMER_OFFSET_CHARACTERS: Final = 100
"""A longer text is no offset of the server and is not kept."""


class NewSessions:
    """Opens sessions for clients without a session, or without the right to the former session."""

    def __init__(
        self,
        application: Application,
        runtime: Runtime,
        calls: HandlerCalls,
        departures: Departures,
        identity_limit: IdentityLimit,
        answers: Answers,
    ) -> None:
        self._application = application
        self._runtime = runtime
        self._calls = calls
        self._departures = departures
        self._identity_limit = identity_limit
        self._answers = answers

    async def open(
        self,
        connection: EngineConnection,
        namespace: str,
        offset: Any,
        auth: Any,
        token: Token | None,
        refused: RefusedRecovery | None = None,
    ) -> Attempt | None:
        """Open a new session, on disk before the connect handler runs; None for a refused client."""
        if connection.place is not None and not connection.place.may_open:
            self._answers.refuse_address(connection, namespace, connection.place)
            return None
        pid, opened = self._new_session(connection, namespace, offset, auth, refused)
        more = () if token is None else token.opening(namespace, opened.sid)
        opening = OpenSession(opened, connection, more=more)
        if token is None or not self._identity_limit.is_on:
            session: Any = await self._runtime.queue.submit(opening)
        else:
            async with self._identity_limit.reserved(token.identity, opened.sid):
                session = await self._runtime.queue.submit(opening)
        attached = session.current
        if token is not None:
            token.shown_on(attached)
        attached.refusal = None if refused is None else refused.result
        if connection.closed:
            await self._runtime.queue.submit(
                EndWithTransport(session, SessionEnd.NEVER_ACCEPTED, attached.claim)
            )
            return None
        slot = self._calls.reserve(session)
        return Attempt(session, connection, attached, pid, slot, auth, token=token)

    def open_accepted(
        self, connection: EngineConnection, namespace: str, offset: Any, auth: Any
    ) -> asyncio.Future[Any]:
        """Open and accept a new session in one transaction, without a connect handler.

        Returns the future for the answer, for which a shutdown waits.
        """
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

        def finished(opening: asyncio.Future[Any]) -> None:
            try:
                self._opened_accepted(connection, namespace, opening)
            finally:
                if not answer.done():
                    answer.set_result(None)

        try:
            pid, opened = self._new_session(connection, namespace, offset, auth)
            opening = self._runtime.queue.submit(
                OpenAcceptedSession(opened, connection, pid, time.monotonic(), time.time())
            )
        except Exception as error:  # noqa: BLE001 -- a fault of the store or of the server
            self._answers.failed(connection, namespace, error)
            answer.set_result(None)
        else:
            opening.add_done_callback(finished)
            self._calls.keep(answer)
        return answer

    def _opened_accepted(
        self, connection: EngineConnection, namespace: str, opening: asyncio.Future[Session]
    ) -> None:
        if opening.cancelled():
            return
        if (error := opening.exception()) is not None:
            self._answers.failed(connection, namespace, error)
            return
        session = opening.result()
        if session.is_connected:  # the client may have left meanwhile
            self._application.accepted(session)
        elif connection.closed:
            self._departures.never_accepted(session)

    def _new_session(
        self,
        connection: EngineConnection,
        namespace: str,
        offset: Any,
        auth: Any,
        refused: RefusedRecovery | None = None,
    ) -> tuple[str | None, SessionOpened]:
        """Return the private id of a new session, None when recovery is disabled, and the change."""
        pid = random_id(PRIVATE_ID_BYTES) if self.recovers(connection, namespace) else None
        opened = SessionOpened(
            namespace,
            self._application.new_sid(),
            hash_pid(pid) if pid else secrets.token_bytes(PID_HASH_BYTES // 2),
            _former_offset(offset),
            time.time(),
            self.hash_of(connection, pid, auth) if pid else None,
            refused,
        )
        return pid, opened

    def recovers(self, connection: EngineConnection, namespace: str) -> bool:
        is_possible = self._runtime.log.is_durable and connection.takes_offsets
        return is_possible and self._application.recovers(namespace)

    def hash_of(self, connection: EngineConnection, pid: str, auth: Any) -> bytes:
        return hash_credentials(pid, auth, connection.head, self._application.own_cookie)


def _former_offset(offset: Any) -> str | None:
    if not isinstance(offset, str) or len(offset) > MAX_FORMER_OFFSET_CHARACTERS:
        return None
    return offset if offset == offset.encode(errors="ignore").decode() else None
