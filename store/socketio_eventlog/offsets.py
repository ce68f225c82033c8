"""Offsets as text, and the check of an offset against the recorded epochs. No I/O.

A sequence alone does not name a log. After a power cut under ``synchronous = normal``, or after an older
copy of the database is put back, the log grows a second time from an earlier point. A client with event
80 of the lost future would then miss events 60 to 80 of the new log. Therefore an offset names the epoch
of its event, and the database records the sequence after which each epoch began.
"""

from __future__ import annotations

import re
import secrets
from bisect import bisect_left
from collections.abc import Iterable
from functools import lru_cache

from socketio_eventlog.errors import OffsetMalformed, OffsetRolledBack, OffsetUnknown
from socketio_eventlog.events import Offset

EPOCH_ID = re.compile(r"[A-Za-z0-9_-]{1,32}")
_OFFSET = re.compile(r"([A-Za-z0-9_-]{1,32})\.(0|[1-9][0-9]{0,15})")
_MAX_SEQUENCE = 2**53 - 1
"""The largest number which every JSON reader takes for an exact integer."""


@lru_cache(maxsize=64)  # a crowd that returns has one last event
def parse(offset: str) -> Offset:
    """Parse the text of an offset. Raises OffsetMalformed for any text but a result of ``str(Offset)``."""
    match = _OFFSET.fullmatch(offset)
    if match is None or int(match[2]) > _MAX_SEQUENCE:
        # Any client can send a text of any length, and the message goes into the server's log file.
        raise OffsetMalformed(f"The text is {offset[:60]!a}.")
    return Offset(match[1], int(match[2]))


def random_epoch() -> str:
    """Return a random epoch id of 8 URL-safe characters."""
    return secrets.token_urlsafe(6)


class Epochs:
    """All recorded epochs of a database, in order, each with the last sequence before the epoch."""

    def __init__(self, epochs: Iterable[tuple[str, int]]) -> None:
        """``epochs``: id and head at the beginning of each epoch, the earliest epoch first."""
        self._ranks: dict[str, int] = {}
        self._ids: list[str] = []
        self._began_after: list[int] = []
        for epoch, began_after in epochs:
            self._ranks[epoch] = len(self._began_after)
            self._began_after.append(began_after)
            self._ids.append(epoch)

    def check(self, offset: Offset, head: int) -> Offset:
        """Return the offset if the sequence lies in the epoch's part of the log.

        ``head`` is the sequence of the last event, where the last epoch ends at present. Raises OffsetUnknown
        for an epoch without a record, and OffsetRolledBack for a sequence which the epoch did not reach in
        this database. The part of the log below an epoch's beginning belongs to another epoch: a different
        history of the same epoch gave out an offset with such a sequence.
        """
        epoch, sequence = offset
        rank = self._ranks.get(epoch)
        if rank is None:
            raise _unknown(epoch)
        began_after = self._began_after
        end = head if rank + 1 == len(began_after) else began_after[rank + 1]
        if not began_after[rank] <= sequence <= end:
            raise OffsetRolledBack(f"Epoch {offset.epoch} did not write {offset.sequence} in this database.")
        return offset

    def epoch_of(self, sequence: int) -> str:
        """Return the epoch of an event: the last epoch that began before the sequence."""
        return self._ids[max(bisect_left(self._began_after, sequence) - 1, 0)]

    def began_after(self, epoch: str) -> int:
        """Return the sequence after which an epoch began. Raises OffsetUnknown for an unrecorded epoch."""
        return self._began_after[self._rank(epoch)]

    def precedes(self, earlier: str, later: str) -> bool:
        """Return whether epoch ``earlier`` began before epoch ``later``.

        Raises OffsetUnknown for an epoch without a record.
        """
        return self._rank(earlier) < self._rank(later)

    def _rank(self, epoch: str) -> int:
        rank = self._ranks.get(epoch)
        if rank is None:
            raise _unknown(epoch)
        return rank


def _unknown(epoch: str) -> OffsetUnknown:
    return OffsetUnknown(f"The epoch is {epoch!r}.")
