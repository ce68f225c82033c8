"""The sizes of tables."""

from __future__ import annotations

import sqlite3
from typing import Final

from socketio_eventlog.maintenance import TableSize

_TABLES: Final = """
SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_%' ORDER BY name
"""
# The content of a table and of its indexes; SQLite may be built without dbstat.
_BYTES: Final = """
SELECT tbl_name, sum(pgsize) FROM dbstat JOIN sqlite_master USING (name)
WHERE aggregate = TRUE GROUP BY tbl_name
"""


def tables(connection: sqlite3.Connection) -> list[TableSize]:
    """Return the tables, the largest first."""
    try:
        sizes: dict[str, int] | None = dict(connection.execute(_BYTES))
    except sqlite3.OperationalError:  # no such table: dbstat
        sizes = None
    found = [
        TableSize(name, _rows(connection, name), None if sizes is None else sizes.get(name, 0))
        for (name,) in connection.execute(_TABLES).fetchall()
    ]
    return sorted(found, key=lambda table: (-(table.size_bytes or 0), -table.rows, table.name))


def unused_bytes(connection: sqlite3.Connection) -> int:
    """Return the size of the pages that hold nothing, in bytes."""
    (pages,) = connection.execute("PRAGMA freelist_count").fetchone()
    (page_bytes,) = connection.execute("PRAGMA page_size").fetchone()
    return int(pages * page_bytes)


def _rows(connection: sqlite3.Connection, table: str) -> int:
    name = table.replace('"', '""')
    (rows,) = connection.execute(f'SELECT count(*) FROM "{name}"').fetchone()  # noqa: S608 -- a name of the schema
    return int(rows)
