"""What the log holds: the scratch database, read with plain SQL as anybody may."""

from __future__ import annotations

import json
import sqlite3
from bisect import bisect_left
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_EVENTS: Final = "SELECT offset, namespace, rooms, skip, payload FROM events ORDER BY offset"
_SESSIONS: Final = "SELECT namespace, sid, start_offset FROM sessions"
_ROOMS: Final = "SELECT namespace, sid, room, joined_after, left_after FROM rooms ORDER BY joined_after"
_BOOTS: Final = "SELECT began_after, boot FROM boots ORDER BY number"


@dataclass(frozen=True, slots=True)
class Logged:
    """An event of the log."""

    number: int
    offset: str
    """What clients are told, ``boot.number``."""
    id: str
    namespace: str
    rooms: frozenset[str] | None
    """None stands for everyone in the namespace."""
    skip: frozenset[str]


@dataclass(frozen=True, slots=True)
class Membership:
    """A session is in a room for the events with ``after < number <= through``."""

    room: str
    after: int
    through: int | None

    def covers(self, number: int) -> bool:
        """Whether the event fell into it."""
        return self.after < number and (self.through is None or number <= self.through)


@dataclass(frozen=True, slots=True)
class Session:
    """A session, and what was for it."""

    namespace: str
    sid: str
    start: int
    memberships: tuple[Membership, ...]

    def is_for(self, event: Logged) -> bool:
        """Whether a twin that never disconnected receives the event."""
        if event.namespace != self.namespace or event.number <= self.start or self.sid in event.skip:
            return False
        if event.rooms is None or self.sid in event.rooms:
            return True
        return any(m.room in event.rooms and m.covers(event.number) for m in self.memberships)


@dataclass(frozen=True, slots=True)
class Truth:
    """The log and the sessions beside it."""

    events: tuple[Logged, ...]
    """In the order of the log."""
    sessions: Mapping[tuple[str, str], Session]
    """By namespace and sid."""


def read_truth(database: Path) -> Truth:
    """Read it while the server runs, without disturbing it. Raises sqlite3.Error."""
    uri = f"{database.absolute().as_uri()}?mode=ro"
    with closing(sqlite3.connect(uri, uri=True, timeout=10)) as connection:
        connection.execute("BEGIN")  # everything from one moment
        events = _events(connection)
        memberships: dict[tuple[str, str], list[Membership]] = {}
        for namespace, sid, room, after, through in connection.execute(_ROOMS):
            memberships.setdefault((namespace, sid), []).append(Membership(room, after, through))
        sessions = {
            (namespace, sid): Session(namespace, sid, start, tuple(memberships.get((namespace, sid), ())))
            for namespace, sid, start in connection.execute(_SESSIONS)
        }
    return Truth(events, sessions)


def _events(connection: sqlite3.Connection) -> tuple[Logged, ...]:
    boots = connection.execute(_BOOTS).fetchall()
    began = [after for after, _ in boots]
    return tuple(
        Logged(
            number,
            f"{boots[max(bisect_left(began, number) - 1, 0)][1]}.{number}",
            json.loads(payload)[1]["id"],
            namespace,
            None if rooms is None else frozenset(json.loads(rooms)),
            frozenset(json.loads(skip or "[]")),
        )
        for number, namespace, rooms, skip, payload in connection.execute(_EVENTS)
    )
