"""All sessions that are not over, connected or away, by sid, by room and by private id.

Sessions that are away are included, so that rooms can be changed and events addressed meanwhile.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from socketio_eventlog.records import Room
from socketio_eventstore.core.sessions import Session, State


class Registry:
    """The sessions of all namespaces. Pure state without I/O."""

    def __init__(self) -> None:
        self.namespaces: dict[str, dict[str, Session]] = {}
        self.rooms: dict[tuple[str, Room], dict[Session, None]] = {}
        self._by_pid: dict[bytes, Session] = {}

    def __iter__(self) -> Iterator[Session]:
        for sessions in self.namespaces.values():
            yield from sessions.values()

    def add(self, session: Session) -> None:
        """Add a session with the joined rooms."""
        self.namespaces.setdefault(session.namespace, {})[session.sid] = session
        self._by_pid[session.pid_hash] = session
        for room in session.joined:
            self.rooms.setdefault((session.namespace, room), {})[session] = None

    def remove(self, session: Session) -> None:
        """Forget a session; events addressed to its sid reach no client from now on."""
        sessions = self.namespaces.get(session.namespace, {})
        if sessions.pop(session.sid, None) is None:
            return
        if not sessions:
            del self.namespaces[session.namespace]
        del self._by_pid[session.pid_hash]
        for room in session.joined:
            self._drop(session, room)

    def get(self, namespace: str, sid: object) -> Session | None:
        """Return the session with this sid, connected or away."""
        return self.namespaces.get(namespace, {}).get(sid) if isinstance(sid, str) else None

    def with_pid(self, pid_hash: bytes) -> Session | None:
        """Return the session that a private id opens, in any namespace; None when the session is over."""
        session = self._by_pid.get(pid_hash)
        return None if session is None or session.state is State.ENDED else session

    def enter(self, session: Session, room: Room, position: int) -> None:
        """Put a session into a room for the events after the position."""
        session.enter(room, position)
        self.rooms.setdefault((session.namespace, room), {})[session] = None

    def leave(self, session: Session, room: Room, position: int) -> None:
        """Take a session out of a room; events up to the position are still for the session."""
        session.leave(room, position)
        self._drop(session, room)

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

    def _drop(self, session: Session, room: Room) -> None:
        members = self.rooms.get((session.namespace, room))
        if members is not None:
            members.pop(session, None)
            if not members:
                del self.rooms[session.namespace, room]
