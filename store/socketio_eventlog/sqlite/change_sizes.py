"""The sizes of changes in a database, before the changes are written."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Sequence
from typing import Final

from socketio_eventlog.changes import Change, EventHandled, Published
from socketio_eventlog.events import Event
from socketio_eventlog.session_changes import DataSaved

_SESSION_DATA: Final = "SELECT length(data) FROM sessions WHERE namespace = ? AND sid = ?"


def max_bytes(changes: Iterable[Change]) -> int:
    """Return an upper bound of the bytes of events and acknowledgements in pages."""
    total = 0
    for change in changes:
        if type(change) is Event:
            names = sum(len(name) if isinstance(name, str) else 20 for name in change.rooms or ())
            size = _in_utf8(change.payload) + sum(map(len, change.attachments)) + 4 * names
            size += sum(map(len, change.skip)) + 300
        elif type(change) is EventHandled:
            size = _in_utf8(change.acknowledgement) + 4 * len(change.key) + 300
        elif type(change) is Published:
            size = 4 * (len(change.publisher) + len(change.key)) + 300
        else:
            continue
        # A row of more than half a page leaves up to half a page empty, and a long row the last page.
        total += min(2 * size, size + 8192)
    return total


def _in_utf8(text: str) -> int:
    return len(text) * (1 if text.isascii() else 4)


def have_longer_data(connection: sqlite3.Connection, changes: Sequence[Change]) -> bool:
    """Whether the changes save longer data than the present data."""
    for change in changes:
        if type(change) is DataSaved:
            row = connection.execute(_SESSION_DATA, (change.namespace, change.sid)).fetchone()
            if row is not None and len(change.data) > row[0]:
                return True
    return False
