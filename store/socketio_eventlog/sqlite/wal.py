"""The size of the WAL, and the programs that prevent the reuse of the WAL."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import Final

WARNING_BYTES: Final = 64_000_000
"""The size from which on the WAL is reported. Without a long reader the WAL stays below 8 MB."""
LOCKS: Final = Path("/proc/locks")


def growth(path: Path) -> str | None:
    """Return a line about a large WAL, with the reading programs; None for a usual size."""
    try:
        size = path.with_name(f"{path.name}-wal").stat().st_size
    except OSError:
        return None
    if size < WARNING_BYTES:
        return None
    readers = ", ".join(_readers(path)) or "unknown"
    return (
        f"The WAL of {path} has grown to {size // 1_000_000} MB: another program has read the database "
        f"for a long time. Processes with a lock: {readers}."
    )


def _readers(path: Path) -> list[str]:
    """Return the ids and names of other processes with a lock on the database (Linux only)."""
    found: dict[int, str] = {}
    with suppress(OSError, ValueError):
        inode = path.with_name(f"{path.name}-shm").stat().st_ino
        for line in LOCKS.read_text().splitlines():
            fields = line.replace("-> ", "").split()  # number, POSIX, ADVISORY, READ, pid, device:inode, …
            pid, locked = int(fields[4]), int(fields[5].rpartition(":")[2])
            if locked == inode and pid not in (os.getpid(), -1):
                found[pid] = _name(pid)
    return [f"{pid} ({name})" for pid, name in sorted(found.items())]


def _name(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return "unknown"
