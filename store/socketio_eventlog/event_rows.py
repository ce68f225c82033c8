"""The rows of events, in the same form for every engine. No I/O."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any, Final

from socketio_eventlog.events import Event, LoggedEvent, Room

FEW: Final = 8
"""The most rooms in a cached encoding."""
SHORT: Final = 200
"""The longest cached array, in characters. The decoding of an array costs more than the rest of a row."""


def as_json(names: tuple[Room, ...]) -> str:
    """Return the JSON array of rooms or sids."""
    return json.dumps(names, ensure_ascii=False, separators=(",", ":"))


# A few rooms occur in most events, and their encoding costs more than the rest of the row. Thousands of rooms
# would stay in the cache, names included.
few_as_json: Final = lru_cache(maxsize=1024)(as_json)


_few_from_json: Final = lru_cache(maxsize=1024)(lambda rooms: tuple(json.loads(rooms)))


def rooms_from_json(rooms: str | None) -> tuple[Room, ...] | None:
    """Return the addressed rooms; None for the whole namespace."""
    if rooms is None:
        return None
    return _few_from_json(rooms) if len(rooms) <= SHORT else tuple(json.loads(rooms))


def skip_from_json(skip: str | None) -> tuple[str, ...]:
    """Return the skipped sids."""
    return () if skip is None else tuple(json.loads(skip))


def logged_events(rows: Iterable[Any], attachments: Mapping[int, Sequence[bytes]]) -> list[LoggedEvent]:
    """Return the events of rows: sequence, time, namespace, name, rooms, skip, attachments, payload.

    ``attachments``: by sequence, for the events with a count above 0 in the column.
    """
    return [
        LoggedEvent(
            sequence,
            Event(
                namespace=namespace,
                name=name,
                payload=payload,
                attachments=tuple(attachments[sequence]) if count else (),
                rooms=rooms_from_json(rooms),
                skip=skip_from_json(skip),
                emitted_at=emitted_at,
            ),
        )
        for sequence, emitted_at, namespace, name, rooms, skip, count, payload, *_ in rows
    ]
