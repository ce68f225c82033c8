"""What an operator does to a log beside its events: results and limits, for every engine. No I/O."""

from __future__ import annotations

from typing import Final, NamedTuple

COMPACT_BYTES: Final = 64_000_000
"""The content that a running server rewrites without being told to: about a second without commits."""


class Compacted(NamedTuple):
    """What a compaction has done."""

    before_bytes: int
    """The size of the database before."""
    after_bytes: int
    seconds: float
    """How long no commit was possible."""


class TableSize(NamedTuple):
    """A table with its indexes."""

    name: str
    rows: int
    size_bytes: int | None
    """None where the database cannot tell."""
