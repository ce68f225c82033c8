"""How clients come: CONNECT, recovery or a new session, the connect handler, acceptance or refusal.

A session is on disk before the connect handler runs. Nothing is written to the client before the handler
accepts the client. Operations decide everything in between (see ``session_operations``), so every decision
has one place in the order of the log.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum, auto
from functools import partial
from typing import Any, Final

from socketio_eventlog.errors import StoreError
from socketio_eventlog.records import RefusedRecovery, SessionEnd, SessionOpened
from socketio_eventstore.adapter.application import Application
from socketio_eventstore.adapter.authentication import KeysNotAvailable, Token, TokenRefused
from socketio_eventstore.adapter.credentials import hash_credentials
from socketio_eventstore.adapter.departures import Departures
from socketio_eventstore.adapter.handlers import HandlerCalls, HandlerSlot
from socketio_eventstore.adapter.identity_limit import (
    PERHAPS_GONE,
    IdentityLimit,
    PerhapsGone,
    TooManySessions,
)
from socketio_eventstore.adapter.token_ends import TokenEnds
from socketio_eventstore.adapter.token_renewal import renewal
from socketio_eventstore.core.event_rules import MAX_NAME_CHARACTERS
from socketio_eventstore.core.frames import Frames
from socketio_eventstore.core.handler_transaction import Reservations, handler_transaction
from socketio_eventstore.core.operation import Operation
from socketio_eventstore.core.operations import CatchUp, SendPacket, SessionOperation
from socketio_eventstore.core.random_ids import PRIVATE_ID_BYTES, random_id
from socketio_eventstore.core.recovery import AuthHash, Cursor, RecoveryResult, hash_pid
from socketio_eventstore.core.runtime import Runtime
from socketio_eventstore.core.session_operations import (
    ENDED_MEANWHILE,
    AcceptSession,
    ClaimSession,
    EndSession,
    EndWithTransport,
    OpenAcceptedSession,
    OpenSession,
    RefuseSession,
    ResumeSession,
)
from socketio_eventstore.core.sessions import PID_HASH_BYTES, Session, SessionConnection, State
from socketio_eventstore.transport.address_limits import CONNECTIONS, AddressPlace
from socketio_eventstore.transport.connection import EngineConnection

logger = logging.getLogger(__name__)

MAX_FORMER_OFFSET_CHARACTERS: Final = 100
"""A longer text is no offset of this server and is not kept."""


PROMPT_CLAIM_SECONDS: Final = 1.0
"""A claim that takes longer may come after a newer one of the same client, which has waited less."""


REFUSED_SECONDS: Final = 2.0
"""How long a connection stays open after its address had too many."""
NAMESPACES: Final = "namespaces_per_connection"
"""The name of a limit."""


class Outcome(Enum):
    """The end of the conversation with a client that sent CONNECT."""

    ACCEPTED = auto()
    """CONNECT was sent."""
    REFUSED = auto()
    """The connect handler has refused, and the client was told so."""
    OTHER_IDENTITY = auto()
    """The client does not own the session that the private id opens, and is to get a new session."""
    SUPERSEDED = auto()
    """Another connection has claimed the session, or the connection was closed."""
    ENDED = auto()
    """The application ended the session while the client connected."""


@dataclass(eq=False, slots=True)
class Attempt:
    """A session that a connection has claimed, until the connect handler has decided."""

    session: Session
    connection: EngineConnection
    attached: SessionConnection
    pid: str | None
    """The private id; None when recovery is disabled."""
    slot: HandlerSlot
    """The reserved slot in the handler calls of the session."""
    auth: Any
    """The ``auth`` of the client without pid and offset; None when nothing is left."""
    offset: object = None
    """The offset that the client sent, and goes on sending until an event arrives."""
    token: Token | None = None
    """The token that the client has shown, where one is needed."""
    renewal: Sequence[SessionOperation] = ()
    """What the token changes in a recovered session."""
    needs_proof_of_life: bool = False
    """Whether the claim took so long that the client may have a newer connection."""
    missed: int = 0
    """The number of missed events, at most."""
    reservations: Reservations | None = None
    """What the connect handler of a recovered session has reserved, until the end of the conversation."""

    @property
    def is_current(self) -> bool:
        """Whether no other connection has claimed the session since."""
        return self.session.current is self.attached


@dataclass(frozen=True, slots=True)
class _Claim:
    """A client that wants its session back."""

    session: Session
    connection: EngineConnection
    pid: str
    offset: object
    auth: Any
    auth_hash: AuthHash
    token: Token | None
    begun: float
    """The time at which the CONNECT packet came, on the event loop's clock, in seconds."""


@dataclass(frozen=True, slots=True)
class Decision:
    """The answer of the connect handler."""

    refusal: Any = None
    """The reason of a refusal, for CONNECT_ERROR; None when the handler has accepted."""
    deferred: Sequence[SessionOperation] = ()
    """The changes of a recovered session that the handler asked for."""
    handler_was_called: bool = True


_NOT_ASKED: Final = Decision(handler_was_called=False)


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
        """``refused`` counts the CONNECT packets beyond a limit, by its name."""
        self._application = application
        self._runtime = runtime
        self._calls = calls
        self._departures = departures
        self._failures = calls.failures
        self._token_ends = token_ends
        self._identity_limit = identity_limit
        self._refused = refused
        self._connecting: dict[str, dict[str, asyncio.Future[Any]]] = {}
        """The answers that connections wait for: by connection id, then by namespace."""

    def connect(self, connection: EngineConnection, namespace: str, auth: Any) -> None:
        """Answer a CONNECT packet; in a task of its own where there may be something to wait for."""
        if len(namespace) > MAX_NAME_CHARACTERS or not self._application.serves(namespace):
            error = self._application.connect_error(namespace, {"message": "Invalid namespace"})
            self._send(connection, namespace, error)
            return
        pid = auth.get("pid") if isinstance(auth, dict) else None
        if connection.place is not None and not connection.place.is_joined:
            connection.place.is_extra = not connection.place.may_join
            if connection.place.is_extra and not self._opens(namespace, pid):
                self._refuse_address(connection, namespace, connection.place)
                return
            connection.place.join()
        connection.is_pending = False
        if namespace in connection.sessions or namespace in self._connecting.get(connection.id, ()):
            # After a CONNECT_ERROR the client would drop a socket that the server goes on sending to. The
            # reference closes the transport, too (socket.io 4.8, Client.ondecoded, "invalid state").
            connection.close_after_flush(self._application.reason.TRANSPORT_ERROR)
            return
        if self._has_all_namespaces(connection):
            self._refused[NAMESPACES] += 1
            reason = {"message": "Too many namespaces", "data": {"code": NAMESPACES}}
            self._send(connection, namespace, self._application.connect_error(namespace, reason))
            return
        pid, offset = None, None
        if self._recovers(connection, namespace) and isinstance(auth, dict):
            pid, offset = auth.get("pid"), auth.get("offset")
            auth = {key: value for key, value in auth.items() if key not in ("pid", "offset")}
        if pid is None and connection.place is not None and not connection.place.may_open:
            self._refuse_address(connection, namespace, connection.place)
            return
        answer: asyncio.Future[Any]
        is_open = not self._application.needs_token(namespace)
        if pid is None and is_open and not self._application.handles("connect", namespace):
            answer = self._open_accepted(connection, namespace, offset, auth or None)
        else:
            answer = self._calls.start(self._answer(connection, namespace, pid, offset, auth or None))
        if not answer.done():  # where tasks begin at once (asyncio.eager_task_factory), it may be over
            self._connecting.setdefault(connection.id, {})[namespace] = answer
            answer.add_done_callback(partial(self._answered, connection, namespace))

    def _has_all_namespaces(self, connection: EngineConnection) -> bool:
        joined, connecting = connection.sessions, self._connecting.get(connection.id)
        limit = self._runtime.options.namespaces_per_connection
        if connecting is None or len(joined) + len(connecting) < limit:
            return len(joined) >= limit
        return len(joined.keys() | connecting.keys()) >= limit  # a namespace may be in both for a moment

    def _opens(self, namespace: str, pid: object) -> bool:
        """Whether a private id opens a session of a namespace."""
        session = self._runtime.registry.with_pid(hash_pid(pid)) if isinstance(pid, str) else None
        return session is not None and session.namespace == namespace

    def _refuse_address(self, connection: EngineConnection, namespace: str, place: AddressPlace) -> None:
        """Refuse a client whose address has too many connections, and close its own soon.

        Not at once: a client that polls fetches the answer with its next request.
        """
        self._refused[CONNECTIONS] += 1
        reason = {"message": "Too many connections from this address", "data": {"code": CONNECTIONS}}
        self._send(connection, namespace, self._application.connect_error(namespace, reason))
        if not place.is_refused:
            place.is_refused = True
            end, loop = self._application.reason.SERVER_DISCONNECT, asyncio.get_running_loop()
            loop.call_later(REFUSED_SECONDS, _close_unless_used, connection, end)

    def _answered(self, connection: EngineConnection, namespace: str, _: asyncio.Future[Any]) -> None:
        answers = self._connecting[connection.id]
        del answers[namespace]
        if not answers:
            del self._connecting[connection.id]

    def is_connecting(self, connection: EngineConnection) -> bool:
        """Whether a CONNECT packet of this connection waits for the answer."""
        return connection.id in self._connecting

    def answers_for(self, connection: EngineConnection) -> list[asyncio.Future[Any]]:
        """Return the futures for the answers to CONNECT packets of this connection."""
        return list(self._connecting.get(connection.id, {}).values())

    async def _answer(
        self, connection: EngineConnection, namespace: str, pid: Any, offset: Any, auth: Any
    ) -> None:
        try:
            token = None
            if self._application.needs_token(namespace):
                token = await self._check_token(connection, namespace, auth)
                if token is None or connection.closed:
                    return
            attempt = await self._claim(connection, namespace, pid, offset, auth, token)
            while attempt is not None:
                outcome = await self._converse(attempt)
                if outcome is not Outcome.OTHER_IDENTITY or connection.closed:
                    break
                refused = RefusedRecovery(RecoveryResult.REFUSED, attempt.session.sid)
                attempt = await self._open(
                    connection, namespace, attempt.offset, attempt.auth, attempt.token, refused
                )
        except TooManySessions as error:
            self._send(connection, namespace, self._application.connect_error(namespace, error.reason))
        except PerhapsGone:  # without CONNECT_ERROR, so that the client comes back by itself
            connection.abort(PERHAPS_GONE)
        except Exception as error:  # noqa: BLE001 -- a fault of the store or of the server
            self._failed(connection, namespace, error)

    async def _check_token(self, connection: EngineConnection, namespace: str, auth: Any) -> Token | None:
        """Return the valid token of a client; None for a client that has got its answer."""
        authentication = self._application.authentication
        assert authentication is not None  # a namespace needs a token
        try:
            token = await authentication.check(auth, namespace)
            if any(self._runtime.registry.get(namespace, room) is not None for room in token.rooms):
                authentication.refused["token_invalid"] += 1
                raise TokenRefused("token_invalid", "The token names the room of a session")
        except TokenRefused as refusal:
            error = self._application.connect_error(namespace, refusal.reason)
            self._send(connection, namespace, error)
            return None
        except KeysNotAvailable:  # without CONNECT_ERROR, so that the client comes back by itself
            connection.abort("the keys for tokens are not available")
            return None
        return token

    def _failed(self, connection: EngineConnection, namespace: str, error: BaseException) -> None:
        """End a connection whose CONNECT could not be answered; without CONNECT_ERROR, so that it returns."""
        text = f"{connection.id} could not connect to {namespace}"
        if isinstance(error, StoreError):
            self._failures.failed(type(error).__name__, f"{text}. {error}")
            connection.abort("the store is not available")
        else:
            self._failures.failed(type(error).__name__, text, error=error)
            connection.abort("CONNECT could not be answered")

    # Claiming a session -----------------------------------------------------------------------------

    async def _claim(
        self,
        connection: EngineConnection,
        namespace: str,
        pid: Any,
        offset: Any,
        auth: Any,
        token: Token | None,
    ) -> Attempt | None:
        """Claim the session of a private id, or open a new one; None when the connection is closed."""
        if pid is not None:
            recovery, begun = self._runtime.recovery, asyncio.get_running_loop().time()
            auth_hash = partial(self._hash_of, connection, pid, auth)
            named = recovery.session_of(namespace, pid)  # before it may end
            found = await self._find(namespace, pid, offset, auth_hash)
            if isinstance(found, Session) and token is not None and found.identity != token.identity:
                found = RecoveryResult.REFUSED  # before the claim: the owner does not notice
            if connection.closed:
                return None
            answer: Attempt | RecoveryResult | None = (
                await self._decide_on(_Claim(found, connection, pid, offset, auth, auth_hash, token, begun))
                if isinstance(found, Session)
                else found
            )
            if connection.closed:
                return None
            if answer is None or isinstance(answer, Attempt):
                return answer
            recovery.count(answer, found.sid if isinstance(found, Session) else None)
            refused = RefusedRecovery(str(answer), *_names(named or found, pid))
            return await self._open(connection, namespace, offset, auth, token, refused)
        return await self._open(connection, namespace, offset, auth, token)

    async def _decide_on(self, claim: _Claim) -> Attempt | RecoveryResult | None:
        tracing = self._calls.tracing
        if tracing is None:
            return await self._take_over(claim)
        with tracing.recovery(claim.session.namespace) as span:
            answer = await self._take_over(claim)
            result = RecoveryResult.RECOVERED if isinstance(answer, Attempt) else answer
            span.set_attribute("socketio.result", str(result or "superseded"))
        return answer

    async def _find(
        self, namespace: str, pid: Any, offset: Any, auth_hash: AuthHash
    ) -> Session | RecoveryResult:
        """Find the session of a private id, although this node may be behind the one that had the client."""
        recovery, context = self._runtime.recovery, self._runtime.context
        found = recovery.find(namespace, pid, offset, context.uptime, auth_hash)
        if isinstance(found, RecoveryResult) and await self._catch_up():
            found = recovery.find(namespace, pid, offset, context.uptime, auth_hash)
        return found

    async def _catch_up(self) -> bool:
        """Apply what other nodes have appended until now; return whether there are other nodes."""
        if not self._runtime.context.nodes.others:
            return False
        await self._runtime.queue.submit(CatchUp())
        return True

    def _recovers(self, connection: EngineConnection, namespace: str) -> bool:
        is_possible = self._runtime.is_enabled and connection.takes_offsets
        return is_possible and self._application.recovers(namespace)

    async def _take_over(self, claim: _Claim) -> Attempt | RecoveryResult | None:
        """Claim a session, and decide with everything that was appended before the claim.

        After a decision other than a recovery, no client has the session, and the owner may come back.
        Return None after another claim: the outcome of that claim ends this connection, too.
        """
        runtime, session = self._runtime, claim.session
        if session.state is not State.AWAY:  # a client without prospects must not disturb the owner
            prospect = await self._decide(claim)
            if isinstance(prospect, RecoveryResult) and await self._catch_up():
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
            Reservations(),
        )

    async def _renew(
        self, claim: _Claim, token: Token, attached: SessionConnection
    ) -> list[SessionOperation]:
        token.shown_on(attached)
        context = self._runtime.context
        return await renewal(claim.session, token, context.log, context.position)

    async def _decide(self, claim: _Claim) -> int | RecoveryResult:
        context = self._runtime.context
        return await self._runtime.recovery.decide(
            claim.session,
            claim.offset,
            context.position,
            partial(getattr, context.nodes, "uptime"),
            claim.auth_hash,
        )

    async def _open(
        self,
        connection: EngineConnection,
        namespace: str,
        offset: Any,
        auth: Any,
        token: Token | None,
        refused: RefusedRecovery | None = None,
    ) -> Attempt | None:
        """Open a new session, on disk before the connect handler runs; None for a client that may not."""
        if connection.place is not None and not connection.place.may_open:
            self._refuse_address(connection, namespace, connection.place)
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

    def _open_accepted(
        self, connection: EngineConnection, namespace: str, offset: Any, auth: Any
    ) -> asyncio.Future[Any]:
        """Open and accept a new session in one transaction: there is no handler that could refuse it.

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
            self._failed(connection, namespace, error)
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
            self._failed(connection, namespace, error)
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
        pid = random_id(PRIVATE_ID_BYTES) if self._recovers(connection, namespace) else None
        opened = SessionOpened(
            namespace,
            self._application.new_sid(),
            hash_pid(pid) if pid else secrets.token_bytes(PID_HASH_BYTES // 2),
            _former_offset(offset),
            time.time(),
            self._hash_of(connection, pid, auth) if pid else None,
            refused,
        )
        return pid, opened

    def _hash_of(self, connection: EngineConnection, pid: str, auth: Any) -> bytes:
        return hash_credentials(pid, auth, connection.head, self._application.own_cookie)

    # The conversation -------------------------------------------------------------------------------

    async def _converse(self, attempt: Attempt) -> Outcome:
        """Ask the connect handler and carry out the decision, once it is the turn of this attempt."""
        outcome, session = Outcome.SUPERSEDED, attempt.session
        # The client may leave meanwhile. Its disconnect handler must find the session, and what the connect
        # handler has saved and joined, to clean up.
        session.running_disconnect_handlers += 1
        try:
            if attempt.slot.has_predecessor:
                await attempt.slot.wait()
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
        decision = await self._ask_handler(attempt)
        if attempt.is_current and _is_other_identity(attempt, decision):
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

        A recovered session belongs to its owner, and only the connect handler can tell whether this client
        is the owner. Recovered sessions are therefore never accepted first.
        """
        if not await self._accept(attempt, _NOT_ASKED):
            return Outcome.SUPERSEDED
        refusal = await self._call_handler(attempt)
        if refusal is None:
            return Outcome.ACCEPTED
        await self._runtime.queue.submit(EndSession(attempt.session, SessionEnd.DISCONNECTED))
        return Outcome.REFUSED

    async def _ask_handler(self, attempt: Attempt) -> Decision:
        session = attempt.session
        if not self._application.handles("connect", session.namespace):
            return Decision(deferred=attempt.renewal, handler_was_called=False)
        if not attempt.attached.recovered:
            return Decision(await self._call_handler(attempt))
        # Without a token, only the connect handler can tell whether the client owns a bound session.
        is_known = session.identity is None or attempt.token is not None
        if self._runtime.options.skip_middlewares and is_known:
            return Decision(deferred=attempt.renewal, handler_was_called=False)
        # A refusal leaves the session as before.
        with handler_transaction(only=session, reservations=attempt.reservations) as deferred:
            deferred += attempt.renewal  # the handler sees the new rooms
            refusal = await self._call_handler(attempt)
        return Decision(refusal, [change for change in deferred if isinstance(change, SessionOperation)])

    async def _call_handler(self, attempt: Attempt) -> Any:
        connection_id = attempt.connection.id
        return await self._calls.connect(attempt.session, attempt.attached, connection_id, attempt.auth)

    async def _accept(self, attempt: Attempt, decision: Decision) -> bool:
        session, accepted = attempt.session, False
        try:
            if await self._may_accept(attempt):
                acceptance = self._acceptance(attempt, decision.deferred)
                accepted = bool(await self._runtime.queue.submit(acceptance))
        finally:
            if not accepted and decision.handler_was_called:  # the application counts the client as connected
                reason = self._application.reason.TRANSPORT_CLOSE
                await self._calls.disconnect(session, attempt.connection.id, reason)
        if accepted and attempt.attached.recovered:
            self._runtime.recovery.count(RecoveryResult.RECOVERED, session.sid)
        if accepted and session.is_connected:  # the client may have left meanwhile
            self._application.accepted(session)
            if attempt.token is not None:
                self._token_ends.watch(attempt.connection)
        return accepted

    async def _may_accept(self, attempt: Attempt) -> bool:
        if attempt.needs_proof_of_life and not await attempt.connection.answers_ping():
            return False
        if attempt.attached.is_over(time.time()):  # the connect handler took longer than the token lasted
            attempt.connection.abort(ENDED_MEANWHILE)
            return False
        return True

    def _acceptance(self, attempt: Attempt, deferred: Sequence[SessionOperation]) -> Operation:
        session, attached = attempt.session, attempt.attached
        attached.accepted_at, attached.connected_at = time.monotonic(), time.time()
        if not attached.recovered:
            return AcceptSession(session, attached, attempt.pid)
        assert attempt.pid is not None  # the client has named the session by it
        return ResumeSession(session, attached, attempt.pid, time.time(), deferred, attempt.missed)

    async def _refuse(self, attempt: Attempt, refusal: Any) -> None:
        session = attempt.session
        if attempt.attached.recovered:
            self._runtime.recovery.count(RecoveryResult.REFUSED, session.sid)
        error = self._application.connect_error(session.namespace, refusal)
        refusing = RefuseSession(session, attempt.attached, error, time.time(), RecoveryResult.REFUSED)
        await self._runtime.queue.submit(refusing)

    async def _return_to_owner(self, attempt: Attempt) -> bool:
        """Leave the session to the owner, unchanged, without an answer to the client.

        Return whether this client may get a new session: no other one has claimed this session meanwhile.
        """
        session = attempt.session
        self._runtime.recovery.count(RecoveryResult.REFUSED, session.sid)
        refusal = RefuseSession(session, attempt.attached, None, time.time(), RecoveryResult.REFUSED)
        return bool(await self._runtime.queue.submit(refusal)) or session.state is State.ENDED

    def _explain_end(self, attempt: Attempt) -> Outcome:
        """Answer a client whose session the application ended during the connect handler."""
        session = attempt.session
        if session.state is not State.ENDED:
            return Outcome.SUPERSEDED
        if session.disconnected_by_server:  # for the client this is a refusal
            error = self._application.connect_error(session.namespace, {"message": "Unable to connect"})
            self._send(attempt.connection, session.namespace, error)
        else:
            attempt.connection.abort("the session was revoked while the client connected")
        return Outcome.ENDED

    def _send(self, connection: EngineConnection, namespace: str, frames: Frames) -> None:
        try:
            self._runtime.queue.enqueue(SendPacket(connection, namespace, frames))
        except StoreError as error:
            text = f"CONNECT of {connection.id} could not be answered. {error}"
            self._failures.failed("answer", text)


def _close_unless_used(connection: EngineConnection, reason: str) -> None:
    """Close a connection whose address has too many, unless a session was recovered on it."""
    if not connection.sessions:
        connection.close_after_flush(reason)


def _is_other_identity(attempt: Attempt, decision: Decision) -> bool:
    """Whether the client of a recovered session authenticated as another identity, or as none."""
    attached = attempt.attached
    if not attached.recovered or attempt.session.identity == attached.authenticated_as:
        return False
    return decision.refusal is None or attached.authenticated_as is not None


def _names(asked: object, pid: object) -> tuple[str | None, bytes | None]:
    """Return the names of the session that a client asked for: its sid, or else what the log may know."""
    sid = asked.sid if isinstance(asked, Session) else None
    return sid, hash_pid(pid) if sid is None and isinstance(pid, str) else None


def _former_offset(offset: Any) -> str | None:
    if not isinstance(offset, str) or len(offset) > MAX_FORMER_OFFSET_CHARACTERS:
        return None
    return offset if offset == offset.encode(errors="ignore").decode() else None
