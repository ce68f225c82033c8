"""Checks of the database server: version, settings, clock, and obstacles for the log."""

from __future__ import annotations

import secrets
import shutil
import time
from pathlib import Path
from typing import Final

import psycopg

from socketio_eventlog.postgres.check_report import Probe, bytes_text, seconds_text
from socketio_eventlog.postgres.schema import OLDEST_VERSION

CHANNEL: Final = "eventstore_check"
NOTICE_SECONDS: Final = 2.0
"""The longest wait for the check's own notification."""
CLOCK_SECONDS: Final = 1.0
"""A larger difference of clocks is worth a note."""
LONG_SECONDS: Final = 60.0
"""The age from which on a transaction elsewhere is worth a note."""
CONNECTIONS_PER_NODE: Final = 6
WORN_TRANSACTIONS: Final = 1_600_000_000
"""Of 2^31: there PostgreSQL itself begins to hurry."""

_BACKEND: Final = "SELECT pg_backend_pid()"
_CLOCK: Final = "SELECT extract(epoch FROM clock_timestamp())::float8"
_NOTIFY: Final = "SELECT pg_notify(%s, %s)"
_CONNECTIONS: Final = """
SELECT (SELECT sum(numbackends) FROM pg_stat_database),
       (SELECT numbackends FROM pg_stat_database WHERE datname = current_database()), datconnlimit,
       (SELECT count(*) FROM pg_stat_activity WHERE usename = current_user), rolconnlimit
FROM pg_database, pg_roles WHERE datname = current_database() AND rolname = current_user
"""
_OLD: Final = """
SELECT pid, coalesce(application_name, ''), extract(epoch FROM clock_timestamp() - xact_start)::float8
FROM pg_stat_activity
WHERE datname = current_database() AND pid <> pg_backend_pid() AND xact_start IS NOT NULL
  AND backend_type = 'client backend'  -- a vacuum holds nothing back
  AND (backend_xmin IS NOT NULL OR backend_xid IS NOT NULL)
ORDER BY xact_start LIMIT 5
"""
_HIDDEN: Final = """
SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND backend_type IS NULL
"""
_PREPARED: Final = """
SELECT gid, extract(epoch FROM clock_timestamp() - prepared)::float8
FROM pg_prepared_xacts WHERE database = current_database() ORDER BY prepared LIMIT 5
"""
_SLOTS: Final = """
SELECT slot_name, CASE WHEN NOT pg_is_in_recovery()
                  THEN pg_wal_lsn_diff(pg_current_wal_lsn(), restart_lsn)::bigint END
FROM pg_replication_slots WHERE NOT active AND restart_lsn IS NOT NULL ORDER BY slot_name LIMIT 5
"""
_AGE: Final = "SELECT age(datfrozenxid) FROM pg_database WHERE datname = current_database()"
_SIZE: Final = "SELECT pg_database_size(current_database())"


def server(probe: Probe) -> None:
    """Check the version, and measure a round trip."""
    version = probe.connection.info.server_version
    number = f"{version // 10_000}.{version % 10_000}"
    begun = time.perf_counter()
    (backend,) = probe.row(_BACKEND)
    trip = time.perf_counter() - begun
    is_pooled = backend != probe.connection.info.backend_pid
    probe.report.figures |= {"server_version": number, "is_pooled": is_pooled}
    through = ", through PgBouncer or another proxy" if is_pooled else ""
    probe.report.facts["Server"] = f"PostgreSQL {number}{through}; a round trip takes {seconds_text(trip)}"
    if version < OLDEST_VERSION:
        probe.report.problems.append(f"server: PostgreSQL {number} is too old: 14 or newer is needed")


def settings(probe: Probe) -> None:
    """Check the settings of the role and of the database."""
    report, found = probe.report, probe.settings
    encoding = found["server_encoding"]
    isolation = found["default_transaction_isolation"]
    report.facts["Encoding, isolation"] = f"{encoding}, {isolation}"
    report.figures |= {"encoding": encoding, "isolation": isolation}
    if encoding != "UTF8":
        report.problems.append(f"settings: the encoding of the database is {encoding}; UTF8 is needed")
    if isolation != "read committed":
        report.problems.append(
            f"settings: default_transaction_isolation is {isolation!r}; 'read committed' is needed"
        )
    if found["default_transaction_read_only"] == "on":  # seen with target_session_attrs=any only
        report.problems.append("settings: default_transaction_read_only is on: no server can write")
    for name, ended in (
        ("statement_timeout", "searches, prunings and starts that take longer"),
        ("transaction_timeout", "searches, prunings and starts that take longer"),
        ("idle_session_timeout", "connections of the servers, which wait for notifications"),
    ):
        if milliseconds := probe.number(name):
            report.notes.append(f"{name} is {seconds_text(milliseconds / 1000)}, and ends {ended}.")
    if found.get("autovacuum") == "off":
        report.notes.append("autovacuum is off: the tables of the log grow without end.")


def notifications(probe: Probe) -> None:
    """Check that notifications arrive: LISTEN fails without an error behind PgBouncer."""
    if probe.is_standby:
        return
    connection, text = probe.connection, secrets.token_hex(8)
    connection.execute(f"LISTEN {CHANNEL}")
    # From another connection: PgBouncer forwards a notification in the answer to a statement.
    with psycopg.connect(probe.conninfo, autocommit=True, prepare_threshold=None) as other:
        other.execute(_NOTIFY, (CHANNEL, text))
    arrived = False
    give_up = time.monotonic() + NOTICE_SECONDS
    while not arrived and (left := give_up - time.monotonic()) > 0:
        arrived = any(one.payload == text for one in connection.notifies(timeout=left, stop_after=1))
    connection.execute(f"UNLISTEN {CHANNEL}")
    probe.report.figures["notifications_arrive"] = arrived
    probe.report.facts["Notifications"] = "arrive" if arrived else "do not arrive"
    if not arrived:
        probe.report.notes.append(
            "No notification arrives, as behind PgBouncer: the servers ask for new batches every 5 ms while "
            "others write, and every 250 ms otherwise."
        )


def clock(probe: Probe) -> None:
    """Compare the clock of this host with the clock of the database."""
    tries = []
    for _ in range(3):
        begun, at = time.perf_counter(), time.time()
        (there,) = probe.row(_CLOCK)
        half = (time.perf_counter() - begun) / 2
        tries.append((half, there - at - half))
    half, ahead = min(tries)
    probe.report.figures["clock_difference_seconds"] = round(ahead, 6)
    side = "ahead of" if ahead >= 0 else "behind"
    probe.report.facts["Clock"] = f"{seconds_text(abs(ahead))} {side} this host, ± {seconds_text(half)}"
    if abs(ahead) > CLOCK_SECONDS:
        probe.report.notes.append(
            f"The clock of the database is {seconds_text(abs(ahead))} {side} that of this host: times in the "
            "log, in views and in timelines differ by it. Nothing else depends on it."
        )


def connections(probe: Probe) -> None:
    """Check that there are enough connections for a server."""
    all_, in_database, of_database, of_role, for_role = probe.row(_CONNECTIONS)
    reserved = probe.number("superuser_reserved_connections") + probe.number("reserved_connections")
    counts = (
        (int(all_), probe.number("max_connections") - reserved),
        (in_database, of_database),
        (of_role, for_role),
    )
    used, most = min((one for one in counts if one[1] >= 0), key=lambda one: one[1] - one[0])
    probe.report.figures |= {"connections": used, "max_connections": most}
    probe.report.facts["Connections"] = f"{used} of {most} are in use; each server takes 6"
    if most - used < CONNECTIONS_PER_NODE:
        probe.report.notes.append(f"{max(most - used, 0)} connections are left: no further server can start.")


def old_transactions(probe: Probe) -> None:
    """Find the obstacles to the reuse of deleted rows and to the deletion of WAL."""
    report = probe.report
    rows = probe.rows(_OLD)
    oldest = rows[0][2] if rows else 0.0
    (hidden,) = probe.row(_HIDDEN)
    report.figures["oldest_transaction_seconds"] = round(oldest, 3)
    unseen = f"; {hidden} connections of others are hidden without pg_monitor" if hidden else ""
    report.facts["Oldest transaction"] = f"{seconds_text(oldest) if rows else 'none'}{unseen}"
    for pid, name, age in rows:
        if age > LONG_SECONDS:
            whose = f" of {name}" if name else ""
            report.notes.append(
                f"The transaction of process {pid}{whose} is open for {seconds_text(age)}: deleted rows stay "
                f"on disk until it ends. SELECT pg_terminate_backend({pid}) ends it."
            )
    for gid, age in probe.rows(_PREPARED):
        report.notes.append(
            f"The prepared transaction {gid!r} is open for {seconds_text(age)}: deleted rows stay on disk "
            "until COMMIT PREPARED or ROLLBACK PREPARED."
        )
    for name, kept in probe.rows(_SLOTS):
        size = "WAL" if kept is None else f"{bytes_text(kept)} of WAL"
        report.notes.append(
            f"The replication slot {name!r} has no reader, and keeps {size}: "
            "pg_drop_replication_slot removes it."
        )
    (age,) = probe.row(_AGE)
    report.figures["transaction_age"] = age
    if age > WORN_TRANSACTIONS:
        report.problems.append(
            f"transactions: the oldest rows are {age} transactions old: VACUUM does not keep up, and "
            "PostgreSQL stops at 2 billion"
        )


def space(probe: Probe) -> None:
    """Report the size of the database, and the free space if known."""
    (size,) = probe.row(_SIZE)
    probe.report.figures["database_bytes"] = size
    text = f"the database has {bytes_text(size)}"
    folder = Path(probe.settings.get("data_directory") or "/nonexistent")
    is_here = probe.connection.info.host.startswith("/")  # a Unix socket: the disk of this machine
    try:
        disk = shutil.disk_usage(folder) if is_here else None
    except OSError:
        disk = None
    if disk is None:
        probe.report.facts["Space"] = f"{text}; the free space is not known from here"
        return
    probe.report.figures["free_bytes"] = disk.free
    probe.report.facts["Space"] = (
        f"{text}; {bytes_text(disk.free)} of {bytes_text(disk.total)} are free on its disk"
    )
    if disk.free < disk.total / 20:
        probe.report.notes.append(f"The disk of PostgreSQL is almost full: {bytes_text(disk.free)} are free.")
