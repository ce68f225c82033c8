"""All sessions before their end, by sid, by room and by private id; and the live sessions of this node.

Sessions that are away, and sessions of other nodes, are included: rooms can be changed meanwhile, and
questions cover all sessions. Events go only to the live sessions of this node, which have a separate index:
other sessions cost an event nothing.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from itertools import chain, islice
from typing import Final

from socketio_eventlog.events import Room
from socketio_eventstore.core.sessions import ClientConnection, Session, State

LOOKED_AT: Final = 100
"""The members of a room to check for a session on another node."""
_Live = dict[str, ClientConnection]
"""The connections of live sessions, by sid."""


class Registry:
    """The sessions of all namespaces. Pure state without I/O."""

    def __init__(self) -> None:
        self.namespaces: dict[str, dict[str, Session]] = {}
        self.rooms: dict[tuple[str, Room], dict[Session, None]] = {}
        self._by_pid: dict[bytes, Session] = {}
        self._by_identity: dict[str, dict[Session, None]] = {}
        self._live: dict[tuple[str, Room | None], _Live] = {}
        """By namespace and room; None stands for the whole namespace."""

    def __iter__(self) -> Iterator[Session]:
        return chain.from_iterable(map(dict[str, Session].values, self.namespaces.values()))

    def add(self, session: Session) -> None:
        """Add a session with the joined rooms."""
        self.namespaces.setdefault(session.namespace, {})[session.sid] = session
        self._by_pid[session.pid_hash] = session
        if session.identity is not None:
            self.bind(session, session.identity)
        for room in session.joined:
            self.rooms.setdefault((session.namespace, room), {})[session] = None

    def remove(self, session: Session) -> None:
        """Forget a session without a connection; events for the sid reach no client from now on."""
        sessions = self.namespaces.get(session.namespace, {})
        if sessions.pop(session.sid, None) is None:
            return
        if not sessions:
            del self.namespaces[session.namespace]
        del self._by_pid[session.pid_hash]
        self._unbind(session)
        for room in session.joined:
            self._drop(session, room)

    def get(self, namespace: str, sid: object) -> Session | None:
        """Return the session with a sid, on any node."""
        return self.namespaces.get(namespace, {}).get(sid) if isinstance(sid, str) else None

    def with_pid(self, pid_hash: bytes) -> Session | None:
        """Return the session of a private id, in any namespace; None after the session's end."""
        session = self._by_pid.get(pid_hash)
        return None if session is None or session.state is State.ENDED else session

    def bind(self, session: Session, identity: str) -> None:
        """Bind a session to an identity."""
        self._unbind(session)
        session.identity = identity
        self._by_identity.setdefault(identity, {})[session] = None

    def of_identity(self, identity: str) -> list[Session]:
        """Return the sessions of an identity in all namespaces, connected or away."""
        return list(self._by_identity.get(identity, ()))

    def _unbind(self, session: Session) -> None:
        bound = None if session.identity is None else self._by_identity.get(session.identity)
        if session.identity is not None and bound is not None:
            bound.pop(session, None)
            if not bound:
                del self._by_identity[session.identity]

    # Connections of this node -------------------------------------------------------------------------

    def go_live(self, session: Session) -> None:
        """Let a session receive every event at its effect, after the end of the replay."""
        session.move(State.LIVE)
        namespace, sid, connection = session.namespace, session.sid, session.current.connection
        if connection is not None:
            for room in (None, *session.joined):
                self._live.setdefault((namespace, room), {})[sid] = connection

    def detach(self, session: Session) -> ClientConnection | None:
        """Take a session off the connection, which falls silent for the namespace; return the connection."""
        if session.state is State.LIVE:
            for room in (None, *session.joined):
                self._drop_live(session, room)
        return session.detach()

    def recipients(
        self, namespace: str, rooms: Sequence[Room] | None, skip: Sequence[str] = ()
    ) -> Collection[ClientConnection]:
        """Return the connections of the live sessions of an address, each once, without skipped sids.

        ``rooms``: None stands for the whole namespace; a sid is a room, too.
        """
        everyone = self._live.get((namespace, None))
        if everyone is None:
            return ()
        found = everyone if rooms is None else self._live_in(namespace, rooms, everyone)
        if skip:
            return [connection for sid, connection in found.items() if sid not in skip]
        return list(found.values())  # a copy: a write may take a session off its connection

    def has_recipients(self, namespace: str, rooms: Sequence[Room] | None) -> bool:
        """Whether there are recipients of an address, skipped sids included."""
        live = self._live
        everyone = live.get((namespace, None))
        if everyone is None or rooms is None:
            return everyone is not None
        return any((namespace, room) in live or room in everyone for room in rooms)

    def _live_in(self, namespace: str, rooms: Sequence[Room], everyone: _Live) -> _Live:
        no_sessions: _Live = {}
        if len(rooms) == 1 and rooms[0] not in everyone:
            return self._live.get((namespace, rooms[0]), no_sessions)
        found = dict[str, ClientConnection]()
        for room in rooms:
            found.update(self._live.get((namespace, room), no_sessions))
            if isinstance(room, str) and room in everyone:
                found[room] = everyone[room]
        return found

    def _drop_live(self, session: Session, room: Room | None) -> None:
        key = (session.namespace, room)
        members = self._live.get(key)
        if members is not None:
            members.pop(session.sid, None)
            if not members:
                del self._live[key]

    # Rooms ------------------------------------------------------------------------------------------

    def enter(self, session: Session, room: Room, position: int) -> None:
        """Put a session into a room for the events after the position."""
        session.enter(room, position)
        self.rooms.setdefault((session.namespace, room), {})[session] = None
        connection = session.current.connection
        if session.state is State.LIVE and connection is not None:
            self._live.setdefault((session.namespace, room), {})[session.sid] = connection

    def leave(self, session: Session, room: Room, position: int) -> None:
        """Take a session out of a room; events up to the position are still for the session."""
        session.leave(room, position)
        self._drop(session, room)
        if session.state is State.LIVE:
            self._drop_live(session, room)

    def members(self, namespace: str, rooms: Sequence[Room] | None) -> Iterable[Session]:
        """Return the sessions in any of the rooms, each once; None stands for the whole namespace.

        A sid is a room, too.
        """
        sessions = self.namespaces.get(namespace, {})
        if rooms is None:
            return sessions.values()
        if len(rooms) == 1 and rooms[0] not in sessions:
            return self.rooms.get((namespace, rooms[0]), {})
        found: dict[Session, None] = {}
        for room in rooms:
            if isinstance(room, str) and (own := sessions.get(room)) is not None:
                found[own] = None
            found.update(self.rooms.get((namespace, room), {}))
        return found

    def may_have_elsewhere(self, namespace: str, rooms: Sequence[Room] | None) -> bool:
        """Whether a session in any of the rooms may be connected to another node.

        Checks a few members: in a larger room a member on another node is likely, and a wrong answer costs
        little.
        """
        members = iter(self.members(namespace, rooms))
        looked_at = list(islice(members, LOOKED_AT))
        if any(session.is_elsewhere for session in looked_at):
            return True
        return next(members, None) is not None

    def _drop(self, session: Session, room: Room) -> None:
        members = self.rooms.get((session.namespace, room))
        if members is not None:
            members.pop(session, None)
            if not members:
                del self.rooms[session.namespace, room]
