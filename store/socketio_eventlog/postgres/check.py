"""Checks of a whole log in PostgreSQL: the server, durability, the log and its rows. Blocking.

The checks change no row. Those of the rows read one snapshot, and no check holds the lock of the log.
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
"""The most problems that one check reports."""
PROBE_SECONDS: Final = 10
"""How long one look at the server may take."""
ROWS_SECONDS: Final = 600
"""How long the check of one kind of rows may take."""

_SETTINGS: Final = "SELECT name, setting FROM pg_settings"
_IS_STANDBY: Final = "SELECT pg_is_in_recovery()"
_SNAPSHOT: Final = "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY"
_TIMEOUT: Final = "SELECT set_config('statement_timeout', %s, true)"

OnStep: TypeAlias = Callable[[str, int, int], object]
"""Called before each check, with its name, its number from 0 on, and the number of all checks."""


def check(url: str, synchronous: Synchronous, on_step: OnStep = lambda *_: None) -> Report:
    """Check a database. Raises StoreNotUsable when it cannot be reached, with one line that names it.

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
        """Run all checks, up to the first one at which PostgreSQL ends the connection."""
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
        # A LISTEN and a flush end with their transaction: each statement is one by itself here.
        self._attempt("notifications", partial(check_server.notifications, probe))
        self._attempt("flush", partial(check_durability.measure_flush, probe, PROBE_SECONDS))
        self._run("schema", partial(check_log.schema, probe), PROBE_SECONDS)
        if check_log.is_checkable(report):
            self._run("objects", partial(check_schema.completeness, probe), PROBE_SECONDS)
            self._run("rights", partial(check_log.rights, probe), PROBE_SECONDS)
        if check_log.is_checkable(report):  # again: not without the rights that were checked just now
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
        """Run one check in a transaction, and so with a limit of time."""

        def limited() -> None:
            with self._probe.connection.transaction():
                self._probe.connection.execute(_TIMEOUT, (f"{seconds}s",))
                step()

        self._attempt(title, limited)

    def _attempt(self, title: str, step: Callable[[], None]) -> None:
        """Run one check. What the role may not see, and what takes too long, is a note."""
        report = self._probe.report
        self._on_step(title, self._count, _STEPS)
        self._count += 1
        try:
            step()
        except psycopg.errors.QueryCanceled:
            report.notes.append(f"{title}: not checked, since it takes too long.")
        except psycopg.errors.InsufficientPrivilege as error:
            report.notes.append(f"{title}: not checked: {first_line(error)}.")
        except (psycopg.DataError, psycopg.InternalError) as error:  # such as a page that cannot be read
            report.problems.append(f"{title}: PostgreSQL says: {first_line(error)}")
        except psycopg.ProgrammingError as error:  # such as a table that is missing
            report.problems.append(f"{title}: not checked: {first_line(error)}")
        except (psycopg.errors.SerializationFailure, psycopg.errors.AdminShutdown) as error:
            # A standby ends what is in the way of its primary, as VACUUM there.
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
