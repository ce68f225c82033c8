from __future__ import annotations

import os
from pathlib import Path

import pytest

from socketio_eventlog.errors import DatabaseTooNew, StoreNotUsable
from support.storing import open_and_write, sqlite


def refusal(path: Path, error: type[StoreNotUsable] = StoreNotUsable) -> str:
    """Return the message of the refusal, which has one line and names the path."""
    with pytest.raises(StoreNotUsable) as refused:
        open_and_write(path)
    assert type(refused.value) is error
    assert str(path) in str(refused.value)
    assert "\n" not in str(refused.value)
    return str(refused.value)


def test_a_newer_database_is_refused(path: Path) -> None:
    """A database of a newer program is refused and stays unchanged."""
    open_and_write(path)
    sqlite(path, "UPDATE alembic_version SET version_num = '0999'")
    assert "0999" in refusal(path, DatabaseTooNew)
    assert sqlite(path, "SELECT count(*) FROM boots") == "1\n"


@pytest.mark.parametrize("table", ["notes (text)", "alembic_version (version_num)", "events (offset)"])
def test_a_database_of_another_program_is_refused(path: Path, table: str) -> None:
    """A database of another program is refused and stays unchanged."""
    sqlite(path, f"CREATE TABLE {table}")
    before = path.read_bytes()
    assert "another program" in refusal(path)
    assert path.read_bytes() == before
    assert [file.name for file in path.parent.iterdir()] == ["events.db"]


@pytest.mark.parametrize("content", [b"Dear diary, today I met a database." * 100, b"{}", os.urandom(4096)])
def test_a_file_without_a_database_is_refused(path: Path, content: bytes) -> None:
    """A file without a database is refused and stays unchanged."""
    path.write_bytes(content)
    assert "not a database" in refusal(path)
    assert path.read_bytes() == content


def test_a_folder_is_refused(path: Path) -> None:
    path.mkdir()
    assert "directory" in refusal(path)


def test_a_path_below_a_file_is_refused(path: Path) -> None:
    path.touch()
    assert f"File exists: '{path}'" in refusal(path / "events.db")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_an_unreadable_file_is_refused(path: Path) -> None:
    path.touch(mode=0)
    refusal(path)


def test_an_empty_file_becomes_a_database(path: Path) -> None:
    path.touch()
    assert open_and_write(path) == 1


def test_a_path_is_taken_literally(
    tmp_path: Path,
) -> None:
    """Characters with a meaning in SQLite's URIs have no meaning in a path."""
    for name in ("a?mode=memory", "50%25.db", ":memory:", "ä #1.db", "file:x.db"):
        open_and_write(tmp_path / name)
        assert (tmp_path / name).is_file()
