"""Checks of durability: the disks with a commit before an event leaves a server."""

from __future__ import annotations

import re
import threading
import time
from typing import Final, NamedTuple

from socketio_eventlog.postgres.check_report import Probe, bytes_text, seconds_text
from socketio_eventlog.postgres.connection import FLUSH, FailedFlush

_STANDBYS: Final = """
SELECT application_name, state, sync_state, pg_wal_lsn_diff(pg_current_wal_lsn(), flush_lsn)::bigint
FROM pg_stat_replication WHERE state IS NULL OR state <> 'backup' ORDER BY application_name
"""
_BEHIND: Final = "SELECT extract(epoch FROM clock_timestamp() - pg_last_xact_replay_timestamp())::float8"
_NEEDED: Final = re.compile(r"(?:FIRST|ANY)?\s*(\d+)\s*\(", re.IGNORECASE)
_FLUSHES: Final = 5


class Standbys(NamedTuple):
    """The standbys of the server, as far as the role may see."""

    needed: int
    """The number of standbys with a flush before a commit returns; 0: PostgreSQL waits for none."""
    synchronous: int
    asynchronous: int
    behind_bytes: int
    """The bytes of the WAL that the best standby has not flushed."""
    are_hidden: bool


def flushing(probe: Probe) -> None:
    """Check that a confirmed commit is on disk."""
    fsync, pages = probe.settings.get("fsync", "on"), probe.settings.get("full_page_writes", "on")
    probe.report.figures |= {"fsync": fsync, "full_page_writes": pages}
    text = f"fsync = {fsync}, full_page_writes = {pages}"
    if fsync == "off":
        risk = "with fsync = off, a loss of power may destroy the whole database"
        if probe.synchronous == "full":
            remedy = 'set fsync = on in PostgreSQL, or accept it with synchronous = "normal"'
            probe.report.problems.append(f"durability: {risk}; {remedy}")
        else:
            probe.report.notes.append(f"{risk[0].upper()}{risk[1:]}.")
    if pages == "off":
        probe.report.notes.append(
            "With full_page_writes = off, a loss of power may damage the database, unless its file system "
            "never writes a part of a page, as ZFS."
        )
    probe.report.facts["Flush"] = text


def standbys(probe: Probe) -> None:
    """Check that commits do not wait for an absent standby, and report the loss of each failure."""
    if probe.is_standby:
        _as_standby(probe)
        return
    found = _standbys(probe)
    probe.report.figures |= {
        "standbys_needed": found.needed,
        "standbys_synchronous": found.synchronous,
        "standbys_asynchronous": found.asynchronous,
    }
    probe.report.facts["Standbys"] = _standbys_text(found)
    connected = found.synchronous
    if connected < found.needed and not found.are_hidden:
        probe.report.problems.append(
            f"standbys: synchronous_standby_names needs {found.needed}, and {connected} "
            f"{'is' if connected == 1 else 'are'} connected: emits wait"
        )
    probe.report.losses |= _losses(probe, found)


def _as_standby(probe: Probe) -> None:
    (behind,) = probe.row(_BEHIND)
    text = "" if behind is None else f"; its last change is {seconds_text(behind)} old"
    probe.report.facts["Standbys"] = f"this is a standby{text}"
    probe.report.figures["replayed_seconds_ago"] = behind
    probe.report.problems.append("standbys: this is a standby: no server can use it before its promotion")


def _standbys(probe: Probe) -> Standbys:
    names = probe.settings.get("synchronous_standby_names", "").strip()
    numbered = _NEEDED.match(names)
    needed = 0 if not names else int(numbered[1]) if numbered else 1
    rows = probe.rows(_STANDBYS)
    states = [state for _, _, state, _ in rows]
    return Standbys(
        needed,
        sum(state in ("sync", "quorum") for state in states),
        sum(state in ("async", "potential") for state in states),
        min((behind for *_, behind in rows if behind is not None), default=0),
        any(state is None for _, state, _, _ in rows),
    )


def _standbys_text(found: Standbys) -> str:
    if found.are_hidden:
        return f"some, with {found.needed} needed for a commit; the role needs pg_monitor to see them"
    if not found.synchronous + found.asynchronous:
        return "none"
    behind = f"the best one is {bytes_text(found.behind_bytes)} behind"
    return f"{found.synchronous} synchronous, {found.asynchronous} asynchronous; {behind}"


def _losses(probe: Probe, found: Standbys) -> dict[str, str]:
    last = f"the last {3 * probe.number('wal_writer_delay') / 1000:.1f} s"
    flushes = probe.synchronous == "full"
    if probe.settings.get("fsync") == "off":
        power = "everything, perhaps: fsync = off"
    else:
        power = "nothing" if flushes else last
    if found.needed and flushes:
        count = "one standby has" if found.needed == 1 else f"{found.needed} standbys have"
        machine = f"nothing: {count} each event before a client does"
    elif found.synchronous + found.asynchronous or found.are_hidden:
        machine = f"what no standby has: {bytes_text(found.behind_bytes)} of WAL at the moment"
    else:
        machine = "everything since the last backup: there is no standby"
    return {
        "A server is killed, or its machine is lost": "nothing",
        "PostgreSQL is killed": "nothing" if flushes else last,
        "The machine of PostgreSQL loses power": power,
        "The machine of PostgreSQL is lost": machine,
    }


def measure_flush(probe: Probe, seconds: float) -> None:
    """Flush a few times, as a server does for each batch; with a limit for an absent synchronous standby."""
    if probe.is_standby or any(text.startswith("standbys:") for text in probe.report.problems):
        return
    connection, failed = probe.connection, FailedFlush()
    connection.add_notice_handler(failed)
    limit = threading.Timer(seconds, connection.cancel)  # statement_timeout does not end this wait
    limit.start()
    durations: list[float] = []
    try:
        while len(durations) < _FLUSHES and failed.text is None:
            begun = time.perf_counter()
            connection.execute(FLUSH)
            durations.append(time.perf_counter() - begun)
    finally:
        limit.cancel()
        connection.remove_notice_handler(failed)
    if failed.text is not None:
        probe.report.problems.append(
            f"standbys: none has flushed a commit within {seconds:.0f} s: emits wait"
        )
        return
    median = sorted(durations)[_FLUSHES // 2]
    probe.report.figures["flush_seconds"] = round(median, 6)
    probe.report.facts["Flush"] += f"; a flush takes {seconds_text(median)}"
