"""The contents of the scratch database, read with plain SQL, as any program may.

This is the file; ``postgres_store`` has the database in PostgreSQL.
"""

from __future__ import annotations

import json
import sqlite3
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol

from socketio_eventstore.verify.process import CannotRun

_EVENTS: Final = "SELECT offset, namespace, rooms, skip, payload FROM events ORDER BY offset"
_SESSIONS: Final = "SELECT namespace, sid, start_offset FROM sessions"
_ROOMS: Final = """
SELECT namespace, sid, room, joined_after, left_after FROM rooms
UNION SELECT namespace, sid, room, joined_after, left_after FROM verify_rooms ORDER BY joined_after
"""
_EPOCHS: Final = "SELECT began_after, boot FROM boots ORDER BY number"

# The server deletes a membership when the client has all events of the membership; the judge needs all
# memberships to the end.
_KEEP_ROOMS: Final = (
    """
    CREATE TABLE IF NOT EXISTS verify_rooms (
      -- Memberships that the server has deleted; made by socketio-eventstore verify.
      namespace TEXT, sid TEXT, room ANY, joined_after INTEGER, left_after INTEGER
    ) STRICT
    """,
    """
    CREATE TRIGGER IF NOT EXISTS verify_keeps_rooms AFTER DELETE ON rooms BEGIN
      INSERT INTO verify_rooms VALUES (OLD.namespace, OLD.sid, OLD.room, OLD.joined_after, OLD.left_after);
    END
    """,
)


@dataclass(frozen=True, slots=True)
class LoggedEvent:
    """An event of the log."""

    sequence: int
    offset: str
    """The offset as clients see it, ``epoch.sequence``."""
    id: str
    namespace: str
    rooms: frozenset[str] | None
    """None is the whole namespace."""
    skip: frozenset[str]


@dataclass(frozen=True, slots=True)
class Membership:
    """A session is in a room for the events with ``after < sequence <= through``."""

    room: str
    after: int
    through: int | None

    def covers(self, sequence: int) -> bool:
        """Whether the session was in the room at an event."""
        return self.after < sequence and (self.through is None or sequence <= self.through)


@dataclass(frozen=True, slots=True)
class Session:
    """A session with its memberships."""

    namespace: str
    sid: str
    start: int
    memberships: tuple[Membership, ...]

    def receives(self, event: LoggedEvent) -> bool:
        """Whether a twin that never disconnected receives the event."""
        if event.namespace != self.namespace or event.sequence <= self.start or self.sid in event.skip:
            return False
        if event.rooms is None or self.sid in event.rooms:
            return True
        return any(m.room in event.rooms and m.covers(event.sequence) for m in self.memberships)


@dataclass(frozen=True, slots=True)
class StoreContents:
    """The log and the sessions of a database."""

    events: tuple[LoggedEvent, ...]
    """In the order of the log."""
    sessions: Mapping[tuple[str, str], Session]
    """By namespace and sid."""


class Store(Protocol):
    """The scratch database of a run."""

    def keep_rooms(self) -> None:
        """Keep the memberships that the server deletes from now on, for ``read``. Raises CannotRun."""
        ...

    def read(self) -> StoreContents:
        """Read the database after ``keep_rooms``, without disturbing a running server. Raises CannotRun."""
        ...


class FileStore:
    """The file of a single server."""

    def __init__(self, database: Path) -> None:
        self._database = database

    def keep_rooms(self) -> None:
        """Keep the memberships that the server deletes from now on."""
        with self._errors(), closing(sqlite3.connect(self._database, timeout=10)) as connection:
            for statement in _KEEP_ROOMS:
                connection.execute(statement)
            connection.commit()

    def read(self) -> StoreContents:
        """Read the file."""
        uri = f"{self._database.absolute().as_uri()}?mode=ro"
        with self._errors(), closing(sqlite3.connect(uri, uri=True, timeout=10)) as connection:
            connection.execute("BEGIN")  # all queries see the same state
            return contents(
                connection.execute(_EVENTS).fetchall(),
                connection.execute(_EPOCHS).fetchall(),
                connection.execute(_ROOMS).fetchall(),
                connection.execute(_SESSIONS).fetchall(),
            )

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            raise CannotRun(f"{self._database} cannot be read: {error}") from error


def contents(
    events: Iterable[Sequence[Any]],
    epochs: Iterable[Sequence[Any]],
    rooms: Iterable[Sequence[Any]],
    sessions: Iterable[Sequence[Any]],
) -> StoreContents:
    """Return the contents from the rows of the tables, in the columns of the queries above."""
    memberships: dict[tuple[str, str], list[Membership]] = {}
    for namespace, sid, room, after, through in rooms:
        memberships.setdefault((namespace, sid), []).append(Membership(room, after, through))
    by_name = {
        (namespace, sid): Session(namespace, sid, start, tuple(memberships.get((namespace, sid), ())))
        for namespace, sid, start in sessions
    }
    return StoreContents(_events(events, list(epochs)), by_name)


def _events(rows: Iterable[Sequence[Any]], epochs: Sequence[Sequence[Any]]) -> tuple[LoggedEvent, ...]:
    began_after = [after for after, _ in epochs]
    return tuple(
        LoggedEvent(
            sequence,
            f"{epochs[max(bisect_left(began_after, sequence) - 1, 0)][1]}.{sequence}",
            json.loads(payload)[1]["id"],
            namespace,
            None if rooms is None else frozenset(json.loads(rooms)),
            frozenset(json.loads(skip or "[]")),
        )
        for sequence, namespace, rooms, skip, payload in rows
    )
