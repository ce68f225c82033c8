"""The options of the store, with the only copy of every default value."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal, TypeAlias

Synchronous: TypeAlias = Literal["full", "normal"]


DEFAULT_FILE_MODE: Final = 0o600
LEAST_MAX_SIZE: Final = 1_000_000
"""Room for the tables without events, and for the WAL."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreOptions:
    """Options of the store, for the config file, the manager and the log alike."""

    path: Path | None
    """The database file; None, without a URL, disables recovery, and nothing is stored."""
    url: str | None = field(default=None, repr=False)  # it may contain a password
    """A PostgreSQL database, ``postgresql://…``, instead of a file."""
    synchronous: Synchronous = "full"
    """Durability of a commit: "full" survives a power cut, "normal" only the end of the process."""
    retention: float = 0.0
    """Seconds for which events are kept; 0 keeps events as long as clients may be away."""
    prune_interval: float = 10.0
    """Seconds between two prunings."""
    index_memory: int = 64_000_000
    """Bytes of memory for the index of events by room; the rest of the index stays on disk."""
    max_size: int = 1_000_000_000
    """Bytes for the pages in use and the WAL; beyond, old events go early, and then emits raise LogFull."""
    file_mode: int = DEFAULT_FILE_MODE
    """The mode of the database, its WAL and its lock: 0o600, or 0o660 or 0o640 for a group."""
    session_history: bool = True
    """Whether the history of each session is written: opened, away, recovered or why not, rooms, ended."""

    def __post_init__(self) -> None:
        """Raise ValueError for a mode without access for the server, such as a decimal 600.

        Also for a maximum size without room for events.
        """
        if self.path is not None and self.url is not None:
            raise ValueError("path and url exclude each other: the log is in a file or in PostgreSQL")
        if not is_file_mode(self.file_mode):
            raise ValueError(f"file_mode must be an octal mode such as 0o600, not {self.file_mode!r}")
        if self.max_size < LEAST_MAX_SIZE:
            raise ValueError(f"max_size must be at least {LEAST_MAX_SIZE} bytes, not {self.max_size!r}")


def is_file_mode(mode: int) -> bool:
    """Whether a mode lets the owner read and write, and lets no user execute."""
    return 0 <= mode <= 0o666 and mode & 0o600 == 0o600 and not mode & 0o111
