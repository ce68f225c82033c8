"""The contents of a scratch database in PostgreSQL, read with plain SQL, as any program may.

The database must have no log. ``remove_log`` removes the log of a run.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final, LiteralString

from socketio_eventstore.verify.process import CannotRun
from socketio_eventstore.verify.store import StoreContents, contents

if TYPE_CHECKING:
    import psycopg

_FOUND: Final = "SELECT 1 FROM pg_namespace WHERE nspname = 'eventstore'"
_REMOVE: Final = "DROP SCHEMA IF EXISTS eventstore CASCADE"
_IS_STANDBY: Final = "SELECT pg_is_in_recovery()"
_SYNCHRONOUS: Final = "SELECT 1 FROM pg_stat_replication WHERE sync_state IN ('sync', 'quorum')"
_EVENTS: Final = 'SELECT "offset", namespace, rooms, skip, payload FROM eventstore.events ORDER BY "offset"'
_EPOCHS: Final = "SELECT began_after, epoch FROM eventstore.epochs ORDER BY number"
_SESSIONS: Final = "SELECT namespace, sid, start_offset FROM eventstore.sessions"
_ROOMS: Final = """
SELECT namespace, sid, room, joined_after, left_after FROM eventstore.rooms
UNION SELECT namespace, sid, room, joined_after, left_after FROM eventstore.verify_rooms ORDER BY joined_after
"""
# The server deletes a membership when the client has all events of the membership; the judge needs all
# memberships to the end.
_KEEP_ROOMS: Final = """
CREATE TABLE eventstore.verify_rooms (
  namespace text, sid text, room text, joined_after bigint, left_after bigint
);
CREATE FUNCTION eventstore.verify_keeps_rooms() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  INSERT INTO eventstore.verify_rooms
  VALUES (OLD.namespace, OLD.sid, OLD.room, OLD.joined_after, OLD.left_after);
  RETURN NULL;
END
$$;
CREATE TRIGGER verify_keeps_rooms AFTER DELETE ON eventstore.rooms
FOR EACH ROW EXECUTE FUNCTION eventstore.verify_keeps_rooms()
"""


class PostgresStore:
    """A database in PostgreSQL."""

    def __init__(self, url: str, *, has_log: bool = False) -> None:
        """Connect to the database. Raises CannotRun, also if there is a log and not ``has_log``."""
        self._url = url
        if has_log:
            return
        with _connected(self._url) as connection:
            if connection.execute(_FOUND).fetchone() is not None:
                raise CannotRun("the database has a schema eventstore; verify needs a database without one")

    def keep_rooms(self) -> None:
        """Keep the memberships that the server deletes from now on."""
        with _connected(self._url) as connection:
            connection.execute(_KEEP_ROOMS)

    def read(self) -> StoreContents:
        """Read the database."""
        with _connected(self._url) as connection:
            connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")  # one state for all queries

            def rows(query: LiteralString) -> list[tuple[Any, ...]]:
                return connection.execute(query).fetchall()

            rooms = [(*row[:2], json.loads(row[2]), *row[3:]) for row in rows(_ROOMS)]
            return contents(rows(_EVENTS), rows(_EPOCHS), rooms, rows(_SESSIONS))


def check_standby(url: str, standby: str) -> None:
    """Check that the promotion of a standby would lose nothing. Raises CannotRun."""
    with _connected(standby) as connection:
        if connection.execute(_IS_STANDBY).fetchone() != (True,):
            raise CannotRun("--standby must be the URL of a standby of --url")
    with _connected(url) as connection:
        if connection.execute(_SYNCHRONOUS).fetchone() is None:
            raise CannotRun(
                "the standby must be synchronous (synchronous_standby_names): it would lose events"
            )


def promote(standby: str) -> None:
    """Promote a standby; return when the standby accepts writes. Raises CannotRun."""
    with _connected(standby) as connection:
        if connection.execute("SELECT pg_promote()").fetchone() != (True,):
            raise CannotRun("the standby could not be promoted")


def remove_log(url: str) -> None:
    """Remove the log of a run from the database. Raises CannotRun."""
    with _connected(url) as connection:
        if connection.execute(_IS_STANDBY).fetchone() == (True,):
            return  # the run ended before the promotion: a standby
        connection.execute("SET synchronous_commit = local")  # perhaps promoted, without a standby
        connection.execute(_REMOVE)


@contextmanager
def _connected(url: str) -> Iterator[psycopg.Connection[tuple[Any, ...]]]:
    try:
        import psycopg
    except ImportError as error:
        raise CannotRun("PostgreSQL needs psycopg: install the extra postgres") from error
    try:
        with psycopg.connect(url) as connection:
            yield connection
    except psycopg.Error as error:
        raise CannotRun(f"the database cannot be used: {str(error).strip()}") from error
