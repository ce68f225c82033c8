"""Positions as text, and what the starts of the server ("boots") say about them. No I/O.

A number alone does not say which log it belongs to. A power cut under ``synchronous = normal``, or an
older copy of the database put back, lets the log grow a second time from an earlier point, and a
client that saw event 80 of the lost future would miss events 60 to 80 of the new one. Therefore an
offset names the boot that gave it out, and the table of boots knows where each of them began.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Iterable

from socketio_eventlog.errors import OffsetMalformed, OffsetRolledBack, OffsetUnknown
from socketio_eventlog.records import Offset

EPOCH_ID = re.compile(r"[A-Za-z0-9_-]{1,32}")
_OFFSET = re.compile(r"([A-Za-z0-9_-]{1,32})\.(0|[1-9][0-9]{0,15})")
_LARGEST_NUMBER = 2**53 - 1
"""What every JSON reader takes for an exact integer."""


def parse(offset: str) -> Offset:
    """Take the text apart. Raises OffsetMalformed unless it is exactly what ``str(place)`` writes."""
    match = _OFFSET.fullmatch(offset)
    if match is None or int(match[2]) > _LARGEST_NUMBER:
        # Anybody can send this text, at any length; what goes into the server's log has an end.
        raise OffsetMalformed(f"It reads {offset[:60]!a}.")
    return Offset(match[1], int(match[2]))


class Epochs:
    """Every start of the server on this database, in order, and the position at which it began."""

    def __init__(self, began: Iterable[tuple[str, int]]) -> None:
        """``began``: id and starting position of each boot, the earliest first."""
        self._order: dict[str, int] = {}
        self._ids: list[str] = []
        self._began_after: list[int] = []
        for epoch, began_after in began:
            self._order[epoch] = len(self._began_after)
            self._began_after.append(began_after)
            self._ids.append(epoch)

    def check(self, offset: Offset, head: int) -> Offset:
        """Return the place if it lies in the part of the log that its boot wrote.

        ``head`` is the log's last number, where the last boot ends for now. Raises OffsetUnknown for a
        boot that this database never saw, OffsetRolledBack for a number that its boot did not reach
        here. Below a boot's beginning lies another boot's part: an offset that names it there was
        given out by a different history of the same boot.
        """
        order = self._position(offset.epoch)
        is_last = order + 1 == len(self._began_after)
        end = head if is_last else self._began_after[order + 1]
        if not self._began_after[order] <= offset.sequence <= end:
            raise OffsetRolledBack(f"{offset} lies outside of what that start of the server wrote.")
        return offset

    def writer_of(self, sequence: int) -> str:
        """The boot that gave this number to an event: the last one that began before it."""
        return self._ids[max(bisect_left(self._began_after, sequence) - 1, 0)]

    def precedes(self, earlier: str, later: str) -> bool:
        """Whether one boot came before the other. Raises OffsetUnknown for one that is not here."""
        return self._position(earlier) < self._position(later)

    def _position(self, epoch: str) -> int:
        try:
            return self._order[epoch]
        except KeyError:
            raise OffsetUnknown(f"No start {epoch!r} of the server is recorded.") from None
