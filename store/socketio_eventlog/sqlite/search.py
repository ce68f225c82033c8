"""The search of ``events`` (see ``search.Search``). A job of a database thread.

SQLite does the filtering: a row that does not fit runs no Python, and so takes no time of the event loop. The
columns before the payload are read without the pages of the payload, so such rows are cheap in SQLite, too.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Sequence
from typing import Any, Final

from socketio_eventlog.search import Found, Search, lowered
from socketio_eventlog.sqlite import events

_ROW_UP: Final = """
SELECT offset FROM events WHERE offset BETWEEN ? AND ? ORDER BY offset LIMIT 1 OFFSET ?
"""
_ROW_DOWN: Final = """
SELECT offset FROM events WHERE offset BETWEEN ? AND ? ORDER BY offset DESC LIMIT 1 OFFSET ?
"""
_BYTES: Final = "SELECT sum(size_bytes) FROM events WHERE offset BETWEEN ? AND ?"
_BYTES_AMONG: Final = """
SELECT sum(size_bytes) FROM json_each(?) CROSS JOIN events ON offset = value
"""
# Not LIKE: a pattern with repetitions takes a second for 4 MB, and replays would wait.
_UP: Final = """
SELECT offset, size_bytes FROM events
WHERE offset BETWEEN :first AND :last
  AND (:namespace IS NULL OR namespace = :namespace) AND (:name IS NULL OR event = :name)
  AND (:emitted_from IS NULL OR emitted_at >= :emitted_from)
  AND (:emitted_before IS NULL OR emitted_at < :emitted_before)
  AND (:text IS NULL OR instr(lower(payload), :text) > 0)
ORDER BY offset LIMIT :max_events
"""
_DOWN: Final = """
SELECT offset, size_bytes FROM events
WHERE offset BETWEEN :first AND :last
  AND (:namespace IS NULL OR namespace = :namespace) AND (:name IS NULL OR event = :name)
  AND (:emitted_from IS NULL OR emitted_at >= :emitted_from)
  AND (:emitted_before IS NULL OR emitted_at < :emitted_before)
  AND (:text IS NULL OR instr(lower(payload), :text) > 0)
ORDER BY offset DESC LIMIT :max_events
"""
_AMONG: Final = """
SELECT offset, size_bytes FROM json_each(:among) CROSS JOIN events ON offset = value
WHERE (:namespace IS NULL OR namespace = :namespace) AND (:name IS NULL OR event = :name)
  AND (:emitted_from IS NULL OR emitted_at >= :emitted_from)
  AND (:emitted_before IS NULL OR emitted_at < :emitted_before)
  AND (:text IS NULL OR instr(lower(payload), :text) > 0)
LIMIT :max_events
"""


def search(connection: sqlite3.Connection, question: Search) -> Found:
    """Search the events; a few statements, each of which ends before the function returns."""
    if question.among is None:
        rows, reached = _in_range(connection, question)
    else:
        rows, reached = _among(connection, question, question.among)
    if len(rows) == question.max_events:
        reached = rows[-1][0]
    found: list[int] = []
    size_bytes = 0
    for offset, row_bytes in rows:
        size_bytes += row_bytes
        if found and size_bytes > question.max_bytes:
            reached = offset + 1 if question.newest_first else offset - 1
            break
        found.append(offset)
    return Found(events.read(connection, found), reached)


def _in_range(connection: sqlite3.Connection, question: Search) -> tuple[list[tuple[int, int]], int]:
    """Return the fitting rows in the order of the search, and the last searched sequence."""
    down = question.newest_first
    rows = question.max_rows
    while True:
        bounds = (question.first, question.last, rows - 1)
        row = connection.execute(_ROW_DOWN if down else _ROW_UP, bounds).fetchone()
        reached: int = row[0] if row is not None else question.first if down else question.last
        first, last = (reached, question.last) if down else (question.first, reached)
        if question.text is None or rows == 1:
            break
        (size_bytes,) = connection.execute(_BYTES, (first, last)).fetchone()
        if (size_bytes or 0) <= question.max_text_bytes:
            break
        rows //= 2
    values = {**_values(question), "first": first, "last": last}
    return connection.execute(_DOWN if down else _UP, values).fetchall(), reached


def _among(
    connection: sqlite3.Connection, question: Search, among: Sequence[int]
) -> tuple[list[tuple[int, int]], int]:
    """Return the same as ``_in_range``, for given sequences."""
    ordered = among[::-1] if question.newest_first else among
    looked_at = ordered[: question.max_rows]
    while question.text is not None and len(looked_at) > 1:
        (size_bytes,) = connection.execute(_BYTES_AMONG, (json.dumps(looked_at),)).fetchone()
        if (size_bytes or 0) <= question.max_text_bytes:
            break
        looked_at = looked_at[: len(looked_at) // 2]
    values = {**_values(question), "among": json.dumps(looked_at)}
    end = question.first if question.newest_first else question.last
    reached = looked_at[-1] if len(ordered) > len(looked_at) else end
    return connection.execute(_AMONG, values).fetchall(), reached


def _values(question: Search) -> dict[str, Any]:
    text = question.text
    return {
        "namespace": question.namespace,
        "name": question.name,
        "emitted_from": question.emitted_from,
        "emitted_before": question.emitted_before,
        "text": None if text is None else lowered(text),
        "max_events": question.max_events,
    }
