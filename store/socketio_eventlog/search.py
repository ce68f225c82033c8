"""A search of the log for people and programs: question and answer. No I/O."""

from __future__ import annotations

import string
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from socketio_eventlog.events import LoggedEvent

_LOWERED: Final = str.maketrans(string.ascii_uppercase, string.ascii_lowercase)


def lowered(text: str) -> str:
    """Return a text as the engines lower a payload: capital ASCII letters only."""
    return text.translate(_LOWERED)


@dataclass(frozen=True, slots=True)
class Search:
    """A search of a range of the log, with bounds for the work."""

    first: int
    """The first sequence of the range."""
    last: int
    """The last sequence of the range, included."""
    newest_first: bool
    """From which end the search begins."""
    max_events: int
    """The search stops with so many events."""
    max_bytes: int
    """The largest total size of the found events; the first event is always returned."""
    max_rows: int
    """The most rows for the search to look at."""
    namespace: str | None = None
    """Only events of a namespace."""
    name: str | None = None
    """Only events with a name."""
    among: Sequence[int] | None = None
    """Only events with sequences from the index; ascending, within the range."""
    emitted_from: float | None = None
    """Only events emitted at this time or later, in seconds since 1970."""
    emitted_before: float | None = None
    """Only events emitted before this time, in seconds since 1970."""
    text: str | None = None
    """Only events with the text in the payload; case of ASCII letters is ignored."""
    max_text_bytes: int = 4_000_000
    """About the most payload bytes to search for the text, one event at least: replays wait meanwhile."""


@dataclass(frozen=True, slots=True)
class Found:
    """The events found by a search."""

    events: list[LoggedEvent]
    """Ascending."""
    reached: int
    """The last searched sequence; the next search continues after it."""
