"""The results and limits of an operator's maintenance of a log, for every engine. No I/O."""

from __future__ import annotations

from typing import Final, NamedTuple

COMPACT_BYTES: Final = 64_000_000
"""The most content that a running server rewrites unforced: about a second without commits."""


class Compacted(NamedTuple):
    """The result of a compaction."""

    before_bytes: int
    """The size of the database before."""
    after_bytes: int
    seconds: float
    """How long no commit was possible."""


class TableSize(NamedTuple):
    """The size of a table, indexes included."""

    name: str
    rows: int
    size_bytes: int | None
    """None where the database cannot tell."""
