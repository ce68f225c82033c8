"""The search of ``events`` (see ``search.Search``). A job of a database thread.

The columns before the payload are read without the pages of the payload, so rows that do not fit are cheap.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable
from typing import Any, Final

from socketio_eventlog.search import Found, Search
from socketio_eventlog.sqlite import events

_UP: Final = """
SELECT offset, namespace, event, size_bytes FROM events
WHERE offset BETWEEN ? AND ? ORDER BY offset LIMIT ?
"""
_DOWN: Final = """
SELECT offset, namespace, event, size_bytes FROM events
WHERE offset BETWEEN ? AND ? ORDER BY offset DESC LIMIT ?
"""
_AMONG: Final = """
SELECT offset, namespace, event, size_bytes FROM json_each(?) CROSS JOIN events ON offset = value
"""


def search(connection: sqlite3.Connection, question: Search) -> Found:
    """Search the events; two statements, each of which ends before the function returns."""
    rows, reached = _rows(connection, question)
    found: list[int] = []
    size_bytes = 0
    for offset, namespace, name, row_bytes in rows:
        if question.namespace not in (None, namespace) or question.name not in (None, name):
            continue
        size_bytes += row_bytes
        if found and size_bytes > question.max_bytes:
            reached = offset + 1 if question.newest_first else offset - 1
            break
        found.append(offset)
        if len(found) >= question.max_events:
            reached = offset
            break
    return Found(events.read(connection, found), reached)


def _rows(connection: sqlite3.Connection, question: Search) -> tuple[Iterable[tuple[Any, ...]], int]:
    """Return the rows to look at, in the order of the search, and the sequence that they reach."""
    end = question.first if question.newest_first else question.last
    if question.among is None:
        statement = _DOWN if question.newest_first else _UP
        rows = connection.execute(statement, (question.first, question.last, question.max_rows)).fetchall()
        return rows, rows[-1][0] if len(rows) == question.max_rows else end
    ordered = question.among[::-1] if question.newest_first else question.among
    looked_at = ordered[: question.max_rows]
    rows = connection.execute(_AMONG, (json.dumps(looked_at),)).fetchall()
    return rows, looked_at[-1] if len(ordered) > question.max_rows else end
