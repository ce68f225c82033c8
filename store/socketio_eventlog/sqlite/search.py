"""The search of ``events`` (see ``search.Search``). A job of a database thread.

The columns before the payload are read without the pages of the payload, so rows that do not fit are cheap.
"""

from __future__ import annotations

import json
import re
import sqlite3
from collections.abc import Iterable, Sequence
from typing import Any, Final

from socketio_eventlog.search import Found, Search
from socketio_eventlog.sqlite import events

_UP: Final = """
SELECT offset, namespace, event, size_bytes, emitted_at FROM events
WHERE offset BETWEEN ? AND ? ORDER BY offset LIMIT ?
"""
_DOWN: Final = """
SELECT offset, namespace, event, size_bytes, emitted_at FROM events
WHERE offset BETWEEN ? AND ? ORDER BY offset DESC LIMIT ?
"""
_AMONG: Final = """
SELECT offset, namespace, event, size_bytes, emitted_at
FROM json_each(?) CROSS JOIN events ON offset = value
"""
_WITH_TEXT: Final = """
SELECT offset FROM json_each(?) CROSS JOIN events ON offset = value
WHERE payload LIKE ? ESCAPE '\\'
"""
_WILDCARDS: Final = re.compile(r"[\\%_]")


def search(connection: sqlite3.Connection, question: Search) -> Found:
    """Search the events; a few statements, each of which ends before the function returns."""
    rows, reached = _rows(connection, question)
    fitting = [(row[0], row[3]) for row in rows if _fits(question, *row)]
    if question.text is not None:
        fitting, reached = _with_text(connection, question, question.text, fitting, reached)
    found: list[int] = []
    size_bytes = 0
    for offset, row_bytes in fitting:
        size_bytes += row_bytes
        if found and size_bytes > question.max_bytes:
            reached = _before(question, offset)
            break
        found.append(offset)
        if len(found) >= question.max_events:
            reached = offset
            break
    return Found(events.read(connection, found), reached)


def _fits(question: Search, _: int, namespace: str, name: str, _size: int, emitted_at: float) -> bool:
    """Whether a row fits all of the question but the text."""
    return (
        question.namespace in (None, namespace)
        and question.name in (None, name)
        and (question.emitted_from is None or emitted_at >= question.emitted_from)
        and (question.emitted_before is None or emitted_at < question.emitted_before)
    )


def _with_text(
    connection: sqlite3.Connection,
    question: Search,
    text: str,
    fitting: Sequence[tuple[int, int]],
    reached: int,
) -> tuple[list[tuple[int, int]], int]:
    """Return the rows whose payload contains the text, and how far the search got.

    Replays wait for the job, so it reads a limited number of bytes, but at least one payload.
    """
    size_bytes = 0
    for count, (offset, row_bytes) in enumerate(fitting):
        size_bytes += row_bytes
        if count and size_bytes > question.max_text_bytes:
            fitting, reached = fitting[:count], _before(question, offset)
            break
    pattern = "%" + _WILDCARDS.sub(r"\\\g<0>", text) + "%"
    offsets = json.dumps([offset for offset, _ in fitting])
    containing = {offset for (offset,) in connection.execute(_WITH_TEXT, (offsets, pattern))}
    return [row for row in fitting if row[0] in containing], reached


def _before(question: Search, offset: int) -> int:
    """Return the sequence that a search has reached which stops before an event."""
    return offset + 1 if question.newest_first else offset - 1


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
