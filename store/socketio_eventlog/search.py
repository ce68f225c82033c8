"""A search of the log for people and programs: its question and its answer. No I/O."""

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
    """A search of a range of the log, with a bound for its work."""

    first: int
    """The first sequence of the range."""
    last: int
    """The last sequence of the range, included."""
    newest_first: bool
    """From which end the search begins."""
    max_events: int
    """The search stops with so many events."""
    max_bytes: int
    """The search stops before the event that exceeds so many bytes, but not before its first event."""
    max_rows: int
    """The search stops after so many rows, whatever they are."""
    namespace: str | None = None
    """Only events of this namespace."""
    name: str | None = None
    """Only events with this name."""
    among: Sequence[int] | None = None
    """Only events with these sequences, which the index has found; ascending, within the range."""
    emitted_from: float | None = None
    """Only events that were emitted at this time or later, in seconds since 1970."""
    emitted_before: float | None = None
    """Only events that were emitted before this time, in seconds since 1970."""
    text: str | None = None
    """Only events whose payload contains this text; capital ASCII letters are no different."""
    max_text_bytes: int = 4_000_000
    """About how many bytes the search looks at for the text, but always at one event: replays wait for it."""


@dataclass(frozen=True, slots=True)
class Found:
    """The events that a search has found."""

    events: list[LoggedEvent]
    """Ascending."""
    reached: int
    """The last sequence that the search has looked at; beyond it, another search continues."""
