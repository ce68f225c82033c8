from __future__ import annotations

import random
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from support.disk_recorder import Synced, put_disk
from support.sqlite_vfs import recording, why_not

pytestmark = pytest.mark.skipif(why_not() is not None, reason=str(why_not()))


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Also the working directory, in which SQLite leaves the -shm of an image without a name."""
    (tmp_path / "run").mkdir()
    (tmp_path / "disk").mkdir()
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_recorder_sees_writes_and_syncs(folder: Path) -> None:
    """The recorder sees SQLite's writes and syncs, and its images have the synced rows."""
    path = folder / "run" / "events.db"
    with recording(folder / "run") as record, closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("CREATE TABLE numbers (number)")
        connection.commit()
        before = len(record.records)
        connection.execute("PRAGMA synchronous = NORMAL")
        connection.execute("INSERT INTO numbers VALUES (1)")
        connection.commit()
        assert not [r for r in record.records[before:] if isinstance(r, Synced)]
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("INSERT INTO numbers VALUES (2)")
        connection.commit()
        assert isinstance(record.records[-1], Synced)
        end = len(record.records)
    for seed in range(20):
        left = put_disk(folder / "disk", record.cut(end, random.Random(seed)))
        with closing(sqlite3.connect(left)) as connection:
            assert connection.execute("SELECT number FROM numbers").fetchall() == [(1,), (2,)]
            assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    content = path.read_bytes()
    assert record.cut(len(record.records), random.Random(0)).get("events.db") == content
    assert {file.name for file in path.parent.iterdir()} == {"events.db"}
