"""The client manager: emits, rooms and the questions that python-socketio asks about its clients."""

from __future__ import annotations

import asyncio
import itertools
import secrets
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from socketio import AsyncManager, packet

from socketio_eventlog.errors import StoreClosed
from socketio_eventlog.records import Event
from socketio_eventstore.adapter import encoder
from socketio_eventstore.adapter.handlers import running_disconnect_of
from socketio_eventstore.adapter.server import AsyncServer
from socketio_eventstore.core import packets
from socketio_eventstore.core.handler_transaction import deferred_changes, submit_or_defer
from socketio_eventstore.core.operations import (
    CloseRoom,
    Emit,
    EmitVolatile,
    EmitWithAck,
    JoinRoom,
    LeaveRoom,
)
from socketio_eventstore.core.packets import Frames
from socketio_eventstore.core.runtime import Options, Runtime
from socketio_eventstore.core.sessions import Session, State


class RecoveryManager(AsyncManager):  # type: ignore[misc]  # python-socketio is not typed
    """A client manager that stores events and sessions, so that clients recover.

    The arguments are those of ``[connection_state_recovery]`` and ``[store]`` in the configuration:
    durations in seconds, sizes in bytes. A ``path`` of None disables recovery. The store is opened by
    ``start``, at the latest with the first connection or emit, and closed by the server's ``shutdown``.
    """

    def __init__(
        self,
        path: str | Path | None,
        *,
        synchronous: Literal["full", "normal"] = "full",
        prune_interval: float = 10.0,
        index_memory: int = 64_000_000,
        max_disconnection_duration: float = 120.0,
        skip_middlewares: bool = False,
        recover_client_disconnect: bool = True,
        max_missed_packets: int = 100_000,
        max_missed_bytes: int = 64_000_000,
        max_client_buffer: int = 4_000_000,
        websocket_compression: int = 0,
    ) -> None:
        super().__init__()
        self.options = Options(
            path=None if path is None else Path(path),
            synchronous=synchronous,
            prune_interval=prune_interval,
            index_memory=index_memory,
            max_disconnection_duration=max_disconnection_duration,
            skip_middlewares=skip_middlewares,
            recover_client_disconnect=recover_client_disconnect,
            max_missed_packets=max_missed_packets,
            max_missed_bytes=max_missed_bytes,
            max_client_buffer=max_client_buffer,
            websocket_compression=websocket_compression,
        )
        self.server: AsyncServer
        self.runtime: Runtime | None = None
        self._starting: asyncio.Future[Runtime] | None = None
        self._closed = False
        # The sid outlives a restart, so ids of acknowledgements must not begin anew with it. They stay
        # below 2**53, beyond which JavaScript cannot count.
        self._ack_ids = itertools.count(secrets.randbelow(2**21) << 31)

    def set_server(self, server: Any) -> None:
        """Take over the server that this manager was given to; called by its constructor."""
        super().set_server(server)
        heartbeat = server.eio.ping_interval + server.eio.ping_timeout
        self.options = replace(self.options, heartbeat=heartbeat)
        AsyncServer.adopt(server, self)

    async def start(self) -> Runtime:
        """Open the store, unless that is done. Raises StoreNotUsable."""
        if self.runtime is None:
            if self._closed:
                raise StoreClosed
            if self._starting is None:
                encoding = encoder.encoder_for(self.server.packet_class)
                opening = Runtime.start(self.options, encoding, self.server.session_expired)
                self._starting = asyncio.ensure_future(opening)
            starting = self._starting
            try:
                self.runtime = await asyncio.shield(starting)
            finally:
                if starting.done() and self._starting is starting:
                    self._starting = None
        return self.runtime

    async def close(self) -> None:
        """Commit everything and close the store, for good."""
        self._closed = True
        runtime, self.runtime = self.runtime, None
        if runtime is not None:
            await runtime.close()

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
        """Store an event and send it to its rooms; return its offset when it is durable.

        With a callback, or when volatile, it is sent without being stored and None is returned.
        Raises TypeError or ValueError for what cannot be sent, StoreError when it cannot be stored.
        """
        runtime = self.runtime or await self.start()
        record = self._record(runtime, event, data, namespace, to or room, skip_sid)
        if callback is not None:
            await runtime.dispatcher.submit(self._acknowledged(record, data, callback))
            return None
        if volatile:
            await runtime.dispatcher.submit(EmitVolatile(record))
            return None
        offset = await submit_or_defer(runtime.dispatcher, Emit(record))
        return offset if isinstance(offset, str) else None

    def _record(
        self, runtime: Runtime, event: str, data: Any, namespace: str, room: Any, skip_sid: Any
    ) -> Event:
        """The event as it is stored; whatever is wrong with it is said here, before it has a place."""
        if not isinstance(event, str):
            raise TypeError(f"an event's name must be str, not {type(event).__name__}")
        rooms, skip = encoder.rooms_of(room), encoder.skipped_sids(skip_sid)
        payload, attachments = self.server.encode_event(event, encoder.arguments_of(data))
        record = Event(namespace, event, payload, attachments, rooms, skip, time.time())
        limit = runtime.options.max_event_bytes
        if record.size_bytes > limit:
            raise ValueError(
                f"event {event!r} is {record.size_bytes} bytes long; at most {limit} can be sent"
            )
        if not isinstance(runtime.dispatcher.encoder, packets.TextEncoder):
            # What its serializer cannot encode must fail here, not after it was stored.
            runtime.dispatcher.encoder.event(namespace, payload, attachments, "")
        return record

    def _acknowledged(self, record: Event, data: Any, callback: Callable[..., Any]) -> EmitWithAck:
        content = [record.name, *encoder.arguments_of(data)]

        def packet_for(session: Session) -> Frames:
            ack_id = self._generate_ack_id(session.sid, callback)
            kind, namespace = packet.EVENT, record.namespace
            return encoder.frames_of(
                self.server.packet_class(kind, namespace=namespace, data=content, id=ack_id)
            )

        return EmitWithAck(record, packet_for)

    def _generate_ack_id(self, sid: str, callback: Callable[..., Any]) -> int:
        ack_id = next(self._ack_ids)
        self.callbacks.setdefault(sid, {})[ack_id] = callback
        return ack_id

    # Rooms ------------------------------------------------------------------------------------------

    async def enter_room(self, sid: str, namespace: str, room: Any, eio_sid: str | None = None) -> None:
        """Put a session into a room, connected or away; on disk when this returns.

        Raises ValueError for an unknown sid and for a room that is somebody's sid.
        """
        session = self._session(sid, namespace)
        if room != sid and self.is_sid_room(namespace, room):
            raise ValueError("cannot enter a sid room")
        if session is None:
            raise ValueError("sid is not connected to requested namespace")
        await submit_or_defer(self._running.dispatcher, JoinRoom(session, encoder.checked_room(room)))

    async def leave_room(self, sid: str, namespace: str, room: Any) -> None:
        """Take a session out of a room; what was emitted before is still for it."""
        session = self._session(sid, namespace)
        if session is None or running_disconnect_of(session) is not None:
            return  # its disconnect handler tidies up as ever, but the session is to come back whole
        await submit_or_defer(self._running.dispatcher, LeaveRoom(session, encoder.checked_room(room)))

    async def close_room(self, room: Any, namespace: str) -> None:
        """Take everybody out of a room. Raises ValueError for a room that is somebody's sid."""
        if self.is_sid_room(namespace, room):
            raise ValueError("cannot close a sid room")
        runtime = await self.start()
        await submit_or_defer(runtime.dispatcher, CloseRoom(namespace, encoder.checked_room(room)))

    def get_rooms(self, sid: str, namespace: str) -> list[Any]:
        """The rooms that a session is in, connected or away; its own is one of them."""
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

    # What python-socketio asks ----------------------------------------------------------------------

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
        return session is not None and session.state in (State.LIVE, State.REPLAYING)

    def is_sid_room(self, namespace: str, room: object) -> bool:
        """Whether the room is a session's own."""
        return self._session(room, namespace) is not None

    def sid_from_eio_sid(self, eio_sid: str, namespace: str) -> str | None:
        """The sid that an Engine.IO connection has in a namespace."""
        connection = self.server.eio.connection(eio_sid)
        session = None if connection is None else connection.sessions.get(namespace)
        return None if session is None else session.sid

    def eio_sid_from_sid(self, sid: str, namespace: str) -> str | None:
        """The Engine.IO connection of a session, None while it is away.

        A disconnect handler gets the one that was lost.
        """
        session = self._session(sid, namespace)
        if session is None:
            return None
        if (departure := running_disconnect_of(session)) is not None:
            return departure.connection_id
        return None if session.connection is None else session.connection.id

    def get_namespaces(self) -> list[str]:
        """The namespaces that have sessions."""
        return [] if self.runtime is None else list(self.runtime.registry.namespaces)

    def get_participants(self, namespace: str, room: Any) -> Iterator[tuple[str, str]]:
        """The sid and the Engine.IO connection of everyone in a room who is connected."""
        if self.runtime is not None:
            for session in list(self.runtime.registry.members(namespace, encoder.rooms_of(room))):
                if session.connection is not None:
                    yield session.sid, session.connection.id
