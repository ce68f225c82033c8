"""Opaque cursors: the key of an entry as text."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence

from socketio_eventstore.program.api.problems import Problem, wrong_cursor


def to_text(key: Sequence[str | bool | int] | None) -> str | None:
    """Return a key as a cursor; None stays None."""
    if key is None:
        return None
    text = json.dumps(key, separators=(",", ":"))
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


def refused() -> Problem:
    """Return the problem for a malformed cursor."""
    return wrong_cursor("cursor", "it is not a cursor of an earlier answer")


def from_text(
    cursor: str | None, types: Sequence[type | tuple[type, ...]]
) -> tuple[str | bool | int, ...] | None:
    """Return the key in a cursor, checked against the types. Raises a Problem about ``cursor``."""
    if cursor is None:
        return None
    try:
        padded = cursor + "=" * (-len(cursor) % 4)
        key = json.loads(base64.b64decode(padded, altchars=b"-_", validate=True))
    except (ValueError, RecursionError):
        key = None
    if not isinstance(key, list) or len(key) != len(types) or not all(map(isinstance, key, types)):
        raise refused()
    return tuple(key)
