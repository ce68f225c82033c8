"""Forms of the store on PostgreSQL that break one rule each, by the scenario that must notice."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final, TypeAlias

import pytest

from socketio_eventlog.errors import StoreError
from socketio_eventlog.postgres import connection, log, order, stored, tail, writer
from support import postgres_scenarios as scenarios
from support.postgres import Cluster

Sabotage: TypeAlias = Callable[[pytest.MonkeyPatch, Cluster, str], None]
Scenario: TypeAlias = Callable[[Cluster, str], Awaitable[None]]


def in_the_database(function: str, *replacements: tuple[str, str]) -> Sabotage:
    """Replace parts of a function of the database."""

    def replace(_patch: pytest.MonkeyPatch, cluster: Cluster, database: str) -> None:
        source = cluster.sql(database, f"SELECT pg_get_functiondef('eventstore.{function}'::regproc)")
        for good, bad in replacements:
            assert good in source, f"{good} is not in {function}"
            source = source.replace(good, bad)
        cluster.sql(database, source)

    return replace


def both(one: Sabotage, other: Sabotage) -> Sabotage:
    """Do both."""

    def replace(patch: pytest.MonkeyPatch, cluster: Cluster, database: str) -> None:
        one(patch, cluster, database)
        other(patch, cluster, database)

    return replace


def flush_is(statement: str) -> Sabotage:
    """Flush with a statement that flushes nothing."""

    def replace(patch: pytest.MonkeyPatch, _cluster: Cluster, _database: str) -> None:
        patch.setattr(connection, "FLUSH", statement)

    return replace


async def _flushes_nothing(_connection: object) -> None:
    """Flush nothing."""


def snapshot_has_no_flush(patch: pytest.MonkeyPatch, _cluster: Cluster, _database: str) -> None:
    patch.setattr(stored, "flush", _flushes_nothing)


def own_batch_takes_effect_at_append(patch: pytest.MonkeyPatch, _cluster: Cluster, _database: str) -> None:
    """What the cluster adapters of socket.io do."""
    patch.setattr(order.Order, "is_next", lambda self, row: True)


def retried_batch_takes_a_new_number(patch: pytest.MonkeyPatch, _cluster: Cluster, _database: str) -> None:
    pause = writer.Writer._pause

    async def renumbered(self: writer.Writer, error: StoreError, *, is_uncertain: bool) -> None:
        await pause(self, error, is_uncertain=is_uncertain)
        if (pending := self._order._pending) is not None:
            pending.number += 1

    patch.setattr(writer.Writer, "_pause", renumbered)


def notices_of_failed_flushes_are_ignored(
    patch: pytest.MonkeyPatch, _cluster: Cluster, _database: str
) -> None:
    patch.setattr(connection.FailedFlush, "__call__", lambda self, notice: None)


def reader_checks_no_chain(patch: pytest.MonkeyPatch, _cluster: Cluster, _database: str) -> None:
    patch.setattr(tail.Tail, "_is_same_history", lambda self, row, seen: True)


def offset_names_the_epoch_of_the_connection(
    patch: pytest.MonkeyPatch, _cluster: Cluster, _database: str
) -> None:
    patch.setattr(log.PostgresLog, "_epoch_at", lambda self, sequence: self._writer._epoch)


_ANOTHER_EPOCH: Final = "RAISE EXCEPTION 'another epoch begins' USING ERRCODE = 'SE002';"

SABOTAGES: Final[dict[str, tuple[Sabotage, Scenario]]] = {
    "an empty transaction instead of a flush": (flush_is("SELECT 1"), scenarios.own_batches_are_durable),
    "a transaction id instead of a flush": (
        flush_is("SELECT set_config('synchronous_commit', 'on', true), 1 FROM txid_current_snapshot()"),
        scenarios.own_batches_are_durable,
    ),
    "a message without a transaction instead of a flush": (
        flush_is("SELECT pg_logical_emit_message(false, 'eventstore', '')"),
        scenarios.own_batches_are_durable,
    ),
    "a flush that is asynchronous": (
        flush_is(
            "SELECT set_config('synchronous_commit', 'off', true),"
            " pg_logical_emit_message(true, 'eventstore', '')"
        ),
        scenarios.own_batches_are_durable,
    ),
    "the notice of a cancelled wait is ignored": (
        notices_of_failed_flushes_are_ignored,
        scenarios.a_cancelled_wait_is_no_flush,
    ),
    "a reader that does not flush": (
        in_the_database("follow", ("IF p_flush AND", "IF false AND")),
        scenarios.batches_of_others_are_durable,
    ),
    "a snapshot that is not flushed": (snapshot_has_no_flush, scenarios.snapshots_are_durable),
    "own batches take effect at their append": (
        own_batch_takes_effect_at_append,
        scenarios.all_nodes_see_one_order,
    ),
    "a retried batch takes a new number": (
        retried_batch_takes_a_new_number,
        scenarios.a_cut_append_is_stored_once,
    ),
    "an epoch begins with a connection only": (
        in_the_database("append", (_ANOTHER_EPOCH, "NULL;")),
        scenarios.an_epoch_begins_in_an_append,
    ),
    "a crash is not seen by the canary": (
        both(
            in_the_database("append", (_ANOTHER_EPOCH, "NULL;")),
            in_the_database(
                "keep_epoch",
                ("FROM eventstore.canary AS c\n  JOIN (", "FROM ("),
                ("LIMIT 1) AS e USING (epoch)", "LIMIT 1) AS e"),
                (" AND c.server_start = pg_postmaster_start_time()", ""),
                ("AND c.log = pg_relation_filenode('eventstore.batches')", ""),
            ),
        ),
        scenarios.a_crash_begins_one_epoch,
    ),
    "an offset names the epoch of the connection": (
        offset_names_the_epoch_of_the_connection,
        scenarios.an_offset_names_the_epoch_of_its_batch,
    ),
    "a reader checks no chain": (reader_checks_no_chain, scenarios.a_reader_notices_another_history),
    "an append checks no chain": (
        in_the_database("append", ("batch = p_seen AND chain = p_chain", "batch = p_seen")),
        scenarios.a_writer_notices_another_history,
    ),
    "a dead node is not fenced": (
        in_the_database("append", ("FROM eventstore.nodes WHERE node = p_node", "FROM eventstore.nodes")),
        scenarios.a_silent_node_is_fenced,
    ),
    "a node is dead at once": (
        in_the_database("nodes_died", ("CASE WHEN has_beaten THEN p_lease ELSE 60 END", "0")),
        scenarios.a_silent_node_is_fenced,
    ),
    "a floor confirms what it does not cover": (
        in_the_database("declare_dead", ("claimed_in <= v_node.applied", "true")),
        scenarios.a_death_confirms_what_the_floor_covers,
    ),
    "a late word needs no claim": (
        in_the_database("decide", ("claim = (r->>2)::integer", "true")),
        scenarios.a_late_word_has_no_effect,
    ),
    "a claim ends the absence": (
        in_the_database("decide", ("away_since = coalesce(away_since, p_uptime)", "away_since = p_uptime")),
        scenarios.a_late_word_has_no_effect,
    ),
    "each node counts the time by itself": (
        in_the_database(
            "append",
            (
                "least(greatest(v_now - v_head.at, 0), 4)",
                "least(greatest(v_now - (SELECT max(at) FROM eventstore.batches WHERE node = p_node), 0), 4)",
            ),
        ),
        scenarios.time_runs_once,
    ),
}
"""By the name of the form."""
