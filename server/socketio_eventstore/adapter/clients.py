"""The clients of a server: packets, heartbeats and transports, as reported by the transport."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Callable
from typing import Any

from socketio import packet

from socketio_eventlog.changes import Answered, Asked
from socketio_eventlog.errors import StoreError
from socketio_eventlog.session_changes import SessionEnd
from socketio_eventstore.adapter.admission import Admission
from socketio_eventstore.adapter.application import Application
from socketio_eventstore.adapter.decoder import ClientPacket, Decoder
from socketio_eventstore.adapter.departures import Departures
from socketio_eventstore.adapter.encoder import arguments_of
from socketio_eventstore.adapter.handlers import HandlerCalls
from socketio_eventstore.adapter.identity_limit import IdentityLimit
from socketio_eventstore.adapter.remote_acknowledgements import RemoteAcknowledgements
from socketio_eventstore.adapter.token_ends import TokenEnds
from socketio_eventstore.adapter.tracing import Tracing
from socketio_eventstore.core.frames import Frames
from socketio_eventstore.core.operations import SendPacket
from socketio_eventstore.core.runtime import Runtime
from socketio_eventstore.core.sessions import CONNECTED, ClientConnection, Session
from socketio_eventstore.transport.connection import EngineConnection
from socketio_eventstore.transport.inbox_owner import InvalidPacket


class Clients:
    """Acts on the packets of clients while the server is running (see ``Engine.configure``)."""

    def __init__(self, application: Application, decoder: Decoder) -> None:
        self._application = application
        self._decoder = decoder
        self.calls = HandlerCalls(application)
        self.token_ends = TokenEnds(application)
        self.admission: Admission | None = None
        """None before the start and after the stop."""
        self.departures: Departures | None = None
        self.identity_limit: IdentityLimit
        """Set by ``start``."""
        self.refused: Counter[str] = Counter()
        """The number of refused CONNECT packets by the name of the limit."""
        self._runtime: Runtime | None = None
        self.events = 0
        """The number of events of clients."""
        self._orphaned_handlers: set[asyncio.Task[None]] = set()
        """Running handlers of ended connections."""

    def start(self, runtime: Runtime) -> None:
        """Accept clients from now on. May be called again."""
        if self.admission is None:
            self._runtime = runtime
            self.calls.tracing = tracing = Tracing.configured()
            runtime.queue.effects.on_commit = None if tracing is None else tracing.committed
            self.departures = Departures(self._application, runtime, self.calls)
            limit = runtime.options.sessions_per_identity
            limits = IdentityLimit(limit, runtime.registry, self.departures, self.refused)
            self.identity_limit = limits
            ids = self._application.acknowledgements
            self._acknowledgements = RemoteAcknowledgements(runtime, ids, self.calls)
            self.admission = Admission(
                self._application,
                runtime,
                self.calls,
                self.departures,
                self.token_ends,
                limits,
                self.refused,
            )

    def stop(self) -> None:
        """Ignore the packets of clients from now on."""
        self.admission = self.departures = self._runtime = None

    async def finish(self, seconds: float) -> None:
        """Wait for all handlers, also of lost connections; cancel running handlers after ``seconds``."""
        try:
            async with asyncio.timeout(seconds):
                await self.calls.finish()
                while self._orphaned_handlers:
                    await asyncio.wait(self._orphaned_handlers)
        except TimeoutError:
            self.calls.cancel()
            for handler in self._orphaned_handlers:
                handler.cancel()

    def forget(self) -> None:
        """Forget the clients, since the event loop has ended."""
        self.stop()
        self.calls = HandlerCalls(self._application)
        self.token_ends = TokenEnds(self._application)
        self._orphaned_handlers.clear()
        self._decoder.clear()

    def is_idle(self, connection: EngineConnection) -> bool:
        """Whether a connection has joined no namespace, and waits for no answer to a CONNECT packet."""
        if connection.sessions or self.admission is None:
            return False
        return not self.admission.is_connecting(connection)

    # The listener of the core -------------------------------------------------------------------------

    def superseded(self, session: Session, connection: ClientConnection) -> None:
        """Call the disconnect handler (see ``SessionListener``)."""
        if self.departures is not None:
            self.departures.superseded(session, connection)

    def ended(
        self, session: Session, connection: ClientConnection | None, reason: SessionEnd, *, was_accepted: bool
    ) -> asyncio.Future[None] | None:
        """Call the disconnect handler of a formerly connected session (see ``SessionListener``)."""
        if self.departures is None:
            return None
        return self.departures.ended(session, connection, reason, was_accepted=was_accepted)

    def claimed_elsewhere(self, session: Session, claim: int) -> None:
        """Tell the other node when the handlers have ended (see ``SessionListener``)."""
        if self.departures is not None:
            self.departures.claimed_elsewhere(session, claim)

    def departed(self, session: Session) -> None:
        """Start the connect handlers that wait for another node (see ``SessionListener``)."""
        if self.departures is not None:
            self.departures.departed(session)

    def asked(self, node: str, asked: Asked) -> Callable[[Session], Frames]:
        """Make packets for an event of another node (see ``SessionListener``)."""
        return self._acknowledgements.asked(node, asked)

    def answered(self, answered: Answered) -> None:
        """Call this node's callback (see ``SessionListener``)."""
        self._acknowledgements.answered(answered)

    def lost(self, reason: str) -> None:
        """Join the log anew (see ``SessionListener``)."""
        self._application.lost(reason)

    async def expired(self, session: Session) -> None:
        """Call the handler of ``session_expired`` and end the session (see ``SessionListener``)."""
        await self._application.session_expired(session)

    # Callbacks of the transport -----------------------------------------------------------------------

    def connection_closed(self, connection: EngineConnection, reason: str) -> None:
        """Take the sessions off an ended transport."""
        self._decoder.forget(connection.id)
        self.token_ends.forget(connection)
        for handler in connection.handlers:  # the event loop alone would not keep the tasks alive
            self._orphaned_handlers.add(handler)
            handler.add_done_callback(self._orphaned_handlers.discard)
        running = set[asyncio.Future[Any]]()
        if self.departures is not None:
            running.update(self.departures.transport_closed(connection, reason))
        if self.admission is not None:  # connect and disconnect handlers may ask for the environ
            running.update(self.admission.answers_for(connection))
        if not running:
            self._application.environ.pop(connection.id, None)

        def ended(task: asyncio.Future[Any]) -> None:
            running.discard(task)
            if not running:  # until now the disconnect handlers could ask for the environ
                self._application.environ.pop(connection.id, None)

        for task in list(running):
            task.add_done_callback(ended)

    def ping_written(self, connection: EngineConnection) -> None:
        """Record the position of a connection's heartbeat."""
        if self._runtime is not None:
            context = self._runtime.context
            connection.ping_written(context.position, context.uptime)

    def flush(self) -> None:
        """Hand all dispatched frames to the connections."""
        if self._runtime is not None:
            self._runtime.flush_schedule.flush()

    def handle_message(self, connection: EngineConnection, data: str | bytes) -> asyncio.Task[None] | None:
        """Act on a Socket.IO packet; return the task of a started handler.

        Raises InvalidPacket; the connection is closed then.
        """
        pkt = self._decoder.add(connection.id, data)
        if pkt is None or self.admission is None or self.departures is None:
            return None
        kind, namespace, ack_id, content = pkt  # in half the time of four names
        match kind:
            case packet.EVENT | packet.BINARY_EVENT:
                session = connection.sessions.get(namespace)
                log = self._application.logger
                if session is None or session.state not in CONNECTED:
                    log.warning("%s is not connected to namespace %s", connection.id, namespace)
                    return None
                # The level of python-socketio's logger answers without a call.
                if getattr(log, "level", 0) <= logging.INFO and log.isEnabledFor(logging.INFO):
                    log.info('received event "%s" from %s [%s]', content[0], session.sid, namespace)
                self.events += 1
                handling = self._handle(connection, session, ack_id, *content)
                # asyncio.create_task would take a third longer.
                return asyncio.get_running_loop().create_task(handling)
            case packet.ACK | packet.BINARY_ACK if isinstance(content, list):
                return asyncio.get_running_loop().create_task(self._handle_ack(connection, pkt))
            case packet.CONNECT:
                self.admission.connect(connection, namespace, content)
            case packet.DISCONNECT:
                self.departures.client_disconnected(connection, namespace)
            case other:
                raise InvalidPacket(f"unexpected packet type {other!r}")
        return None

    async def _handle_ack(self, connection: EngineConnection, pkt: ClientPacket) -> None:
        """Call the callback of an acknowledgement."""
        try:
            await self._application.handle_ack(connection.id, pkt.namespace, pkt.id, pkt.data)
        except Exception as error:  # noqa: BLE001 -- a fault of the callback
            session = connection.sessions.get(pkt.namespace)
            if session is not None:
                self.calls.handler_failed("acknowledgement", session, error)

    async def _handle(
        self, connection: EngineConnection, session: Session, ack_id: int | None, event: str, *arguments: Any
    ) -> None:
        """Call the handler of a client's event and send the acknowledgement."""
        application, tracing, result = self._application, self.calls.tracing, None
        namespace = session.namespace
        try:
            if tracing is None:
                result = await application.call_event_handler(event, namespace, session.sid, *arguments)
            else:
                with tracing.event(event, session):
                    result = await application.call_event_handler(event, namespace, session.sid, *arguments)
        except asyncio.CancelledError:
            pass  # python-socketio acknowledges the event then
        except Exception as error:  # noqa: BLE001 -- a fault of the handler
            self.calls.handler_failed(event, session, error)
            return
        runtime = self._runtime
        if ack_id is None or result is application.not_handled or runtime is None:
            return
        values = () if result is None else arguments_of(result)
        try:
            frames = runtime.encoder.ack(namespace, ack_id, values)
        except Exception as error:  # noqa: BLE001 -- the handler has returned what clients cannot read
            self.calls.handler_failed(event, session, error)
            return
        try:
            runtime.queue.post(SendPacket(connection, namespace, frames))
        except StoreError as error:  # the client may repeat the event after the reconnection
            connection.abort("the acknowledgement could not be sent", str(error))
