"""Checks of a whole log in PostgreSQL: the server, durability, the log and its rows. Blocking.

The checks change no row. The checks of rows read a single snapshot, and no check holds the lock of the log.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from itertools import islice
from typing import Final, TypeAlias

import psycopg

from socketio_eventlog.errors import StoreNotUsable
from socketio_eventlog.options import Synchronous
from socketio_eventlog.postgres import (
    check_durability,
    check_log,
    check_rows,
    check_schema,
    check_server,
)
from socketio_eventlog.postgres.check_report import Connection, Probe, Report
from socketio_eventlog.postgres.connection import connection_string, describe
from socketio_eventlog.postgres.failures import first_line

MAX_PROBLEMS: Final = 10
"""The most reported problems of a check."""
PROBE_SECONDS: Final = 10
"""The longest time of a check of the server."""
ROWS_SECONDS: Final = 600
"""The longest time of a check of one kind of rows."""

_SETTINGS: Final = "SELECT name, setting FROM pg_settings"
_IS_STANDBY: Final = "SELECT pg_is_in_recovery()"
_SNAPSHOT: Final = "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY"
_TIMEOUT: Final = "SELECT set_config('statement_timeout', %s, true)"

OnStep: TypeAlias = Callable[[str, int, int], object]
"""Called before each check, with the check's name, its number from 0 on, and the number of all checks."""


def check(url: str, synchronous: Synchronous, on_step: OnStep = lambda *_: None) -> Report:
    """Check a database. Raises StoreNotUsable, with the name, for an unreachable database.

    ``synchronous``: the level at which the servers commit.
    """
    conninfo, name = connection_string(url), describe(url)
    try:
        with psycopg.connect(conninfo, autocommit=True, prepare_threshold=None) as connection:
            return _Checks(connection, conninfo, synchronous, on_step).run()
    except psycopg.Error as error:
        raise StoreNotUsable(f"{name}: {first_line(error)}.") from error


class _Checks:
    def __init__(
        self, connection: Connection, conninfo: str, synchronous: Synchronous, on_step: OnStep
    ) -> None:
        settings: dict[str, str] = dict(connection.execute(_SETTINGS).fetchall())
        (is_standby,) = connection.execute(_IS_STANDBY).fetchall()[0]
        self._probe = Probe(connection, conninfo, Report(), settings, synchronous, is_standby)
        self._on_step = on_step
        self._count = 0
        self._is_cut = False

    def run(self) -> Report:
        """Run all checks, up to the first check at which PostgreSQL ends the connection."""
        try:
            self._run_all()
        except psycopg.OperationalError:
            if not self._is_cut:
                raise
        self._on_step("", 1, 1)
        return self._probe.report

    def _run_all(self) -> None:
        probe, report = self._probe, self._probe.report
        for title, step in _OF_THE_SERVER:
            self._run(title, partial(step, probe), PROBE_SECONDS)
        # A LISTEN and a flush end with the transaction: each statement is a transaction here.
        self._attempt("notifications", partial(check_server.notifications, probe))
        self._attempt("flush", partial(check_durability.measure_flush, probe, PROBE_SECONDS))
        self._run("schema", partial(check_log.schema, probe), PROBE_SECONDS)
        if check_log.is_checkable(report):
            self._run("objects", partial(check_schema.completeness, probe), PROBE_SECONDS)
            self._run("rights", partial(check_log.rights, probe), PROBE_SECONDS)
        if check_log.is_checkable(report):  # again: only with the rights checked before
            self._check_log()

    def _check_log(self) -> None:
        probe = self._probe
        self._run("lock", partial(check_log.lock, probe), PROBE_SECONDS)
        with probe.connection.transaction():
            probe.connection.execute(_SNAPSHOT)
            self._run("log", partial(check_log.state, probe), PROBE_SECONDS)
            self._run("nodes", partial(check_log.nodes, probe), PROBE_SECONDS)
            self._run("altered", partial(check_log.altered, probe, MAX_PROBLEMS), PROBE_SECONDS)
            for title in check_rows.CHECKS:
                self._run(title, partial(self._rows, title), ROWS_SECONDS)
            self._run("sizes", partial(check_log.tables, probe), ROWS_SECONDS)

    def _rows(self, title: str) -> None:
        found = list(islice(check_rows.check(self._probe, title, MAX_PROBLEMS + 1), MAX_PROBLEMS + 1))
        self._probe.report.problems += found[:MAX_PROBLEMS]
        if len(found) > MAX_PROBLEMS:
            self._probe.report.problems.append(f"{title}: more problems like these")

    def _run(self, title: str, step: Callable[[], None], seconds: int) -> None:
        """Run a check in a transaction, with a limit of time."""

        def limited() -> None:
            with self._probe.connection.transaction():
                self._probe.connection.execute(_TIMEOUT, (f"{seconds}s",))
                step()

        self._attempt(title, limited)

    def _attempt(self, title: str, step: Callable[[], None]) -> None:
        """Run a check. A missing right of the role, or too long a time, is a note."""
        report = self._probe.report
        self._on_step(title, self._count, _STEPS)
        self._count += 1
        try:
            step()
        except psycopg.errors.QueryCanceled:
            report.notes.append(f"{title}: not checked, since it takes too long.")
        except psycopg.errors.InsufficientPrivilege as error:
            report.notes.append(f"{title}: not checked: {first_line(error)}.")
        except (psycopg.DataError, psycopg.InternalError) as error:  # such as an unreadable page
            report.problems.append(f"{title}: PostgreSQL says: {first_line(error)}")
        except psycopg.ProgrammingError as error:  # such as a missing table
            report.problems.append(f"{title}: not checked: {first_line(error)}")
        except (psycopg.errors.SerializationFailure, psycopg.errors.AdminShutdown) as error:
            # A standby ends transactions that block the primary, such as a VACUUM there.
            self._is_cut = bool(self._probe.connection.closed)
            rest = ", nor what comes after" if self._is_cut else ""
            report.notes.append(f"{title}: not checked{rest}: {first_line(error)}.")


_OF_THE_SERVER: Final[Sequence[tuple[str, Callable[[Probe], None]]]] = (
    ("server", check_server.server),
    ("settings", check_server.settings),
    ("clock", check_server.clock),
    ("connections", check_server.connections),
    ("durability", check_durability.flushing),
    ("standbys", check_durability.standbys),
    ("transactions", check_server.old_transactions),
    ("space", check_server.space),
)
_STEPS: Final = len(_OF_THE_SERVER) + len(check_rows.CHECKS) + 10
