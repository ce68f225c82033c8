"""The rows of sessions as every engine reads them at a start. No I/O."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Iterator
from typing import Any, Final

from socketio_eventlog.events import Room

logger = logging.getLogger(__name__)

_LEFT_OUT: Final = (
    "The session %s of %s has token_rooms that are no JSON array of rooms: another program changed them. It "
    "is left out, and its client gets a new session. Delete its row, or mend it and start again."
)


def with_token_rooms(rows: Iterable[Any]) -> Iterator[Any]:
    """Yield rows that begin with namespace and sid, with the rooms of their last column, which is JSON.

    A row that cannot be read is left out: its session must not be recovered, and others need the start.
    """
    for row in rows:
        try:
            rooms = _token_rooms(row[-1])
        except (ValueError, TypeError, RecursionError):
            logger.warning(_LEFT_OUT, row[1], row[0])
        else:
            yield (*row[:-1], rooms)


def _token_rooms(text: str | None) -> tuple[Room, ...] | None:
    if text is None:
        return None
    found = json.loads(text)
    if not isinstance(found, list) or not all(isinstance(room, str | int) for room in found):
        raise ValueError("no array of rooms")
    return tuple(found)
