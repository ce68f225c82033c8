"""Databases without rows, for tests that are not about the first start of a server.

The migrations of a new database take half a second of the processor: with the import of alembic.
"""

from __future__ import annotations

import os
import tempfile
from contextlib import closing
from functools import cache
from pathlib import Path

from socketio_eventlog.sqlite import schema


@cache
def _migrated() -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "events.db"
        with closing(schema.open_writer(path)):
            pass
        return path.read_bytes()


def create_database(path: Path) -> None:
    """Create a database of the newest schema, as a server would, unless the file exists."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        with os.fdopen(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "wb") as file:
            file.write(_migrated())
