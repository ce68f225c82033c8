"""PostgreSQL for tests: separate clusters, on Unix sockets, as an unprivileged user."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Self

import pytest

DEADLINE = 60.0
_FOLDERS = ("/usr/lib/postgresql", "/usr/local/lib/postgresql")
SETTINGS = {
    "listen_addresses": "",
    "fsync": "off",
    "shared_buffers": "16MB",
    "max_connections": "40",
    "max_wal_size": "64MB",
}
"""Without fsync: no test takes the power away, and the order of writes is the same."""
LAZY = {"wal_writer_delay": "10000ms", "bgwriter_lru_maxpages": "0", "autovacuum": "off"}
"""PostgreSQL flushes the WAL on request, and every ten seconds."""


def binaries() -> Path | str:
    """The folder of the newest PostgreSQL, or why there is none."""
    found = [path for folder in _FOLDERS for path in Path(folder).glob("*/bin") if (path / "initdb").exists()]
    versions = sorted((int(path.parent.name.split(".")[0]), path) for path in found)
    if versions and versions[-1][0] >= 14:
        return versions[-1][1]
    beside = shutil.which("initdb")
    return "PostgreSQL 14 or newer is missing" if beside is None else Path(beside).parent


def needed() -> Path:
    """The folder of PostgreSQL. Without PostgreSQL the test is skipped; in CI the test fails."""
    found = binaries()
    if isinstance(found, str):
        if os.environ.get("CI") == "true":
            pytest.fail(found)
        pytest.skip(found)
    return found


def _unprivileged() -> tuple[Sequence[str], str]:
    """The prefix of a command for an unprivileged user, and the user."""
    if os.geteuid():
        return (), pwd.getpwuid(os.geteuid()).pw_name
    names = {entry.pw_name for entry in pwd.getpwall()}
    user = "postgres" if "postgres" in names else "nobody"
    entry = pwd.getpwnam(user)
    drop = ("setpriv", f"--reuid={entry.pw_uid}", f"--regid={entry.pw_gid}", "--clear-groups", "--")
    return drop, user


def _new_folder() -> Path:
    """A folder open to every user; in memory if there is room, for fast creation of databases.

    Not below pytest's folder, which another user cannot enter; and a socket's path must be short.
    """
    memory = Path("/dev/shm")
    has_room = os.access(memory, os.W_OK) and shutil.disk_usage(memory).free > 2_000_000_000
    folder = Path(tempfile.mkdtemp(prefix="pg-", dir=memory if has_room else None))
    folder.chmod(0o755)
    return folder


class Cluster:
    """A PostgreSQL server. Its databases are reached through a Unix socket."""

    def __init__(self, folder: Path | None = None) -> None:
        """``folder``: the folder of a copied cluster; otherwise a new folder."""
        self.bin = needed()
        self._drop, self._user = _unprivileged()
        self.folder = Path(_new_folder()) if folder is None else folder
        self.data = self.folder / "data"
        self._process: subprocess.Popen[bytes] | None = None
        self._databases = 0
        if folder is None:
            shutil.chown(self.folder, self._user)
            self.run("initdb", "-D", str(self.data), "-A", "trust", "--no-sync", "-U", "tests", "-E", "UTF8")

    def run(self, program: str, *arguments: str) -> str:
        """Run a program of PostgreSQL as the cluster's user; return the output."""
        command = [*self._drop, str(self.bin / program), *arguments]
        environ = {"PATH": os.environ["PATH"], "LC_ALL": "C", "TZ": "UTC"}
        done = subprocess.run(
            command, cwd=self.folder, env=environ, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def start(self, **settings: str) -> None:
        options = [f"--{key}={value}" for key, value in {**SETTINGS, **settings}.items()]
        command = [*self._drop, str(self.bin / "postgres"), "-D", str(self.data), "-k", str(self.folder)]
        with (self.folder / "log").open("ab") as output:
            self._process = subprocess.Popen(
                [*command, *options], cwd=self.folder, stdout=output, stderr=output, stdin=subprocess.DEVNULL
            )
        self.wait()

    def give_away(self, folder: Path) -> None:
        """Make the cluster's user the owner of a folder and the files."""
        for path in (folder, *folder.iterdir()):
            shutil.chown(path, self._user)

    def spawn(self, *command: str) -> subprocess.Popen[bytes]:
        """Start a program as the cluster's user."""
        return subprocess.Popen(
            [*self._drop, *command], cwd=self.folder, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )

    def wait(self) -> None:
        """Wait until the server takes connections."""
        give_up = time.monotonic() + DEADLINE
        while time.monotonic() < give_up:
            assert self._process is not None and self._process.poll() is None, self.log
            done = subprocess.run(
                [self.bin / "psql", "-qAt", "-h", self.folder, "-U", "tests", "-c", "", "postgres"],
                capture_output=True,
                check=False,
            )
            if done.returncode == 0:
                return
            time.sleep(0.02)
        raise AssertionError(f"PostgreSQL was not ready:\n{self.log}")

    @property
    def log(self) -> str:
        return (self.folder / "log").read_text(errors="replace")

    def kill_a_backend(self, database: str) -> None:
        """Kill the process of a node's connection: PostgreSQL ends all processes, as in a crash."""
        backend = self.sql(database, "SELECT backend FROM eventstore.nodes ORDER BY number DESC LIMIT 1")
        self.crash(int(backend))

    def crash(self, process: int) -> None:
        """Kill a process of the server; wait for the restart by the server."""
        restarts = self.log.count("; reinitializing")
        os.kill(process, signal.SIGKILL)
        give_up = time.monotonic() + DEADLINE
        while self.log.count("; reinitializing") == restarts:
            assert time.monotonic() < give_up, self.log
            time.sleep(0.01)
        self.wait()

    def freeze_the_wal_writer(self) -> int:
        """Prevent flushes without a request by a transaction; return the process for ``crash``."""
        found = self.sql("postgres", "SELECT pid FROM pg_stat_activity WHERE backend_type = 'walwriter'")
        os.kill(int(found), signal.SIGSTOP)
        return int(found)

    def stop(self, by: signal.Signals = signal.SIGQUIT) -> None:
        """SIGQUIT: immediately, as in a crash. SIGINT: in order."""
        process, self._process = self._process, None
        if process is not None:
            process.send_signal(by)
            process.wait(DEADLINE)

    def url(self, database: str, *others: Cluster) -> str:
        """The URL of a database, perhaps on several servers."""
        hosts = ",".join(str(cluster.folder) for cluster in (self, *others))
        return f"postgresql://tests@/{database}?host={hosts}"

    def new_database(self, template: str = "template1") -> str:
        """Create a database; return the name."""
        self._databases += 1
        name = f"test{self._databases}"
        self.sql("postgres", f"CREATE DATABASE {name} TEMPLATE {template}")
        return name

    def migrate(self, database: str) -> None:
        """Create a database with the schema, as a template."""
        # Here: without the extra, the tests of other engines must be collected all the same.
        from socketio_eventlog.postgres import connection, schema

        self.sql("postgres", f"CREATE DATABASE {database}")
        schema.prepare(connection.connection_string(self.url(database)), database)

    def sql(self, database: str, *statements: str) -> str:
        """Return the output of psql."""
        commands = [part for statement in statements for part in ("-c", statement)]
        program, host = str(self.bin / "psql"), str(self.folder)
        command = [program, "-qAt", "-v", "ON_ERROR_STOP=1", "-h", host, "-U", "tests"]
        done = subprocess.run([*command, *commands, database], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def until(self, database: str, query: str) -> str:
        """Wait until a query has a result; return the result."""
        give_up = time.monotonic() + DEADLINE
        while not (found := self.sql(database, query).strip()):
            assert time.monotonic() < give_up, f"no result of {query}"
            time.sleep(0.05)  # a busy machine has few processors, and each question is a program
        return found

    def copy(self) -> Cluster:
        """A copy of the stopped cluster's files, in a new folder."""
        folder = _new_folder()
        shutil.chown(folder, self._user)
        subprocess.run(["cp", "-a", str(self.data), str(folder)], check=True)
        return Cluster(folder)

    def replace_data(self, copy: Cluster) -> None:
        """Put the files of a copy in the place of the stopped cluster's; the copy is used up."""
        shutil.rmtree(self.data)
        subprocess.run(["mv", str(copy.data), str(self.data)], check=True)
        copy.remove()

    def standby(self) -> Cluster:
        """A standby of this running cluster; not started."""
        folder = _new_folder()
        shutil.chown(folder, self._user)
        where = ("-h", str(self.folder), "-U", "tests", "-c", "fast", "--no-sync", "-R")
        self.run("pg_basebackup", "-D", str(folder / "data"), *where)
        return Cluster(folder)

    def until_caught_up_with(self, primary: Cluster) -> None:
        """Wait until a standby has all WAL of the primary."""
        (position,) = primary.sql("postgres", "SELECT pg_current_wal_insert_lsn()").split()
        self.until("postgres", f"SELECT 'yes' WHERE pg_last_wal_replay_lsn() >= '{position}'")

    def promote(self) -> None:
        self.sql("postgres", "SELECT pg_promote()")

    def remove(self) -> None:
        self.stop()
        shutil.rmtree(self.folder, ignore_errors=True)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.remove()


_shared: list[Cluster] = []


def shared_cluster() -> Cluster:
    """The cluster of the test process, with a migrated database as a template."""
    if not _shared:
        cluster = Cluster()
        cluster.start(**LAZY)
        _shared.append(cluster)
        cluster.migrate("migrated")
    return _shared[0]


def stop_shared_cluster() -> None:
    """Called at the end of the test process."""
    while _shared:
        _shared.pop().remove()


def new_url() -> str:
    """The URL of a new database with the schema."""
    cluster = shared_cluster()
    return cluster.url(cluster.new_database("migrated"))
