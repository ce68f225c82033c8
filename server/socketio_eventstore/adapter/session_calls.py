"""The calls of handlers for a session, or for the sessions of an identity, connected or away."""

from __future__ import annotations

import json
from typing import Any

import socketio
from socketio import exceptions

from socketio_eventlog.session_changes import SessionEnd
from socketio_eventstore.adapter import encoder
from socketio_eventstore.adapter.clients import Clients
from socketio_eventstore.adapter.handlers import connecting_as
from socketio_eventstore.adapter.identity_limit import PERHAPS_GONE, PerhapsGone, TooManySessions
from socketio_eventstore.adapter.manager_protocol import Manager
from socketio_eventstore.core.event_rules import check_text
from socketio_eventstore.core.handler_transaction import (
    deferred_changes,
    is_deferred,
    keep_until_stored,
    submit_or_defer,
)
from socketio_eventstore.core.operations import BindIdentity, SaveData
from socketio_eventstore.core.recovery import RecoveryResult
from socketio_eventstore.core.session_operations import EndSession, RevokeIdentity
from socketio_eventstore.core.sessions import Session
from socketio_eventstore.transport.engine import Engine


class SessionCalls(socketio.AsyncServer):  # type: ignore[misc]  # python-socketio is not typed
    """The part of ``RecoveryServer`` with the calls about sessions."""

    manager: Manager
    eio: Engine
    _clients: Clients

    def recovered(self, sid: str, namespace: str | None = None) -> bool:
        """Whether the present connection of a client recovered the session. Raises KeyError."""
        return self._known(sid, namespace).current.recovered

    def recovery_result(self, sid: str, namespace: str | None = None) -> str | None:
        """Return why the present connection of a client did, or did not, recover an earlier session.

        ``"recovered"``, the reason for a new session (see "Reasons for a new session" in the guarantees), or
        None for a client without an earlier session. Raises KeyError.
        """
        current = self._known(sid, namespace).current
        return str(RecoveryResult.RECOVERED) if current.recovered else current.refusal

    def claims(self, sid: str, namespace: str | None = None) -> dict[str, Any] | None:
        """Return the claims of the last token from a session's client to this process.

        None if no token is needed, and for a client that has not come back since the start of the server.
        Raises KeyError.
        """
        claims = connecting_as(self._known(sid, namespace)).claims
        return None if claims is None else dict(claims)

    async def get_session(self, sid: str, namespace: str | None = None) -> dict[str, Any]:
        """Return a copy of the saved data of a session, connected or away. Raises KeyError."""
        session = self._known(sid, namespace)
        saved = [change.data for change in deferred_changes(session) if isinstance(change, SaveData)]
        data: dict[str, Any] = json.loads(saved[-1] if saved else session.saving or session.data)
        return data

    async def save_session(self, sid: str, session: dict[str, Any], namespace: str | None = None) -> None:
        """Replace the saved data of a session, connected or away; on disk when the call returns.

        Raises KeyError for an unknown sid, TypeError for data other than JSON, ValueError for too much data,
        StoreError.
        """
        text = encoder.session_json(session, self.eio.max_http_buffer_size)
        runtime = await self.manager.opened()
        known = self._known(sid, namespace)
        operation = SaveData(known, text)
        if not is_deferred(operation):
            known.saving = text
        try:
            await submit_or_defer(runtime.queue, operation)
        finally:
            if known.saving is text:
                known.saving = None

    async def disconnect(self, sid: str, namespace: str | None = None, ignore_queue: bool = False) -> None:
        """End a session for good and disconnect the client, which does not come back by itself.

        A session that is away ends, too. An unknown sid is ignored. Raises StoreError.
        """
        self.manager.check_loop()
        session, departures = self._find(sid, namespace), self._clients.departures
        if session is not None and departures is not None:
            self.logger.info("Disconnecting %s [%s]", sid, session.namespace)
            await departures.end(EndSession(session, SessionEnd.DISCONNECTED))

    async def revoke(self, sid: str, namespace: str | None = None) -> None:
        """End a session for good: the private id opens nothing any more.

        A client that is away gets a new session on return. The transport of a connected client is closed; the
        client returns at once and passes the connect handler as a new client. An unknown sid is ignored.
        Raises StoreError.
        """
        self.manager.check_loop()
        session, departures = self._find(sid, namespace), self._clients.departures
        if session is not None and departures is not None:
            await departures.end(EndSession(session, SessionEnd.REVOKED))

    async def revoke_identity(self, identity: str) -> None:
        """End all sessions bound to an identity, in every namespace: a logout everywhere.

        Sessions that are away end, too; clients are treated as by ``revoke``. A single operation ends all
        sessions. Raises TypeError unless the identity is a nonempty str, ValueError for a lone surrogate,
        StoreError; then no session has ended.
        """
        if not _is_identity(identity):
            raise TypeError(f"an identity must be a str that is not empty, not {identity!r}")
        check_text(identity, "an identity")
        self._clients.start(await self.manager.opened())
        departures = self._clients.departures
        if departures is not None:
            await departures.end(RevokeIdentity(identity))

    async def bind(self, sid: str, identity: str, namespace: str | None = None) -> None:
        """Bind a session to an identity; on disk when the call returns.

        Call this in the connect handler, after authentication. When the connect handler of a reconnection
        does not bind the same identity, the client gets a new session and nothing of the old one, and the
        handler is called again. Raises KeyError for an unknown sid, TypeError unless the identity is a
        nonempty str, ValueError for a lone surrogate, StoreError, and ConnectionRefusedError in the connect
        handler of another identity, or beyond ``sessions_per_identity``; the handler must not catch the
        latter. Where clients need a token, the token binds the session, and any other identity raises
        ConnectionRefusedError.
        """
        self.manager.check_loop()
        session = self._known(sid, namespace)
        if not _is_identity(identity):
            raise TypeError(f"an identity must be a str that is not empty, not {identity!r}")
        check_text(identity, "an identity")
        attached = connecting_as(session)
        is_undecided = attached is not session.current or session.is_claimed_by(attached)
        if session.identity is not None and (is_undecided or session.token_rooms is not None):
            attached.authenticated_as = identity
            if identity != session.identity:
                raise exceptions.ConnectionRefusedError("the session belongs to another identity")
            return
        runtime = await self.manager.opened()
        self._clients.start(runtime)
        binding = BindIdentity(session, attached, identity)
        limit = self._clients.identity_limit
        if not limit.is_on or identity == session.identity:
            await submit_or_defer(runtime.queue, binding)
            return
        try:
            release = await limit.reserve(identity, session.sid)
        except TooManySessions as error:
            reason = error.reason
            raise exceptions.ConnectionRefusedError(reason["message"], reason["data"]) from None
        except PerhapsGone:
            if is_undecided and attached.connection is not None:  # without CONNECT_ERROR: it comes back
                attached.connection.abort(PERHAPS_GONE)
            raise exceptions.ConnectionRefusedError(PERHAPS_GONE) from None
        if keep_until_stored(binding, release):
            await submit_or_defer(runtime.queue, binding)
            return
        try:
            await submit_or_defer(runtime.queue, binding)
        finally:
            release()

    def _find(self, sid: str, namespace: str | None) -> Session | None:
        runtime = self.manager.runtime
        return None if runtime is None else runtime.registry.get(namespace or "/", sid)

    def _known(self, sid: str, namespace: str | None) -> Session:
        session = self._find(sid, namespace)
        if session is None:
            raise KeyError(f"no session {sid!r} in namespace {namespace or '/'!r}")
        return session


def _is_identity(value: object) -> bool:
    return isinstance(value, str) and value != ""
