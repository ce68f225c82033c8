"""Checks of a whole database: the promises of SQLite, and the promises of the log.

All checks read one snapshot, and are blocking.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from typing import Final

from socketio_eventlog.altered import AlteredRange
from socketio_eventlog.maintenance import TableSize
from socketio_eventlog.sqlite import altered, check_index, check_rows, check_sizes
from socketio_eventlog.sqlite.schema import APPLICATION_ID, HEAD_REVISION, revision_of

MAX_PROBLEMS: Final = 10
"""The most reported problems of a check."""

_STATE: Final = """
SELECT max((SELECT coalesce(max(offset), 0) FROM events), pruned_through,
           (SELECT coalesce(max(began_after), 0) FROM boots),
           (SELECT coalesce(max(last), 0) FROM altered_ranges)), pruned_through, head
FROM log_state
"""
_HEAD: Final = "SELECT coalesce(max(offset), 0) FROM events"
_ALTERED: Final = """
SELECT namespace, first, last, audience_lost FROM altered_ranges WHERE last > ? ORDER BY first
"""
_TRIGGERS_THERE: Final = "SELECT name FROM sqlite_master WHERE type = 'trigger'"
_TRIGGERS: Final = frozenset(
    {
        "events_deleted",
        "events_updated",
        "attachments_deleted",
        "attachments_updated",
        "attachments_replaced",
    }
)

OnStep = Callable[[str, int, int], object]
"""Called before each check, with the check's name, its number from 0 on, and the number of all checks."""


@dataclass
class Report:
    """The results of the checks."""

    problems: list[str] = field(default_factory=list)
    """Broken promises, a sentence each."""
    notes: list[str] = field(default_factory=list)
    """Remarks for the operator that are no problems."""
    revision: str | None = None
    """The revision of the schema; None for a database without one."""
    head: int = 0
    """The number of the last event."""
    pruned_through: int = 0
    """The sequence of the last pruned event."""
    tables: list[TableSize] = field(default_factory=list)
    """The tables, the largest first."""
    unused_bytes: int = 0
    """The size of the file's free pages."""

    @property
    def is_sound(self) -> bool:
        """Whether no promise is broken."""
        return not self.problems


def check(connection: sqlite3.Connection, on_step: OnStep = lambda *_: None) -> Report:
    """Check a database, open for reading in a transaction. Raises sqlite3.OperationalError."""
    report = Report()
    steps: list[tuple[str, Callable[[], Iterator[str]]]] = [
        ("pages", lambda: _integrity(connection)),
        ("schema", lambda: _schema(connection, report)),
        ("offsets", lambda: _offsets(connection, report)),
        *((title, _rows(connection, report, title)) for title in check_rows.CHECKS),
        ("index", lambda: check_index.check(connection, report.pruned_through)),
        ("sizes", lambda: _sizes(connection, report)),
    ]
    for number, (title, step) in enumerate(steps):
        on_step(title, number, len(steps))
        try:
            found = list(islice(step(), MAX_PROBLEMS + 1))
        except sqlite3.DatabaseError as error:  # an unreadable page
            found = [f"{title}: SQLite says: {error}"]
        report.problems += found[:MAX_PROBLEMS]
        if len(found) > MAX_PROBLEMS:
            report.problems.append(f"{title}: more problems like these")
        if title == "schema" and report.revision != HEAD_REVISION:
            break
    on_step("", len(steps), len(steps))
    return report


def _integrity(connection: sqlite3.Connection) -> Iterator[str]:
    for (text,) in connection.execute(f"PRAGMA integrity_check({MAX_PROBLEMS + 1})"):
        if text != "ok":
            yield f"pages: {text}"
    for table, rowid, parent, _ in connection.execute("PRAGMA foreign_key_check"):
        yield f"pages: row {rowid} of {table} refers to a row of {parent} that is not there"


def _schema(connection: sqlite3.Connection, report: Report) -> Iterator[str]:
    (application_id,) = connection.execute("PRAGMA application_id").fetchone()
    if application_id != APPLICATION_ID:
        yield "schema: this is a database of another program"
        return
    report.revision = revision = revision_of(connection)
    if revision is None:
        yield "schema: the database has no revision"
    elif revision > HEAD_REVISION:
        yield f"schema: revision {revision} is newer than this program, which knows {HEAD_REVISION}"
    elif revision != HEAD_REVISION:
        (report.head,) = connection.execute(_HEAD).fetchone()
        report.notes.append(
            f"The schema has revision {revision}, and this program {HEAD_REVISION}: only the pages were "
            "checked. migrate brings it up to date."
        )
    else:
        found = {
            name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type='trigger'")
        }
        for name in sorted(_TRIGGERS - found):
            yield f"schema: the trigger {name} is missing: changed events would not be noticed"


def _offsets(connection: sqlite3.Connection, report: Report) -> Iterator[str]:
    """Yield the offsets that are neither events, nor unused, nor pruned, nor recorded as lost."""
    report.head, report.pruned_through, noted = connection.execute(_STATE).fetchone()
    through = max(report.head, noted)
    for first, last in altered.holes(connection, report.pruned_through, through):
        yield f"offsets: {_numbers(first, last)} {'is' if first == last else 'are'} gone without a note"
    rows = connection.execute(_ALTERED, (report.pruned_through,))
    ranges = [AlteredRange(*row) for row in rows.fetchmany(MAX_PROBLEMS + 1)]
    report.notes += [
        f"{_numbers(one.first, one.last)} changed or lost without the server: a client that missed one of "
        "them gets a new session."
        for one in ranges[:MAX_PROBLEMS]
    ]
    if len(ranges) > MAX_PROBLEMS:
        report.notes.append("More events were changed or lost without the server.")


def _rows(connection: sqlite3.Connection, report: Report, title: str) -> Callable[[], Iterator[str]]:
    return lambda: check_rows.check(connection, title, report.head, report.pruned_through)


def _sizes(connection: sqlite3.Connection, report: Report) -> Iterator[str]:
    report.tables = check_sizes.tables(connection)
    report.unused_bytes = check_sizes.unused_bytes(connection)
    return iter(())


def _numbers(first: int, last: int) -> str:
    return f"event {first}" if first == last else f"events {first} to {last}"
