"""The options of the store, with the only copy of every default value."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

Synchronous: TypeAlias = Literal["full", "normal"]


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreOptions:
    """Options of the store, for the config file, the manager and the log alike."""

    path: Path | None
    """The database file; None disables recovery, and nothing is stored."""
    synchronous: Synchronous = "full"
    """Durability of a commit: "full" survives a power cut, "normal" only the end of the process."""
    retention: float = 0.0
    """Seconds for which events are kept; 0 keeps events as long as clients may be away."""
    prune_interval: float = 10.0
    """Seconds between two prunings."""
    index_memory: int = 64_000_000
    """Bytes of memory for the index of events by room; the rest of the index stays on disk."""
