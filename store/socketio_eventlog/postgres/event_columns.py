"""The events of a batch as a text of columns (see ``follow_with_events`` in the migrations). No I/O.

Rows would cost several microseconds an event, and a node has members for few of the events of others.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from itertools import repeat
from typing import Any, Final

from socketio_eventlog.event_rows import rooms_from_json, skip_from_json
from socketio_eventlog.events import Event

_COLUMN: Final = "\x1d"
_VALUE: Final = "\x1e"
_COLUMNS: Final = 6

# As ``Event(*values)``, for a fourth of the time.
_event: Final[Callable[[Iterable[Any]], Event]] = partial(tuple.__new__, Event)


def events_from(text: str, count: int) -> list[Event] | None:
    """Return the events of a batch; None when a value has a separator, and the columns do not fit."""
    columns = [column.split(_VALUE) for column in text.split(_COLUMN)]
    if len(columns) != _COLUMNS or any(len(column) != count for column in columns):
        return None
    namespaces, names, payloads, rooms, skips, times = columns
    values = (
        namespaces,
        names,
        payloads,
        repeat(()),
        _decoded(rooms, rooms_from_json),
        _decoded(skips, skip_from_json),
        map(float, times),
    )
    return list(map(_event, zip(*values, strict=False)))  # some columns are endless


def _decoded(column: Sequence[str], decode: Callable[[str | None], Any]) -> Iterable[Any]:
    """Decode each text of a column once: most events of a batch have the same."""
    decoded = {text: decode(text or None) for text in set(column)}
    return map(decoded.__getitem__, column)
