"""A made-up next version of the program: one migration, and two new kinds of changes.

Older programs may leave ``optional_noted`` out, but not ``renamed``, which therefore demands a newer format
from all. The copies of the packages get the additions of the next version.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path

from support.processes import HANDLERS, NOT_ON_SERVERS, ServerProcess

PROJECT = Path(__file__).parents[2]
PACKAGES = ("server", "store", "migrations")
EXPANSION = """
CREATE TABLE eventstore.notes (text text NOT NULL);
ALTER TABLE eventstore.sessions ADD COLUMN title text;
ALTER FUNCTION eventstore.write_run(text, jsonb, bigint, bigint, text, text, double precision,
  double precision, boolean) RENAME TO write_run_before;
CREATE FUNCTION eventstore.write_run(
  p_kind text, p_rows jsonb, p_position bigint, p_batch bigint, p_epoch text, p_node text,
  p_uptime double precision, p_now double precision, p_history boolean
) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
  IF p_kind IN ('optional_noted', 'renamed') THEN
    UPDATE eventstore.log_state SET min_reader = 2 WHERE p_kind = 'renamed' AND min_reader < 2;
    INSERT INTO eventstore.notes SELECT r->>0 FROM jsonb_array_elements(p_rows) AS r;
  ELSE
    PERFORM eventstore.write_run_before(
      p_kind, p_rows, p_position, p_batch, p_epoch, p_node, p_uptime, p_now, p_history);
  END IF;
END
$$
"""
_MIGRATION = f'''
from alembic import op

revision, down_revision, branch_labels, depends_on = "0011", "0010", None, None


def upgrade():
    op.get_bind().exec_driver_sql("""{EXPANSION}""".replace("%", "%%"))
'''
_ADDED = {
    "store/socketio_eventlog/changes.py": """
@dataclass(frozen=True, slots=True)
class Noted:
    text: str


@dataclass(frozen=True, slots=True)
class Renamed:
    text: str
""",
    "store/socketio_eventlog/postgres/encoding.py": """
from socketio_eventlog.changes import Noted, Renamed
_ROWS |= {Noted: ("optional_noted", lambda one: (one.text,)), Renamed: ("renamed", lambda one: (one.text,))}
""",
    "store/socketio_eventlog/postgres/decoding.py": """
from socketio_eventlog.changes import Noted, Renamed
_CHANGES |= {"optional_noted": Noted, "renamed": Renamed}
""",
    "server/socketio_eventstore/core/effects.py": """
from socketio_eventlog.changes import Noted, Renamed
_EFFECTS |= {Noted: _nothing, Renamed: _nothing}
""",
}
_REPLACED = {
    "store/socketio_eventlog/postgres/schema.py": (
        ('HEAD_REVISION: Final = "0010"', 'HEAD_REVISION: Final = "0011"'),
        ("READER: Final = 1", "READER: Final = 2"),
    )
}
_HANDLERS = """
import handlers_for_tests
from socketio_eventlog import changes
from socketio_eventstore.core.operation import Operation


class Write(Operation):
    def __init__(self, change):
        self.change = change

    def changes(self):
        return (self.change,)


def register(sio):
    async def write(sid, kind):
        runtime = await sio.manager.opened()
        await runtime.queue.submit(Write(getattr(changes, kind)("text")))
        return kind

    handlers_for_tests.register(sio)
    sio.on("write", write)
"""


class NextVersion:
    """The packages of the next version, below a folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        for package in PACKAGES:
            ignored = shutil.ignore_patterns("__pycache__")
            shutil.copytree(PROJECT / package, folder / package, ignore=ignored)
        for path, text in _ADDED.items():
            with (folder / path).open("a") as file:
                file.write(text)
        for path, replacements in _REPLACED.items():
            text = (folder / path).read_text()
            for former, text_now in replacements:
                assert former in text, f"{path} has no {former}"
                text = text.replace(former, text_now)
            (folder / path).write_text(text)
        versions = folder / "migrations" / "socketio_eventlog_migrations" / "postgres" / "versions"
        (versions / "0011_next.py").write_text(_MIGRATION)
        self._handlers = folder / "handlers_of_next.py"
        self._handlers.write_text(_HANDLERS)

    def server(self, folder: Path, config: Mapping[str, Mapping[str, object] | None]) -> ServerProcess:
        """A server of the next version; the client event ``write`` appends a new kind of change."""
        server = ServerProcess(folder, config, self._handlers)
        shutil.copy(HANDLERS, folder)
        paths = [str(NOT_ON_SERVERS), *(str(self._folder / package) for package in PACKAGES)]
        server.environ["PYTHONPATH"] = os.pathsep.join(paths)
        return server
