"""Claims of stored sessions: the session of a private id, and the decision about its recovery."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable
from functools import partial
from typing import Any, Final

from socketio_eventlog.session_changes import RefusedRecovery
from socketio_eventstore.adapter.attempt import Attempt, Claim
from socketio_eventstore.adapter.authentication import Token
from socketio_eventstore.adapter.catching_up import catch_up
from socketio_eventstore.adapter.handlers import HandlerCalls
from socketio_eventstore.adapter.new_sessions import NewSessions
from socketio_eventstore.adapter.token_renewal import renewal
from socketio_eventstore.adapter.tracing import Tracing
from socketio_eventstore.core.operations import SessionOperation
from socketio_eventstore.core.recovery import Cursor, RecoveryResult, hash_pid
from socketio_eventstore.core.runtime import Runtime
from socketio_eventstore.core.session_operations import (
    ClaimSession,
    RefuseSession,
)
from socketio_eventstore.core.sessions import Session, SessionConnection, State
from socketio_eventstore.transport.connection import EngineConnection

PROMPT_CLAIM_SECONDS: Final = 1.0
"""A claim that takes longer may come after a newer claim of the same client with a shorter wait."""


class Claims:
    """Claims the sessions requested by clients."""

    def __init__(self, runtime: Runtime, calls: HandlerCalls, new_sessions: NewSessions) -> None:
        self._runtime = runtime
        self._calls = calls
        self._new_sessions = new_sessions

    async def claim(
        self,
        connection: EngineConnection,
        namespace: str,
        pid: Any,
        offset: Any,
        auth: Any,
        token: Token | None,
        begun: float,
    ) -> Attempt | None:
        """Claim the session of a private id, or open a new session; None for a closed connection.

        ``begun`` is as in ``Claim``: the check of the token may have waited for keys.
        """
        if pid is None:
            return await self._new_sessions.open(connection, namespace, offset, auth, token)
        recovery, nodes = self._runtime.recovery, self._runtime.context.nodes
        auth_hash = partial(self._new_sessions.hash_of, connection, pid, auth)
        found = recovery.find(namespace, pid, offset, nodes.uptime, auth_hash)
        # The requested session, before its possible end.
        named = found if isinstance(found, Session) else recovery.session_of(namespace, pid)
        if isinstance(found, RecoveryResult) and await catch_up(self._runtime):
            found = recovery.find(namespace, pid, offset, nodes.uptime, auth_hash)
        if isinstance(found, Session) and token is not None and found.identity != token.identity:
            found = RecoveryResult.REFUSED  # before the claim: the owner does not notice
        if connection.closed:
            return None
        answer: Attempt | RecoveryResult | None
        if isinstance(found, RecoveryResult):
            answer = found
        else:
            claim = Claim(found, connection, pid, offset, auth, auth_hash, token, begun)
            if (tracing := self._calls.tracing) is None:
                answer = await self._take_over(claim)
            else:
                answer = await self._take_over_traced(claim, tracing)
        if connection.closed:
            return None
        if answer is None or isinstance(answer, Attempt):
            return answer
        recovery.count(answer, found.sid if isinstance(found, Session) else None)
        refused = RefusedRecovery(str(answer), *_names(named or found, pid))
        return await self._new_sessions.open(connection, namespace, offset, auth, token, refused)

    async def _take_over_traced(self, claim: Claim, tracing: Tracing) -> Attempt | RecoveryResult | None:
        with tracing.recovery(claim.session.namespace) as span:
            answer = await self._take_over(claim)
            result = RecoveryResult.RECOVERED if isinstance(answer, Attempt) else answer
            span.set_attribute("socketio.result", str(result or "superseded"))
        return answer

    async def _take_over(self, claim: Claim) -> Attempt | RecoveryResult | None:
        """Claim a session, and decide with all changes from before the claim.

        After a decision other than a recovery, no client has the session, and the owner may come back. Return
        None after another claim: the outcome of the other claim ends this connection, too.
        """
        runtime, session = self._runtime, claim.session
        if session.state is not State.AWAY:  # a client without prospects must not disturb the owner
            prospect = await self._decide(claim)
            if isinstance(prospect, RecoveryResult) and await catch_up(self._runtime):
                prospect = await self._decide(claim)
            if isinstance(prospect, RecoveryResult):
                return prospect
        attached: Any = await runtime.queue.submit(ClaimSession(session, claim.connection))
        if attached is None:
            return RecoveryResult.UNKNOWN_SESSION
        slot = self._calls.reserve(session)
        answer: int | RecoveryResult = RecoveryResult.UNKNOWN_SESSION
        is_last_claim, renewed = True, list[SessionOperation]()
        try:
            decided = await self._decide(claim)
            if isinstance(decided, int):
                attached.sent = int(decided)
                if claim.token is not None:
                    renewed = await self._renew(claim, claim.token, attached)
            answer = decided
        finally:
            if not isinstance(answer, int) or claim.connection.closed:
                slot.release()
                result = str(answer) if isinstance(answer, RecoveryResult) else None
                refusing = RefuseSession(session, attached, None, time.time(), result)
                is_last_claim = bool(await runtime.queue.submit(refusing))
        if not isinstance(answer, int):
            return answer if is_last_claim or session.state is State.ENDED else None
        is_slow = asyncio.get_running_loop().time() - claim.begun > PROMPT_CLAIM_SECONDS
        return Attempt(
            session,
            claim.connection,
            attached,
            claim.pid,
            slot,
            claim.auth,
            claim.offset,
            claim.token,
            renewed,
            is_slow,
            answer.missed if isinstance(answer, Cursor) else 0,
        )

    async def _renew(self, claim: Claim, token: Token, attached: SessionConnection) -> list[SessionOperation]:
        token.shown_on(attached)
        context = self._runtime.context
        return await renewal(claim.session, token, context.log, context.position)

    def _decide(self, claim: Claim) -> Awaitable[int | RecoveryResult]:
        context = self._runtime.context
        return self._runtime.recovery.decide(
            claim.session,
            claim.offset,
            context.recent_events.position,
            partial(getattr, context.nodes, "uptime"),
            claim.auth_hash,
        )


def _names(asked: object, pid: object) -> tuple[str | None, bytes | None]:
    """Return the names of the requested session: the sid, or else the hash for the log."""
    sid = asked.sid if isinstance(asked, Session) else None
    return sid, hash_pid(pid) if sid is None and isinstance(pid, str) else None
