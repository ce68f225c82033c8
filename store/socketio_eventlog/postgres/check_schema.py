"""The check that a schema has all parts of its revision: a part may be lost in a restore, or dropped."""

from __future__ import annotations

from typing import Final

from socketio_eventlog.postgres.check_report import Probe

_TABLES: Final = """
alembic_version altered_ranges answers attachments batches beats canary ended_sessions epochs events
index_lists index_segments log_state nodes positions publications rooms session_history sessions
"""
_VIEWS: Final = "current_sessions recent_events session_timelines waiting_sessions"
_FUNCTIONS: Final = """
append beat decide declare_dead enter fingerprint follow follow_with_events index_of_node iso_time join_log
keep_ended keep_epoch living_nodes nodes_died note note_altered note_altered_attachments note_altered_index
note_backend note_before note_opened note_truncated other_nodes prune prune_batches record_epoch
remaining_seconds room_names write_run
"""
TABLES: Final = frozenset(_TABLES.split())
VIEWS: Final = frozenset(_VIEWS.split())
FUNCTIONS: Final = frozenset(_FUNCTIONS.split())
"""The functions of ``HEAD_REVISION``. A newer revision keeps the functions, for older programs."""

_FOUND: Final = """
SELECT CASE relkind WHEN 'v' THEN 'view' ELSE 'table' END, relname::text FROM pg_class
WHERE relnamespace = 'eventstore'::regnamespace
UNION
SELECT 'function', proname::text FROM pg_proc WHERE pronamespace = 'eventstore'::regnamespace
"""


def completeness(probe: Probe) -> None:
    """Check the existence of each table, view and function."""
    found = set(probe.rows(_FOUND))
    for kind, names in (("table", TABLES), ("view", VIEWS), ("function", FUNCTIONS)):
        probe.report.problems += [
            f"objects: the {kind} eventstore.{name} is missing: put a backup back"
            for name in sorted(names)
            if (kind, name) not in found
        ]
