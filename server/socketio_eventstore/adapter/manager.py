"""The client manager: emits, rooms, and the questions of python-socketio about its clients."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, TypedDict, Unpack

from socketio import AsyncManager

from socketio_eventlog.errors import StoreClosed
from socketio_eventlog.opening import is_url
from socketio_eventlog.records import Event
from socketio_eventstore.adapter import encoder
from socketio_eventstore.adapter.acknowledgements import AcknowledgementIds, current_call
from socketio_eventstore.adapter.handlers import running_disconnect_of
from socketio_eventstore.adapter.publishing import Message
from socketio_eventstore.adapter.server import RecoveryServer
from socketio_eventstore.core.commit_queue import CommitQueue
from socketio_eventstore.core.event_rules import check_event_name, check_names, check_text
from socketio_eventstore.core.frames import Frames
from socketio_eventstore.core.handler_transaction import deferred_changes, submit_or_defer
from socketio_eventstore.core.operations import (
    CloseRoom,
    Emit,
    EmitVolatile,
    EmitWithAck,
    JoinRoom,
    LeaveRoom,
)
from socketio_eventstore.core.options import Options
from socketio_eventstore.core.packets import TextEncoder
from socketio_eventstore.core.runtime import Runtime
from socketio_eventstore.core.sessions import Session

LARGE_BYTES = 20_000
"""The size of an event whose encoding keeps others waiting, if a handler emits many in a row."""


class RecoveryArguments(TypedDict, total=False):
    """The keyword arguments of ``RecoveryManager``: the fields of ``Options``, where the defaults are."""

    synchronous: Literal["full", "normal"]
    retention: float
    prune_interval: float
    index_memory: int
    max_size: int
    file_mode: int
    session_history: bool
    max_disconnection_duration: float
    skip_middlewares: bool
    recover_client_disconnect: bool
    offsets: Literal["auto", "always"]
    max_missed_packets: int
    max_missed_bytes: int
    max_client_buffer: int
    max_attachments: int
    websocket_compression: int
    connections: int
    pending_handshakes: int
    connections_per_address: int
    handshakes_per_address: int
    events_per_second: float
    bytes_per_second: float
    sessions_per_identity: int
    namespaces_per_connection: int
    rooms_per_session: int
    allowed_hosts: Sequence[str] | None
    trusted_proxies: Sequence[str]


class RecoveryManager(AsyncManager):  # type: ignore[misc]  # python-socketio is not typed
    """A client manager that stores events and sessions, so that clients recover.

    ``path`` is the database file, or the URL of a PostgreSQL database (``postgresql://…``); None disables
    recovery. The keyword arguments are the keys of
    ``[connection_state_recovery]``, ``[store]`` and ``[limits]`` in the configuration, and some of
    ``[server]``; durations are in seconds, sizes
    in bytes. ``start`` opens the store, at the latest for the first connection or emit; the server's
    ``shutdown`` closes it. ``start``, a handshake and another event loop open it again. Tests that need no
    store take ``RecoveryManager(None)``.
    """

    server: RecoveryServer

    def __init__(self, path: str | Path | None, **arguments: Unpack[RecoveryArguments]) -> None:
        super().__init__()
        if isinstance(path, str) and is_url(path):
            self.options = Options(path=None, url=path, **arguments)
        else:
            self.options = Options(path=None if path is None else Path(path), **arguments)
        self._max_event_bytes = self.options.max_event_bytes
        self.runtime: Runtime | None = None
        self._starting: asyncio.Future[Runtime] | None = None
        self._is_closed = False
        self._closing: asyncio.Future[None] | None = None
        self.reopens = True
        """Whether ``start`` opens the store again after ``close``; a program that ends sets False."""
        self._loop: asyncio.AbstractEventLoop | None = None
        self.acknowledgements = AcknowledgementIds(self.callbacks)
        self.refused_rooms = 0
        """The number of rooms that were refused because of ``rooms_per_session``."""

    def set_server(self, server: Any) -> None:
        """Set up the server that was given this manager; called by the constructor of the server.

        Raises TypeError for a server without event loop, RuntimeError for a second server, for an
        ``async_mode`` without recovery, and for a python-socketio without the methods that it needs.
        """
        RecoveryServer.check(server)
        if self.server is not None:
            raise RuntimeError(
                "this RecoveryManager belongs to another server; each server needs one of its own"
            )
        super().set_server(server)
        heartbeat = server.eio.ping_interval + server.eio.ping_timeout
        self.options = replace(self.options, heartbeat=heartbeat)
        RecoveryServer.adopt(server, self)

    def check_loop(self) -> None:
        """Move to the running event loop if the server's loop has ended.

        Raises RuntimeError while the server's loop is running in another thread: no result would arrive.
        """
        loop = asyncio.get_running_loop()
        if loop is self._loop:
            return
        if self._loop is not None and self._loop.is_running():
            raise RuntimeError(
                "this call runs on another event loop than the server; from another thread, call "
                "asyncio.run_coroutine_threadsafe(sio.emit(…), loop) with the loop of the server"
            )
        self._loop = loop
        self._is_closed, self._starting, self._closing = False, None, None
        runtime, self.runtime = self.runtime, None
        if runtime is not None:  # the loop ended before the shutdown of the server, as in test suites
            runtime.log.abandon()
        self.callbacks.clear()
        self.server.forget_clients()

    async def start(self, lock_timeout_seconds: float | None = None) -> Runtime:
        """Open the store, unless it is open, also after ``close``.

        While another server has the database, the call waits for its end: for 10 seconds, or for
        ``lock_timeout_seconds``. Raises StoreNotUsable, RuntimeError on another event loop, StoreClosed
        unless ``reopens``.
        """
        self.check_loop()
        if self.reopens:
            self._is_closed = False
        return await self.opened(lock_timeout_seconds)

    async def opened(self, lock_timeout_seconds: float | None = 0.0) -> Runtime:
        """Open the store for the first call on this event loop; a call after ``close`` is too late.

        By default the call does not wait for the end of another server: in an application with several
        workers, every request to all but one of them would wait. Raises StoreClosed after ``close``, and as
        ``start``.
        """
        self.check_loop()
        if self.runtime is None:
            if self._is_closed:
                raise StoreClosed
            if self._starting is None:
                self._starting = asyncio.ensure_future(self._open(lock_timeout_seconds))
            starting = self._starting
            try:
                self.runtime = await asyncio.shield(starting)
            finally:
                if starting.done() and self._starting is starting:
                    self._starting = None
        return self.runtime

    async def _open(self, lock_timeout_seconds: float | None) -> Runtime:
        if self._closing is not None:
            await asyncio.wait([self._closing])
        encoding = encoder.encoder_for(self.server.packet_class, self.options.max_attachments)
        return await Runtime.start(
            self.options, encoding, self.server.listener, lock_timeout_seconds=lock_timeout_seconds
        )

    async def close(self) -> None:
        """Commit everything and close the store, until the next ``start``."""
        self._is_closed = True
        runtime, self.runtime = self.runtime, None
        if runtime is not None:
            self._closing = asyncio.ensure_future(runtime.close())
            await asyncio.shield(self._closing)

    # Emits ------------------------------------------------------------------------------------------

    async def emit(
        self,
        event: str,
        data: Any,
        namespace: str,
        room: Any = None,
        skip_sid: Any = None,
        callback: Callable[..., Any] | None = None,
        to: Any = None,
        volatile: bool = False,
        **kwargs: Any,
    ) -> str | None:
        """Store an event and send it to its rooms; return the offset when the event is durable.

        With a callback, or when volatile, the event is sent without being stored and None is returned.
        Raises TypeError or ValueError for an event that cannot be sent, StoreError for one that cannot be
        stored.
        """
        return await self.begin_emit(event, data, namespace, room, skip_sid, callback, to, volatile)

    usual_emit = staticmethod(emit)

    def begin_emit(
        self,
        event: str,
        data: Any,
        namespace: str,
        room: Any = None,
        skip_sid: Any = None,
        callback: Callable[..., Any] | None = None,
        to: Any = None,
        volatile: bool = False,
    ) -> Awaitable[str | None]:
        """Begin ``emit``, a coroutine less for each event; the result is that of ``emit``.

        The call itself gives the event its place in the order, if the store is open. Raises as ``emit``.
        """
        if asyncio.get_running_loop() is not self._loop:
            self.check_loop()
        addressed, runtime = room if to is None else to, self.runtime
        if runtime is None:
            return self._emit_when_opened(event, data, namespace, addressed, skip_sid, callback, volatile)
        operation = self._emit_of(runtime, event, data, namespace, addressed, skip_sid, callback, volatile)
        if operation.is_stored and operation.size_bytes < LARGE_BYTES and self.server.admin_ui is None:
            return submit_or_defer(runtime.queue, operation)  # the usual event, without a coroutine
        return self._submit_emit(runtime, operation)

    async def _emit_when_opened(self, *arguments: Any) -> str | None:
        runtime = await self.opened()
        return await self._submit_emit(runtime, self._emit_of(runtime, *arguments))

    async def _submit_emit(
        self, runtime: Runtime, operation: Emit | EmitVolatile | EmitWithAck
    ) -> str | None:
        submit = submit_or_defer if operation.is_stored else CommitQueue.submit
        offset: str | None = await submit(runtime.queue, operation)
        if offset is None and operation.size_bytes >= LARGE_BYTES:
            await asyncio.sleep(0)  # nothing else has let others run in a loop over such events
        admin_ui = self.server.admin_ui
        if admin_ui is not None:
            await admin_ui.emitted(runtime, operation.event)
        return offset

    def _emit_of(
        self,
        runtime: Runtime,
        event: str,
        data: Any,
        namespace: str,
        room: Any,
        skip_sid: Any,
        callback: Callable[..., Any] | None,
        volatile: bool,
    ) -> Emit | EmitVolatile | EmitWithAck:
        """Make the operation of an emit. Every error is raised here, before the event has an offset."""
        if not isinstance(event, str):
            check_event_name(event)
        check_names(event, namespace)
        rooms = encoder.rooms_of(room)
        skip = () if skip_sid is None else encoder.skipped_sids(skip_sid)
        encoding = runtime.encoder
        payload, attachments = encoding.payload([event, *encoder.arguments_of(data)])
        if payload[:2] != '["':
            raise ValueError(f"the server's json made {payload[:20]!r} of an array of strings")
        # An event as ``Event(...)``, without the function that a named tuple calls.
        record = tuple.__new__(Event, (namespace, event, payload, attachments, rooms, skip, time.time()))
        operation: Emit | EmitVolatile | EmitWithAck
        if callback is not None:
            operation = self._with_ack(runtime, record, callback)
        elif volatile or (self.server.admin_ui is not None and not self.server.recovers(namespace)):
            operation = EmitVolatile(record)
        else:
            operation = Emit(record)
        if operation.size_bytes > self._max_event_bytes:
            raise ValueError(
                f"event {event!r} is {operation.size_bytes} bytes long; "
                f"at most {self._max_event_bytes} can be sent"
            )
        if not isinstance(encoding, TextEncoder):
            # A value that the serializer cannot encode must fail here, not after the commit.
            encoding.event(namespace, payload, attachments, "")
        return operation

    def event_of(self, runtime: Runtime, message: Message) -> Event:
        """Make the event of a publisher as stored. Raises TypeError or ValueError."""
        arguments = tuple(message.arguments)
        emit = self._emit_of(
            runtime, message.event, arguments, message.namespace, message.rooms, message.skip, None, True
        )
        return emit.event

    def _with_ack(self, runtime: Runtime, record: Event, callback: Callable[..., Any]) -> EmitWithAck:
        namespace, encode = record.namespace, runtime.encoder.event
        call = current_call.get()

        def packet_for(session: Session) -> Frames:
            ack_id = self.acknowledgements.issue(session.sid, callback, call)
            return encode(namespace, record.payload, record.attachments, None, ack_id)

        return EmitWithAck(record, packet_for)

    def _generate_ack_id(self, sid: str, callback: Callable[..., Any]) -> int:
        return self.acknowledgements.issue(sid, callback)

    # Rooms ------------------------------------------------------------------------------------------

    async def enter_room(self, sid: str, namespace: str, room: Any, eio_sid: str | None = None) -> None:
        """Put a session into a room, connected or away; on disk when the call returns.

        Raises, as python-socketio does, KeyError for an unknown sid, ValueError for a namespace without
        sessions and for a room that is the sid of another session; and ValueError beyond rooms_per_session.
        """
        self.check_loop()
        session = self._session(sid, namespace)
        if room != sid and self.is_sid_room(namespace, room):
            raise ValueError("cannot enter a sid room")
        if session is None:
            if namespace in self.get_namespaces():
                raise KeyError(sid)
            raise ValueError("sid is not connected to requested namespace")
        limit = self.options.rooms_per_session
        if len(session.joined) >= limit and room not in session.joined:
            self.refused_rooms += 1
            raise ValueError(f"the session {sid} is in {limit} rooms, which is the limit rooms_per_session")
        await submit_or_defer(self._running.queue, JoinRoom(session, encoder.checked_room(room)))
        if self.server.admin_ui is not None:
            self.server.admin_ui.joined(session, room)

    async def leave_room(self, sid: str, namespace: str, room: Any) -> None:
        """Take a session out of a room; events emitted before are still for the session."""
        self.check_loop()
        session = self._session(sid, namespace)
        if session is None or running_disconnect_of(session) is not None:
            return  # existing disconnect handlers tidy up, but the session is to come back with its rooms
        await submit_or_defer(self._running.queue, LeaveRoom(session, encoder.checked_room(room)))
        if self.server.admin_ui is not None:
            self.server.admin_ui.left(session, room)

    async def close_room(self, room: Any, namespace: str) -> None:
        """Take all sessions out of a room. Raises ValueError for a room that is the sid of a session."""
        if self.is_sid_room(namespace, room):
            raise ValueError("cannot close a sid room")
        check_text(namespace, "a namespace")
        closing = CloseRoom(namespace, encoder.checked_room(room))
        runtime = await self.opened()
        members = list(runtime.registry.members(namespace, (closing.room,)))
        await submit_or_defer(runtime.queue, closing)
        if self.server.admin_ui is not None:
            for session in members:
                self.server.admin_ui.left(session, room)

    def get_rooms(self, sid: str, namespace: str) -> list[Any]:
        """Return the rooms of a session, connected or away; the sid is one of them."""
        session = self._session(sid, namespace)
        if session is None:
            return []
        joined = dict(session.joined)
        for operation in deferred_changes(session):
            if isinstance(operation, JoinRoom):
                joined[operation.room] = 0
            elif isinstance(operation, LeaveRoom | CloseRoom):
                joined.pop(operation.room, None)
        return [session.sid, *joined]

    # Questions of python-socketio ---------------------------------------------------------------------

    @property
    def _running(self) -> Runtime:
        if self.runtime is None:
            raise RuntimeError("the event store is not open; await start() first")
        return self.runtime

    def _session(self, sid: object, namespace: str) -> Session | None:
        return None if self.runtime is None else self.runtime.registry.get(namespace, sid)

    async def can_disconnect(self, sid: str, namespace: str) -> bool:
        """Whether there is a session to end, connected or away."""
        return self._session(sid, namespace) is not None

    def is_connected(self, sid: str | None, namespace: str) -> bool:
        """Whether the client is connected and accepted."""
        session = self._session(sid, namespace)
        return session is not None and session.is_connected

    def is_sid_room(self, namespace: str, room: object) -> bool:
        """Whether the room is the sid of a session."""
        return self._session(room, namespace) is not None

    def sid_from_eio_sid(self, eio_sid: str, namespace: str) -> str | None:
        """Return the sid of an Engine.IO connection in a namespace."""
        connection = self.server.eio.connection(eio_sid)
        session = None if connection is None else connection.sessions.get(namespace)
        return None if session is None else session.sid

    def eio_sid_from_sid(self, sid: str, namespace: str) -> str | None:
        """Return the Engine.IO connection id of a session, None while the client is away.

        Inside a disconnect handler this is the id of the lost connection.
        """
        session = self._session(sid, namespace)
        if session is None:
            return None
        if (running := running_disconnect_of(session)) is not None:
            return running.connection_id
        connection = session.current.connection
        return None if connection is None else connection.id

    def get_namespaces(self) -> list[str]:
        """Return the namespaces that have sessions."""
        return [] if self.runtime is None else list(self.runtime.registry.namespaces)

    def get_participants(self, namespace: str, room: Any) -> Iterator[tuple[str, str]]:
        """Iterate over the sid and the Engine.IO connection id of each connected member of a room."""
        if self.runtime is not None:
            for session in list(self.runtime.registry.members(namespace, encoder.rooms_of(room))):
                if session.current.connection is not None:
                    yield session.sid, session.current.connection.id
