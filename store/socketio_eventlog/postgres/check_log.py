"""Checks of the log as a whole: schema, rights of the role, lock, epoch, servers."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Final

from psycopg import sql

from socketio_eventlog.log import LEASE_SECONDS
from socketio_eventlog.maintenance import TableSize
from socketio_eventlog.postgres.check_report import NodeState, Probe, Report, bytes_text, seconds_text
from socketio_eventlog.postgres.schema import HEAD_REVISION, READER

LOCK_SECONDS: Final = 2.0
"""An append holds the lock of the log for less than a millisecond."""
FAR_BEHIND: Final = 1000
"""The number of batches behind from which on a lagging server is worth a note."""

_HAS_REVISION: Final = "SELECT to_regclass('eventstore.alembic_version') IS NOT NULL"
_REVISION: Final = "SELECT version_num FROM eventstore.alembic_version"
_MIN_READER: Final = "SELECT min_reader FROM eventstore.log_state"
_MAY_CREATE: Final = "SELECT current_user, has_database_privilege(current_database(), 'CREATE')"
_OWNS: Final = """
SELECT current_user, pg_get_userbyid(nspowner), pg_has_role(nspowner, 'USAGE'),
       has_schema_privilege(oid, 'USAGE')
FROM pg_namespace WHERE nspname = 'eventstore'
"""
_FORBIDDEN: Final = """
SELECT relname FROM pg_class WHERE relnamespace = 'eventstore'::regnamespace AND relkind = 'r'
  AND NOT (has_table_privilege(oid, 'SELECT') AND (relname = 'alembic_version' OR (
    has_table_privilege(oid, 'INSERT') AND has_table_privilege(oid, 'UPDATE')
    AND has_table_privilege(oid, 'DELETE'))))
UNION ALL
SELECT proname || '()' FROM pg_proc
WHERE pronamespace = 'eventstore'::regnamespace AND NOT has_function_privilege(oid, 'EXECUTE')
ORDER BY 1
"""
_NOTING: Final = """
events_deleted events_updated events_updated_to events_truncated
attachments_deleted attachments_updated attachments_truncated
index_lists_deleted index_lists_updated index_lists_updated_to index_lists_truncated
index_segments_deleted index_segments_updated index_segments_updated_to index_segments_truncated
"""
TRIGGERS: Final = frozenset(_NOTING.split())
_TRIGGERS: Final = """
SELECT tgname FROM pg_trigger JOIN pg_class AS c ON c.oid = tgrelid
WHERE relnamespace = 'eventstore'::regnamespace AND NOT tgisinternal AND tgenabled IN ('O', 'A')
"""
_LOCK: Final = """
SELECT l.pid, coalesce(a.application_name, ''), l.granted,
       extract(epoch FROM clock_timestamp() - l.waitstart)::float8
FROM pg_locks AS l LEFT JOIN pg_stat_activity AS a USING (pid)
WHERE l.locktype = 'advisory' AND l.objsubid = 1
  AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
  AND (l.classid::bigint << 32 | l.objid::bigint) = hashtextextended('eventstore', 0)
"""
_STATE: Final = """
SELECT batch, epoch, last, at, uptime, pruned_through
FROM eventstore.batches, eventstore.log_state ORDER BY batch DESC LIMIT 1
"""
_EPOCHS: Final = """
SELECT count(*) OVER (), epoch, began_after, began_at FROM eventstore.epochs ORDER BY number DESC LIMIT 1
"""
_CANARY: Final = """
SELECT EXISTS (
  SELECT FROM eventstore.canary
  WHERE epoch = %s AND server_start = pg_postmaster_start_time()
    AND log = pg_relation_filenode('eventstore.batches'))
"""
_NODES: Final = """
SELECT n.node, n.address, (SELECT reader FROM eventstore.nodes AS r WHERE r.node = n.node),
       extract(epoch FROM clock_timestamp())::float8 - n.alive_at, n.applied,
       greatest(h.batch - 1 - h.applied, 0),  -- of NULL: 0
       (SELECT count(*) FROM eventstore.sessions AS s WHERE s.node = n.node),
       (SELECT count(*) FROM pg_stat_activity AS a
        WHERE right(a.application_name, length(n.node) + 1) = ' ' || n.node)
FROM eventstore.living_nodes() AS n
LEFT JOIN LATERAL (SELECT batch, applied FROM eventstore.beats WHERE node = n.node
                   ORDER BY batch DESC LIMIT 1) AS h ON true
ORDER BY n.number
"""
_ALTERED: Final = """
SELECT first, last FROM eventstore.altered_ranges
WHERE last > (SELECT pruned_through FROM eventstore.log_state) ORDER BY first LIMIT %s
"""
_TABLES: Final = """
SELECT relname, pg_total_relation_size(oid) FROM pg_class
WHERE relnamespace = 'eventstore'::regnamespace AND relkind = 'r'
  AND (relpersistence = 'p' OR NOT pg_is_in_recovery())  -- a standby has no unlogged tables
ORDER BY relname
"""


def schema(probe: Probe) -> None:
    """Check the revision and the format; the other checks need a usable log."""
    report = probe.report
    owned = probe.rows(_OWNS)
    if not owned:
        role, may_create = probe.row(_MAY_CREATE)
        report.facts["Schema"] = "none"
        report.notes.append("The database has no log yet: migrate, or the first start of a server, makes it.")
        if not may_create:
            report.problems.append(f"schema: the role {role} lacks CREATE in the database, to make the log")
        return
    role, owner, is_owner, may_use = owned[0]
    if not may_use:
        report.problems.append(f"schema: the role {role} may not use the schema eventstore of {owner}")
        return
    if probe.row(_HAS_REVISION)[0]:
        report.revision = next((text for (text,) in probe.rows(_REVISION)), None)
    revision = report.revision
    report.facts["Schema"] = f"revision {revision}, of the role {owner}"
    if revision is None or revision < HEAD_REVISION:
        text = f"this program needs {HEAD_REVISION}"
        report.notes.append(
            f"The schema has revision {revision}, and {text}: the log was not checked. migrate brings it up "
            "to date."
        )
        if not is_owner:
            report.problems.append(f"schema: the role {role} may not migrate what belongs to {owner}")
    elif (needed := probe.row(_MIN_READER)[0]) > READER:
        report.problems.append(
            f"format: the log has format {needed}, and this program knows {READER}: upgrade it"
        )
    elif revision > HEAD_REVISION:
        report.notes.append(
            f"The schema has the newer revision {revision}; this program, with {HEAD_REVISION}, can use it."
        )


def rights(probe: Probe) -> None:
    """Check the rights of the role, and the triggers that note changes by other programs."""
    forbidden = [name for (name,) in probe.rows(_FORBIDDEN)]
    if forbidden:
        names = ", ".join(forbidden[:3]) + (" and others" if len(forbidden) > 3 else "")
        probe.report.problems.append(f"rights: the role may not read, write or call {names}")
    found = {name for (name,) in probe.rows(_TRIGGERS)}
    for name in sorted(TRIGGERS - found):
        probe.report.problems.append(
            f"schema: the trigger {name} is missing or off: changed events would not be noticed"
        )


def lock(probe: Probe) -> None:
    """Check that no session holds the lock of the log for long, since no server could write."""
    rows = probe.rows(_LOCK)
    holders = [(pid, name) for pid, name, is_granted, _ in rows if is_granted]
    waited = max((since for *_, since in rows if since is not None), default=0.0)
    probe.report.figures["lock_wait_seconds"] = round(waited, 3)
    if waited > LOCK_SECONDS:
        text = " and ".join(f"process {pid} ({name})" if name else f"process {pid}" for pid, name in holders)
        end = ", ".join(f"SELECT pg_terminate_backend({pid})" for pid, _ in holders)
        probe.report.problems.append(
            f"lock: servers wait for {text}, which has the lock of the log, for {seconds_text(waited)}; "
            f"{end} ends it"
        )


def state(probe: Probe) -> None:
    """Read the end and the epoch of the log."""
    report = probe.report
    batch, report.epoch, report.head, at, uptime, report.pruned_through = probe.row(_STATE)
    report.figures |= {"head_batch": batch, "uptime_seconds": round(uptime, 3)}
    written = datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M:%SZ")
    report.facts["Log"] = (
        f"ends at event {report.head} in batch {batch} of {written}, pruned up to {report.pruned_through}"
    )
    epochs = probe.rows(_EPOCHS)
    if not epochs:
        report.facts["Epoch"] = "none: no server has started yet"
        return
    count, epoch, after, began = epochs[0]
    report.figures |= {"epochs": count, "epoch_began_after": after}
    since = datetime.fromtimestamp(began, UTC).strftime("%Y-%m-%d %H:%M:%SZ")
    report.facts["Epoch"] = f"{epoch} since {since}, after event {after}; {count} in all"
    if not probe.is_standby and not probe.row(_CANARY, epoch)[0]:  # a standby has no unlogged tables
        report.notes.append(
            "PostgreSQL was restarted or replaced after the last batch: the next one begins another epoch."
        )


def nodes(probe: Probe) -> None:
    """Find the servers on the log, and lagging or silent servers."""
    report = probe.report
    for node, address, reader, silent, applied, behind, sessions, links in probe.rows(_NODES):
        seconds = round(max(silent, 0.0), 3)
        is_alive = seconds <= LEASE_SECONDS
        report.nodes.append(
            NodeState(node, address, reader, seconds, applied, behind, sessions, links, is_alive=is_alive)
        )
    for one in report.nodes:
        if not one.is_alive:
            report.notes.append(_silent(one, others=any(other.is_alive for other in report.nodes)))
        elif one.behind > FAR_BEHIND:
            report.notes.append(f"The server {one.node} on {one.address} is {one.behind} batches behind.")


def _silent(node: NodeState, *, others: bool) -> str:
    then = "the others declare it dead soon" if others else "the next server that starts declares it dead"
    return (
        f"The server {node.node} on {node.address} has written nothing for "
        f"{seconds_text(node.silent_seconds)}: {then}."
    )


def altered(probe: Probe, at_most: int) -> None:
    """Find events changed by other programs."""
    rows = probe.rows(_ALTERED, at_most + 1)
    for first, last in rows[:at_most]:
        events = f"event {first}" if first == last else f"events {first} to {last}"
        probe.report.notes.append(
            f"{events} changed or lost without the server: a client that missed one of them gets a new "
            "session."
        )
    if len(rows) > at_most:
        probe.report.notes.append("More events were changed or lost without the server.")


def tables(probe: Probe) -> None:
    """Count the rows and read the sizes of all tables."""
    found = [TableSize(name, _rows(probe, name), size) for name, size in probe.rows(_TABLES)]
    probe.report.tables = sorted(found, key=lambda table: (-(table.size_bytes or 0), table.name))
    probe.report.figures["log_bytes"] = total = sum(table.size_bytes or 0 for table in found)
    probe.report.facts["Size"] = f"the log has {bytes_text(total)}"


def _rows(probe: Probe, table: str) -> int:
    statement = sql.SQL("SELECT count(*) FROM {}").format(sql.Identifier("eventstore", table))
    ((rows,),) = probe.connection.execute(statement).fetchall()
    return int(rows)


def is_checkable(report: Report) -> bool:
    """Whether the program can read the log, for further checks."""
    unreadable = ("format:", "rights:", "objects: the table")
    is_known = report.revision is not None and report.revision >= HEAD_REVISION
    return is_known and not any(problem.startswith(unreadable) for problem in report.problems)
