"""How clients come: CONNECT, recovery or a new session, the connect handler, acceptance or refusal.

A session is on disk before the connect handler runs. Nothing is written to the client before the handler
accepts the client. Operations decide everything in between (see ``session_operations``), so every decision
has a single place in the order of the log.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Mapping
from functools import partial
from typing import Any, Final

from socketio_eventlog.session_changes import RefusedRecovery
from socketio_eventstore.adapter.answers import Answers
from socketio_eventstore.adapter.application import Application
from socketio_eventstore.adapter.attempt import Outcome
from socketio_eventstore.adapter.authentication import KeysNotAvailable, Token, TokenRefused
from socketio_eventstore.adapter.claims import Claims
from socketio_eventstore.adapter.conversation import Conversation
from socketio_eventstore.adapter.departures import Departures
from socketio_eventstore.adapter.handlers import HandlerCalls
from socketio_eventstore.adapter.identity_limit import (
    PERHAPS_GONE,
    IdentityLimit,
    PerhapsGone,
    TooManySessions,
)
from socketio_eventstore.adapter.new_sessions import NewSessions
from socketio_eventstore.adapter.token_ends import TokenEnds
from socketio_eventstore.core.event_rules import MAX_NAME_CHARACTERS
from socketio_eventstore.core.recovery import RecoveryResult, hash_pid
from socketio_eventstore.core.runtime import Runtime
from socketio_eventstore.transport.connection import EngineConnection

NAMESPACES: Final = "namespaces_per_connection"
"""The name of a limit."""
_NONE: Final[Mapping[str, Any]] = {}


class Admission:
    """Connects clients to new and recovered sessions."""

    def __init__(
        self,
        application: Application,
        runtime: Runtime,
        calls: HandlerCalls,
        departures: Departures,
        token_ends: TokenEnds,
        identity_limit: IdentityLimit,
        refused: Counter[str],
    ) -> None:
        """``refused`` counts the CONNECT packets beyond a limit, by the name of the limit."""
        self._application = application
        self._runtime = runtime
        self._calls = calls
        self._refused = refused
        self._answers = Answers(application, runtime, calls, refused)
        self._new_sessions = NewSessions(
            application, runtime, calls, departures, identity_limit, self._answers
        )
        self._claims = Claims(runtime, calls, self._new_sessions)
        self._conversation = Conversation(application, runtime, calls, departures, token_ends, self._answers)
        self._connecting: dict[str, dict[str, asyncio.Future[Any]]] = {}
        """The pending answers to connections: by connection id, then by namespace."""

    def connect(self, connection: EngineConnection, namespace: str, auth: Any) -> None:
        """Answer a CONNECT packet; in a separate task if the answer may have to wait."""
        if len(namespace) > MAX_NAME_CHARACTERS or not self._application.serves(namespace):
            error = self._application.connect_error(namespace, {"message": "Invalid namespace"})
            self._answers.send(connection, namespace, error)
            return
        pid = auth.get("pid") if isinstance(auth, dict) else None
        if connection.place is not None and not connection.place.is_joined:
            connection.place.is_extra = not connection.place.may_join
            if connection.place.is_extra and not self._opens(namespace, pid):
                self._answers.refuse_address(connection, namespace, connection.place)
                return
            connection.place.join()
        connection.ask_for_namespace()
        sessions, connecting = connection.sessions, self._connecting.get(connection.id, _NONE)
        if namespace in sessions or namespace in connecting:
            # After a CONNECT_ERROR the client would drop a socket that the server still uses. The reference
            # closes the transport, too (socket.io 4.8, Client.ondecoded, "invalid state").
            connection.close_after_flush(self._application.reason.TRANSPORT_ERROR)
            return
        limit = self._runtime.options.namespaces_per_connection
        # A namespace may be in both for a moment.
        if len(sessions) + len(connecting) >= limit and len(sessions.keys() | connecting.keys()) >= limit:
            self._refused[NAMESPACES] += 1
            reason = {"message": "Too many namespaces", "data": {"code": NAMESPACES}}
            self._answers.send(connection, namespace, self._application.connect_error(namespace, reason))
            return
        pid, offset = None, None
        if isinstance(auth, dict) and self._new_sessions.recovers(connection, namespace):
            auth = auth.copy()
            pid, offset = auth.pop("pid", None), auth.pop("offset", None)
        if pid is None and connection.place is not None and not connection.place.may_open:
            self._answers.refuse_address(connection, namespace, connection.place)
            return
        answer: asyncio.Future[Any]
        if pid is None and self._accepts_all(namespace):
            answer = self._new_sessions.open_accepted(connection, namespace, offset, auth or None)
        else:
            begun = asyncio.get_running_loop().time()
            answer = self._calls.start(self._answer(connection, namespace, pid, offset, auth or None, begun))
        if not answer.done():  # with asyncio.eager_task_factory, the task may have ended
            self._connecting.setdefault(connection.id, {})[namespace] = answer
            answer.add_done_callback(partial(self._answered, connection, namespace))

    def _accepts_all(self, namespace: str) -> bool:
        """Whether nothing asks the clients of a namespace who they are."""
        application = self._application
        return not application.needs_token(namespace) and not application.handles("connect", namespace)

    def _opens(self, namespace: str, pid: object) -> bool:
        """Whether a private id opens a session of a namespace."""
        session = self._runtime.registry.with_pid(hash_pid(pid)) if isinstance(pid, str) else None
        return session is not None and session.namespace == namespace

    def _answered(self, connection: EngineConnection, namespace: str, _: asyncio.Future[Any]) -> None:
        answers = self._connecting[connection.id]
        del answers[namespace]
        if not answers:
            del self._connecting[connection.id]

    def is_connecting(self, connection: EngineConnection) -> bool:
        """Whether a CONNECT packet of the connection waits for the answer."""
        return connection.id in self._connecting

    def answers_for(self, connection: EngineConnection) -> list[asyncio.Future[Any]]:
        """Return the futures for the answers to CONNECT packets of the connection."""
        return list(self._connecting.get(connection.id, {}).values())

    async def _answer(
        self, connection: EngineConnection, namespace: str, pid: Any, offset: Any, auth: Any, begun: float
    ) -> None:
        try:
            token = None
            if self._application.needs_token(namespace):
                token = await self._check_token(connection, namespace, auth)
                if token is None or connection.closed:
                    return
            attempt = await self._claims.claim(connection, namespace, pid, offset, auth, token, begun)
            while attempt is not None:
                outcome = await self._conversation.hold(attempt)
                if outcome is not Outcome.OTHER_IDENTITY or connection.closed:
                    break
                refused = RefusedRecovery(RecoveryResult.REFUSED, attempt.session.sid)
                attempt = await self._new_sessions.open(
                    connection, namespace, attempt.offset, attempt.auth, attempt.token, refused
                )
        except TooManySessions as error:
            refusal = self._application.connect_error(namespace, error.reason)
            self._answers.send(connection, namespace, refusal)
        except PerhapsGone:  # without CONNECT_ERROR: the client then comes back by itself
            connection.abort(PERHAPS_GONE)
        except Exception as error:  # noqa: BLE001 -- a fault of the store or of the server
            self._answers.failed(connection, namespace, error)

    async def _check_token(self, connection: EngineConnection, namespace: str, auth: Any) -> Token | None:
        """Return the valid token of a client; None for an answered client."""
        authentication = self._application.authentication
        assert authentication is not None  # a namespace needs a token
        try:
            token = await authentication.check(auth, namespace)
            if any(self._runtime.registry.get(namespace, room) is not None for room in token.rooms):
                authentication.refused["token_invalid"] += 1
                raise TokenRefused("token_invalid", "The token names the room of a session")
        except TokenRefused as refusal:
            error = self._application.connect_error(namespace, refusal.reason)
            self._answers.send(connection, namespace, error)
            return None
        except KeysNotAvailable:  # without CONNECT_ERROR: the client then comes back by itself
            connection.abort("the keys for tokens are not available")
            return None
        return token
