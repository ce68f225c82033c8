"""Hundreds of histories of three nodes over one log: every client has the events of its twin.

The nodes are the real core from CONNECT packet to bytes; the log that they share is simulated
(``cluster_log``). Nodes are killed, stand still until they are declared dead, and wait for their appends and
batches; answers are lost; clients go from node to node, and their claims cross. The steps are in
``cluster_histories``, the invariants in ``cluster_world`` and ``cluster_judge``.

``CLUSTER_EXAMPLES=10000 pytest -n 2 tests/properties/test_cluster.py -k random`` tries more histories, and
``CLUSTER_SEED=7`` begins with the one that has this seed.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Final

import pytest

from socketio_eventlog.changes import Batch, Committed, NodeDied
from socketio_eventlog.events import Event
from socketio_eventlog.log import HEARTBEAT_SECONDS
from socketio_eventlog.session_changes import SessionAway, SessionClaimed, SessionEnd
from socketio_eventlog.snapshot import NodeRecord
from socketio_eventstore.core import effects, lease, retention, unstored
from socketio_eventstore.core.appending import Appending
from socketio_eventstore.core.context import Context
from socketio_eventstore.core.expiry import Expiry
from socketio_eventstore.core.nodes import Nodes
from socketio_eventstore.core.operations import Emit
from socketio_eventstore.core.recovery import Recovery
from socketio_eventstore.core.replay import Replayer
from socketio_eventstore.core.session_operations import EndSession
from socketio_eventstore.core.sessions import Session, State
from support.cluster_histories import ClusterHistories
from support.cluster_log import EPOCH, Handle
from support.playing import play, play_many_by_chance
from support.simulated_network import Wire
from support.simulated_state import LogState, SessionKey

EXAMPLES: Final = int(os.environ.get("CLUSTER_EXAMPLES", "500"))
PARTS: Final = 5
"""The histories are several tests, which can run at the same time."""
SEED: Final = int(os.environ.get("CLUSTER_SEED") or random.randrange(2**32))
SABOTAGED: Final = 200
"""The histories that must find a sabotage."""


@pytest.mark.parametrize("part", range(PARTS))
@pytest.mark.timeout(0)
@pytest.mark.usefixtures("without_coverage")
def test_twins_match_in_random_histories_of_nodes(part: int) -> None:
    """Every client has the events of its twin in random histories of three nodes."""
    count = EXAMPLES // PARTS
    play_many_by_chance(ClusterHistories, SEED + part * count, count)


@pytest.mark.timeout(0)
def test_twins_match_in_the_cluster_of_hypothesis() -> None:
    """Every client has the events of its twin in the histories of hypothesis."""
    play(ClusterHistories, EXAMPLES // 20)


Break = Callable[[pytest.MonkeyPatch], None]
_Effect = Callable[[Context, Batch, Committed], Any]


def own_events_take_effect_at_append(patch: pytest.MonkeyPatch) -> None:
    append = Appending._append_once

    async def at_once(
        self: Appending, changes: Sequence[Any], groups: Any, counts: Any, pending: int
    ) -> None:
        handle = self.context.log
        assert isinstance(handle, Handle)
        answer = handle.append

        def appended(changes: Sequence[Any]) -> Any:
            place = answer(changes)
            place.add_done_callback(lambda done: _broadcast(self.context, handle, done))
            return place

        handle.append = appended
        try:
            await append(self, changes, groups, counts, pending)
        finally:
            del handle.append

    def without_sending(self: Emit, context: Context, batch: Batch, committed: Sequence[Committed]) -> str:
        event, recent_events, position = self.event, context.recent_events, committed[0].position
        recent_events.position = position
        offset = f"{EPOCH}.{position}"
        frames = context.encoder.event(event.namespace, event.payload, event.attachments, offset)
        recent_events.append(position, event, frames)
        return offset

    patch.setattr(Appending, "_append_once", at_once)
    patch.setattr(Emit, "apply", without_sending)


def _broadcast(context: Context, handle: Handle, place: Any) -> None:
    if place.cancelled() or place.exception() is not None:
        return
    for committed in handle.shared.batches[place.result() - 1].changes:
        if isinstance(committed.change, Event):
            unstored.broadcast(context, committed.change, f"{EPOCH}.{committed.position}")
    context.fan_out.flush()


def session_is_live_before_its_replay_met_the_order(patch: pytest.MonkeyPatch) -> None:
    def begin(self: Replayer, session: Session) -> None:
        original(self, session)
        if session.state is State.REPLAYING:
            self._registry.go_live(session)

    original = Replayer.begin
    patch.setattr(Replayer, "begin", begin)


def retried_batch_takes_a_new_number(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Handle, "number_of_retry", lambda self, own: own + 10**6)


def late_away_needs_no_claim(patch: pytest.MonkeyPatch) -> None:
    decide = LogState.decide_by_claim

    def anyway(self: LogState, change: Any) -> bool:
        row = self.sessions.get((change.namespace, change.sid))
        if isinstance(change, SessionAway) and row is not None:
            change = replace(change, claim=row.claim)
        return decide(self, change)

    patch.setattr(LogState, "decide_by_claim", anyway)


def slow_claim_needs_no_proof_of_life(patch: pytest.MonkeyPatch) -> None:
    async def answers(self: Wire) -> bool:
        return True

    patch.setattr(Wire, "answers_ping", answers)


def floor_speaks_for_sessions_claimed_later(patch: pytest.MonkeyPatch) -> None:
    def covering(session: Session, nodes: Nodes) -> NodeRecord | None:
        return nodes.get(session.node) if session.state is State.ELSEWHERE else None

    patch.setattr(retention, "covering", covering)


def death_confirms_what_the_floor_does_not_cover(patch: pytest.MonkeyPatch) -> None:
    remove = Nodes.remove

    def all_covered(self: Nodes, node: str) -> NodeRecord | None:
        record = remove(self, node)
        return record and replace(record, applied=10**9)

    patch.setattr(Nodes, "remove", all_covered)
    patch.setattr(LogState, "is_covered", lambda self, row, record: True)


def claim_clears_the_absence(patch: pytest.MonkeyPatch) -> None:
    claim = LogState.claim

    def cleared(self: LogState, key: SessionKey, node: str) -> tuple[bool, int]:
        if (row := self.sessions.get(key)) is not None:
            row.away_since = self.uptime
        return claim(self, key, node)

    def clear(session: Session, context: Context) -> None:
        session.away_since = None

    patch.setattr(LogState, "claim", cleared)
    _before(patch, SessionClaimed, clear)


def node_without_contact_keeps_its_clients(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(lease, "CONTACT_SECONDS", 10**9)


def session_expires_by_a_clock_of_the_node(patch: pytest.MonkeyPatch) -> None:
    def early(self: Recovery, session: Session, uptime: float) -> bool:
        return is_expired(self, session, uptime + 2 * HEARTBEAT_SECONDS)

    is_expired = Recovery.is_expired
    patch.setattr(Recovery, "is_expired", early)


def session_expires_without_its_handler(patch: pytest.MonkeyPatch) -> None:
    async def expire(self: Expiry, session: Session) -> None:
        await self._queue.submit(EndSession(session, SessionEnd.EXPIRED))

    patch.setattr(Expiry, "_expire", expire)


def death_aborts_no_superseded_connections(patch: pytest.MonkeyPatch) -> None:
    _before(patch, NodeDied, _forget_superseded)


def absence_aborts_no_superseded_connections(patch: pytest.MonkeyPatch) -> None:
    _before(patch, SessionAway, _forget_superseded)


def _forget_superseded(session: Session, context: Context) -> None:
    session.superseded = ()


def _before(patch: pytest.MonkeyPatch, kind: type[Any], do: Callable[[Session, Context], None]) -> None:
    """Do something to the sessions of a change before the change takes effect."""
    effect: _Effect = effects._EFFECTS[kind]

    def changed(context: Context, batch: Batch, committed: Committed) -> Any:
        change: Any = committed.change
        for session in context.registry:
            concerned = session.node == change.node if kind is NodeDied else session.sid == change.sid
            if concerned and committed.took_effect:
                do(session, context)
        return effect(context, batch, committed)

    patch.setitem(effects._EFFECTS, kind, changed)


BREAKS: list[Break] = [
    own_events_take_effect_at_append,
    session_is_live_before_its_replay_met_the_order,
    retried_batch_takes_a_new_number,
    late_away_needs_no_claim,
    slow_claim_needs_no_proof_of_life,
    floor_speaks_for_sessions_claimed_later,
    death_confirms_what_the_floor_does_not_cover,
    claim_clears_the_absence,
    node_without_contact_keeps_its_clients,
    session_expires_by_a_clock_of_the_node,
    session_expires_without_its_handler,
    death_aborts_no_superseded_connections,
    absence_aborts_no_superseded_connections,
]


@pytest.mark.parametrize("broken", BREAKS, ids=lambda broken: broken.__name__.replace("_", " "))
@pytest.mark.timeout(0)
@pytest.mark.usefixtures("without_coverage")
def test_broken_cluster_is_detected(broken: Break, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two hundred random histories detect nodes or a log with one fault."""
    broken(monkeypatch)
    with pytest.raises(AssertionError, match="seed"):
        play_many_by_chance(ClusterHistories, 0, SABOTAGED)
