"""The client manager: emits, rooms, and python-socketio's questions about clients."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from socketio_eventstore.adapter import encoder
from socketio_eventstore.adapter.handlers import running_disconnect_of
from socketio_eventstore.adapter.manager_emits import ManagerEmits
from socketio_eventstore.core.event_rules import check_text
from socketio_eventstore.core.handler_transaction import deferred_changes, submit_or_defer
from socketio_eventstore.core.operations import (
    CloseRoom,
    JoinRoom,
    LeaveRoom,
)
from socketio_eventstore.core.sessions import Session


class RecoveryManager(ManagerEmits):
    """A client manager that stores events and sessions for recovery.

    ``path`` is the database file, or the URL of a PostgreSQL database (``postgresql://…``); None disables
    recovery. The keyword arguments are the keys of ``[connection_state_recovery]``, ``[store]`` and
    ``[limits]`` in the configuration, and some of ``[server]``; durations are in seconds, sizes in bytes.
    ``start`` opens the store, at the latest for the first connection or emit; the server's ``shutdown``
    closes it. ``start``, a handshake and another event loop open the store again. Tests without a store use
    ``RecoveryManager(None)``.
    """

    def _generate_ack_id(self, sid: str, callback: Callable[..., Any]) -> int:
        return self.acknowledgements.issue(sid, callback)

    # Rooms ------------------------------------------------------------------------------------------

    async def enter_room(self, sid: str, namespace: str, room: Any, eio_sid: str | None = None) -> None:
        """Put a session into a room, connected or away; on disk when the call returns.

        Raises, as python-socketio does, KeyError for an unknown sid, ValueError for a namespace without
        sessions and for another session's sid as the room; and ValueError beyond rooms_per_session.
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
            return  # existing disconnect handlers tidy up, but the session must keep the rooms
        await submit_or_defer(self._running.queue, LeaveRoom(session, encoder.checked_room(room)))
        if self.server.admin_ui is not None:
            self.server.admin_ui.left(session, room)

    async def close_room(self, room: Any, namespace: str) -> None:
        """Take all sessions out of a room. Raises ValueError for the sid of a session."""
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
        """Return the rooms of a session, connected or away, including the sid."""
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

    def _session(self, sid: object, namespace: str) -> Session | None:
        return None if self.runtime is None else self.runtime.registry.get(namespace, sid)

    async def can_disconnect(self, sid: str, namespace: str) -> bool:
        """Whether there is a session to end, connected or away."""
        return self._session(sid, namespace) is not None

    def is_connected(self, sid: str | None, namespace: str) -> bool:
        """Whether the client is connected and accepted, on any node."""
        session = self._session(sid, namespace)
        return session is not None and (session.is_connected or session.is_elsewhere)

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

        Inside a disconnect handler, the id of the lost connection.
        """
        session = self._session(sid, namespace)
        if session is None:
            return None
        if (running := running_disconnect_of(session)) is not None:
            return running.connection_id
        connection = session.current.connection
        return None if connection is None else connection.id

    def get_namespaces(self) -> list[str]:
        """Return the namespaces with sessions."""
        return [] if self.runtime is None else list(self.runtime.registry.namespaces)

    def get_participants(self, namespace: str, room: Any) -> Iterator[tuple[str, str]]:
        """Iterate over the sid and the Engine.IO connection id of each connected member of a room."""
        if self.runtime is not None:
            for session in list(self.runtime.registry.members(namespace, encoder.rooms_of(room))):
                if session.current.connection is not None:
                    yield session.sid, session.current.connection.id
