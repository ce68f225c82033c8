"""The conversation with a client after the commit of the session: connect handler, acceptance or refusal."""

from __future__ import annotations

import time
from typing import Any

from socketio_eventlog.session_changes import SessionEnd
from socketio_eventstore.adapter.answers import Answers
from socketio_eventstore.adapter.application import Application
from socketio_eventstore.adapter.attempt import NOT_ASKED, Attempt, Decision, Outcome
from socketio_eventstore.adapter.departures import Departures
from socketio_eventstore.adapter.handlers import HandlerCalls
from socketio_eventstore.adapter.token_ends import TokenEnds
from socketio_eventstore.core.handler_transaction import Reservations, handler_transaction
from socketio_eventstore.core.operation import Operation
from socketio_eventstore.core.operations import SessionOperation
from socketio_eventstore.core.recovery import RecoveryResult
from socketio_eventstore.core.runtime import Runtime
from socketio_eventstore.core.session_operations import (
    ENDED_MEANWHILE,
    AcceptSession,
    EndSession,
    RefuseSession,
    ResumeSession,
)
from socketio_eventstore.core.sessions import CONNECTED, State


class Conversation:
    """Asks the connect handler about each attempt, and carries out the decision."""

    def __init__(
        self,
        application: Application,
        runtime: Runtime,
        calls: HandlerCalls,
        departures: Departures,
        token_ends: TokenEnds,
        answers: Answers,
    ) -> None:
        self._application = application
        self._runtime = runtime
        self._calls = calls
        self._departures = departures
        self._token_ends = token_ends
        self._answers = answers

    async def hold(self, attempt: Attempt) -> Outcome:
        """Ask the connect handler and carry out the decision, when this attempt is next for the session."""
        outcome, session = Outcome.SUPERSEDED, attempt.session
        # The client may leave meanwhile. The disconnect handler must find the session, and the connect
        # handler's data and rooms, to clean up.
        session.running_disconnect_handlers += 1
        try:
            if attempt.slot.before is not None:
                await attempt.slot.wait()
            if session.departing and attempt.is_current:
                await self._departures.departed_elsewhere(session, lambda: attempt.is_current)
            if attempt.is_current and not attempt.connection.closed:
                is_early = self._application.always_connect and not attempt.attached.recovered
                outcome = await (self._admit_before_handler if is_early else self._admit)(attempt)
        finally:
            attempt.slot.release()
            if attempt.reservations is not None:
                attempt.reservations.release()
            self._departures.handler_ended(session)
            if outcome is not Outcome.ACCEPTED:
                self._application.forget_callbacks(session.sid)
        return outcome

    async def _admit(self, attempt: Attempt) -> Outcome:
        if self._application.handles("connect", attempt.session.namespace):
            decision = await self._ask_handler(attempt)
        else:
            decision = (
                Decision(None, attempt.renewal, handler_was_called=False) if attempt.renewal else NOT_ASKED
            )
        if _is_other_identity(attempt, decision) and attempt.is_current:
            is_last_claim = await self._return_to_owner(attempt)
            return Outcome.OTHER_IDENTITY if is_last_claim else Outcome.SUPERSEDED
        if decision.refusal is not None:
            await self._refuse(attempt, decision.refusal)
            return Outcome.REFUSED
        if await self._accept(attempt, decision):
            return Outcome.ACCEPTED
        return self._explain_end(attempt)

    async def _admit_before_handler(self, attempt: Attempt) -> Outcome:
        """Accept first and ask afterwards (``always_connect``); a refusal is a DISCONNECT packet.

        A recovered session belongs to its owner, and only the connect handler can identify the owner.
        Recovered sessions are therefore never accepted first.
        """
        if not await self._accept(attempt, NOT_ASKED):
            return Outcome.SUPERSEDED
        refusal = await self._call_handler(attempt)
        if refusal is None:
            return Outcome.ACCEPTED
        await self._runtime.queue.submit(EndSession(attempt.session, SessionEnd.DISCONNECTED))
        return Outcome.REFUSED

    async def _ask_handler(self, attempt: Attempt) -> Decision:
        session = attempt.session
        if not attempt.attached.recovered:
            return Decision(await self._call_handler(attempt))
        # Without a token, only the connect handler can tell whether the client owns a bound session.
        is_known = session.identity is None or attempt.token is not None
        if self._runtime.options.skip_middlewares and is_known:
            return Decision(deferred=attempt.renewal, handler_was_called=False)
        # A refusal leaves the session as before.
        attempt.reservations = Reservations()
        with handler_transaction(only=session, reservations=attempt.reservations) as deferred:
            deferred += attempt.renewal  # the handler sees the new rooms
            refusal = await self._call_handler(attempt)
        return Decision(refusal, [change for change in deferred if isinstance(change, SessionOperation)])

    async def _call_handler(self, attempt: Attempt) -> Any:
        connection_id = attempt.connection.id
        return await self._calls.connect(attempt.session, attempt.attached, connection_id, attempt.auth)

    async def _accept(self, attempt: Attempt, decision: Decision) -> bool:
        session, attached, accepted = attempt.session, attempt.attached, False
        try:
            may_end = attempt.needs_proof_of_life or attached.expires_at is not None
            if not may_end or await self._may_accept(attempt):
                now = attached.connected_at = time.time()
                attached.accepted_at = time.monotonic()
                acceptance: Operation
                if attached.recovered:
                    assert attempt.pid is not None  # the client has named the session by its pid
                    deferred, missed = decision.deferred, attempt.missed
                    acceptance = ResumeSession(session, attached, attempt.pid, now, deferred, missed)
                else:
                    acceptance = AcceptSession(session, attached, attempt.pid)
                accepted = bool(await self._runtime.queue.submit(acceptance))
        finally:
            if not accepted and decision.handler_was_called:  # the application counts the client as connected
                reason = self._application.reason.TRANSPORT_CLOSE
                await self._calls.disconnect(session, attempt.connection.id, reason)
        if accepted and attached.recovered:
            self._runtime.recovery.count(RecoveryResult.RECOVERED, session.sid)
        if accepted and session.state in CONNECTED:  # the client may have left meanwhile
            self._application.accepted(session)
            if attempt.token is not None:
                self._token_ends.watch(attempt.connection)
        return accepted

    async def _may_accept(self, attempt: Attempt) -> bool:
        if attempt.needs_proof_of_life and not await attempt.connection.answers_ping():
            return False
        attached = attempt.attached  # its token may have ended while the connect handler ran
        if attached.is_over(time.time()):
            attempt.connection.abort(ENDED_MEANWHILE)
            return False
        return True

    async def _refuse(self, attempt: Attempt, refusal: Any) -> None:
        session = attempt.session
        if attempt.attached.recovered:
            self._runtime.recovery.count(RecoveryResult.REFUSED, session.sid)
        error = self._application.connect_error(session.namespace, refusal)
        refusing = RefuseSession(session, attempt.attached, error, time.time(), RecoveryResult.REFUSED)
        await self._runtime.queue.submit(refusing)

    async def _return_to_owner(self, attempt: Attempt) -> bool:
        """Leave the session to the owner, unchanged, without an answer to the client.

        Return whether the client may get a new session: no other client has claimed the session meanwhile.
        """
        session = attempt.session
        self._runtime.recovery.count(RecoveryResult.REFUSED, session.sid)
        refusal = RefuseSession(session, attempt.attached, None, time.time(), RecoveryResult.REFUSED)
        return bool(await self._runtime.queue.submit(refusal)) or session.state is State.ENDED

    def _explain_end(self, attempt: Attempt) -> Outcome:
        """Answer a client after the application ended the session during the connect handler."""
        session = attempt.session
        if session.state is not State.ENDED:
            return Outcome.SUPERSEDED
        if session.disconnected_by_server:  # a refusal for the client
            error = self._application.connect_error(session.namespace, {"message": "Unable to connect"})
            self._answers.send(attempt.connection, session.namespace, error)
        else:
            attempt.connection.abort("the session was revoked while the client connected")
        return Outcome.ENDED


def _is_other_identity(attempt: Attempt, decision: Decision) -> bool:
    """Whether the client of a recovered session authenticated as another identity, or as none."""
    attached = attempt.attached
    if not attached.recovered or attempt.session.identity == attached.authenticated_as:
        return False
    return decision.refusal is None or attached.authenticated_as is not None
