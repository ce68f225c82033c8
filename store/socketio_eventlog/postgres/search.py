"""The search of ``events`` (see ``search.Search``).

The columns before the payload are read without the payload, so other rows are cheap.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from socketio_eventlog.postgres import events
from socketio_eventlog.postgres.connection import Connection
from socketio_eventlog.postgres.events import Seen
from socketio_eventlog.search import Found, Search, lowered

_UP: Final = """
SELECT "offset", namespace, event, size_bytes, emitted_at FROM eventstore.events
WHERE "offset" BETWEEN %s AND %s ORDER BY "offset" LIMIT %s
"""
_DOWN: Final = """
SELECT "offset", namespace, event, size_bytes, emitted_at FROM eventstore.events
WHERE "offset" BETWEEN %s AND %s ORDER BY "offset" DESC LIMIT %s
"""
_AMONG: Final = """
SELECT "offset", namespace, event, size_bytes, emitted_at FROM eventstore.events
WHERE "offset" = ANY(%s) ORDER BY "offset"
"""
# The collation with capitals for ASCII letters only. Not ILIKE: a pattern with repetitions takes seconds.
_WITH_TEXT: Final = """
SELECT "offset" FROM eventstore.events WHERE "offset" = ANY(%s) AND strpos(lower(payload COLLATE "C"), %s) > 0
"""


async def search(connection: Connection, question: Search, seen: Seen) -> Found:
    """Search the events."""
    rows, reached = await _rows(connection, question)
    fitting = [(row[0], row[3]) for row in rows if _fits(question, *row)]
    if question.text is not None:
        fitting, reached = await _with_text(connection, question, question.text, fitting, reached)
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
    return Found(await events.read(connection, found, seen), reached)


def _fits(question: Search, _: int, namespace: str, name: str, _size: int, emitted_at: float) -> bool:
    """Whether a row fits all of the question but the text."""
    return (
        question.namespace in (None, namespace)
        and question.name in (None, name)
        and (question.emitted_from is None or emitted_at >= question.emitted_from)
        and (question.emitted_before is None or emitted_at < question.emitted_before)
    )


async def _with_text(
    connection: Connection, question: Search, text: str, fitting: Sequence[tuple[int, int]], reached: int
) -> tuple[list[tuple[int, int]], int]:
    """Return the rows with the text in the payload, and the end of the search."""
    size_bytes = 0
    for count, (offset, row_bytes) in enumerate(fitting):
        size_bytes += row_bytes
        if count and size_bytes > question.max_text_bytes:
            fitting, reached = fitting[:count], _before(question, offset)
            break
    cursor: Any = await connection.execute(_WITH_TEXT, ([offset for offset, _ in fitting], lowered(text)))
    containing = {offset for (offset,) in await cursor.fetchall()}
    return [row for row in fitting if row[0] in containing], reached


def _before(question: Search, offset: int) -> int:
    """Return the end of a search that stops before an event."""
    return offset + 1 if question.newest_first else offset - 1


async def _rows(connection: Connection, question: Search) -> tuple[Sequence[Any], int]:
    """Return the rows to check, in the order of the search, and the last sequence."""
    end = question.first if question.newest_first else question.last
    cursor: Any
    if question.among is None:
        range_ = (question.first, question.last, question.max_rows)
        cursor = await connection.execute(_DOWN if question.newest_first else _UP, range_)
        rows = await cursor.fetchall()
        return rows, rows[-1][0] if len(rows) == question.max_rows else end
    ordered = question.among[::-1] if question.newest_first else question.among
    looked_at = list(ordered[: question.max_rows])
    cursor = await connection.execute(_AMONG, (looked_at,))
    rows = await cursor.fetchall()
    if question.newest_first:
        rows.reverse()
    return rows, looked_at[-1] if len(ordered) > question.max_rows else end
