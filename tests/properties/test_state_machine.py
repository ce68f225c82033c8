"""Thousands of histories of the core: every client has the events of its twin, which never disconnects.

Hypothesis drives server, network, disk and clients: it emits, joins, cuts, reconnects, crashes and loses
writes in any order, shrinks a history that fails, and prints it as a program. The core is the real one
from CONNECT packet to bytes (admission, dispatch, recovery, replay, retention); its log is simulated
(``simulated_store``), its clocks are numbers, and each task waits for the next rule only. The rules are in
``histories``, the invariants after each rule in ``simulated_world``.

``STATE_MACHINE_EXAMPLES=5000 pytest tests/properties/test_state_machine.py`` tries more histories.
"""

from __future__ import annotations

import itertools
import os
import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import Phase

from socketio_eventlog.changes import Batch, Change, Committed, Pruned
from socketio_eventlog.errors import StoreError
from socketio_eventlog.events import Event, Offset
from socketio_eventlog.offsets import Epochs
from socketio_eventlog.session_changes import RoomLeft, SessionAway
from socketio_eventlog.snapshot import Membership
from socketio_eventstore.core import session_operations, unstored
from socketio_eventstore.core.appending import Appending
from socketio_eventstore.core.context import Context
from socketio_eventstore.core.effects_in_order import EffectsInOrder
from socketio_eventstore.core.fan_out import FanOut
from socketio_eventstore.core.operations import CloseRoom, Emit
from socketio_eventstore.core.recent_events import RecentEvents
from socketio_eventstore.core.recovery import Recovery, RecoveryResult
from socketio_eventstore.core.replay import Replayer
from socketio_eventstore.core.retention import Retention
from socketio_eventstore.core.session_operations import MarkAway
from socketio_eventstore.core.sessions import ClientConnection, Session, SessionConnection, State
from support.histories import Histories
from support.playing import EXAMPLES, play, play_many_by_chance
from support.simulated_network import Wire
from support.simulated_state import LogState
from support.simulated_store import SimulatedLog
from support.simulated_world import WORLDS


@pytest.mark.timeout(0)
def test_clients_match_their_twins_with_hypothesis() -> None:
    """Every client has the events of its twin in the histories of hypothesis."""
    play(Histories, EXAMPLES)


@pytest.mark.timeout(0)
@pytest.mark.usefixtures("without_coverage")
def test_clients_match_their_twins_in_random_histories() -> None:
    """Every client has the events of its twin in thousands of random histories."""
    first = int(os.environ.get("STATE_MACHINE_SEED") or random.randrange(2**32))
    play_many_by_chance(Histories, first, 10 * EXAMPLES)


Break = Callable[[pytest.MonkeyPatch], None]
NOTHING = Pruned(0)
"""A change without effect: an operation has at least one."""


def past_of_a_room_leaks_to_new_members(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Membership, "covers", lambda self, n: self.through is None or n <= self.through)
    patch.setattr(Session, "receives", lambda self, event, _: _is_for(self, event))


def _is_for(session: Session, event: Event) -> bool:
    if event.namespace != session.namespace or session.sid in event.skip:
        return False
    return event.rooms is None or any(m.room in event.rooms for m in session.memberships() if m.room)


def events_before_a_leave_are_lost(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Session, "leave", lambda self, room, _: self.joined.pop(room, None))


def second_join_moves_the_beginning(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Session, "enter", lambda self, room, position: self.joined.update({room: position}))


def first_recent_event_is_skipped_when_going_live(patch: pytest.MonkeyPatch) -> None:
    after = RecentEvents.after
    patch.setattr(RecentEvents, "after", lambda self, n: itertools.islice(after(self, n), 1, None))


def last_event_is_sent_again_on_recovery(patch: pytest.MonkeyPatch) -> None:
    decide = Recovery.decide

    async def one_too_early(self: Recovery, *arguments: Any) -> int | RecoveryResult:
        answer = await decide(self, *arguments)
        return answer - 1 if isinstance(answer, int) else answer

    patch.setattr(Recovery, "decide", one_too_early)


def replay_ignores_skipped_sids(patch: pytest.MonkeyPatch) -> None:
    missed_page = Replayer._send_page

    def to_all(self: Replayer, replay: Any, page: Any, events: Any, built: Any) -> None:
        for sequence, logged in events.items():
            event = logged.event
            all_of_them = Event(
                event.namespace, event.name, event.payload, (), event.rooms, (), event.emitted_at
            )
            events[sequence] = type(logged)(sequence, all_of_them)
        missed_page(self, replay, page, events, built)

    patch.setattr(Replayer, "_send_page", to_all)


def offsets_of_a_lost_future_are_accepted(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Epochs, "check", lambda self, offset, head: offset)


def offsets_are_given_out_twice(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(SimulatedLog, "offset_at", lambda self, n: Offset(self.disk.epochs[0].epoch, n))
    patch.setattr(SimulatedLog, "offset_of", SimulatedLog.offset_at)


def events_are_sent_before_they_are_stored(patch: pytest.MonkeyPatch) -> None:
    process = Appending.process

    async def too_early(self: Appending, groups: Any) -> None:
        context = self.context
        for operations, _, _ in groups:
            for operation in operations:
                if isinstance(operation, Emit) and operation.event.name == "e":
                    context.recent_events.position += 1
                    unstored.broadcast(context, operation.event, context.offset)
        context.fan_out.flush()
        await process(self, groups)

    patch.setattr(Appending, "process", too_early)
    patch.setattr(Emit, "apply", lambda self, context, batch, committed: None)


def disconnection_confirms_undelivered_events(patch: pytest.MonkeyPatch) -> None:
    changes = MarkAway.changes

    def confirm_all(self: MarkAway) -> Sequence[Change]:
        return [replace(c, confirmed=10**6) for c in changes(self) if isinstance(c, SessionAway)]

    patch.setattr(MarkAway, "changes", confirm_all)


def heartbeat_confirms_unsent_events_of_a_replay(patch: pytest.MonkeyPatch) -> None:
    def ping_all(self: ClientConnection, position: int, now: float) -> None:
        for session in self.sessions.values():
            session.current.pinged_position, session.current.pinged_at = position, now

    patch.setattr(ClientConnection, "ping_written", ping_all)


def pong_confirms_events_after_its_ping(patch: pytest.MonkeyPatch) -> None:
    live = {State.LIVE}

    def confirm_all(self: Wire) -> None:
        for session in self.sessions.values():
            pinged = session.current.pinged_position
            session.confirm(WORLDS[-1].server.queue.position if session.state in live else pinged)

    patch.setattr(Wire, "pong_received", confirm_all)


def events_are_pruned_by_age_alone(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Retention, "floor", lambda self, now: self._queue.position)


def operation_of_a_failed_batch_takes_effect(patch: pytest.MonkeyPatch) -> None:
    async def anyway(self: EffectsInOrder, groups: Any, error: StoreError) -> None:
        context = self._context
        nodes = context.nodes
        for operations, result, _ in groups:
            for operation in operations:
                committed = [Committed(change, context.position, claim=1) for change in operation.changes()]
                batch = Batch(nodes.batch, nodes.own, None, nodes.uptime, committed)
                last = result if operation is operations[-1] else None
                if committed:
                    self._take_one(operation, batch, committed, last)
                else:
                    self.send(operation, last)
        self._flush_schedule.flush()

    patch.setattr(EffectsInOrder, "refuse", anyway)


def skipped_sessions_receive_the_event(patch: pytest.MonkeyPatch) -> None:
    broadcast = FanOut.broadcast
    patch.setattr(FanOut, "broadcast", lambda self, to, frames: broadcast(self, (*to[:2], ()), frames))


def session_is_live_before_its_connect(patch: pytest.MonkeyPatch) -> None:
    def eager(self: Session, *arguments: Any, **more: Any) -> SessionConnection:
        attached = attach(self, *arguments, **more)
        self.state = State.LIVE
        return attached

    attach = Session.attach
    patch.setattr(Session, "attach", eager)


def late_acceptance_of_an_older_claim_counts(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(LogState, "is_latest", lambda self, row, claim: True)
    accept = session_operations._accept

    def any_claim(context: Context, session: Session, attached: SessionConnection, pid: str | None) -> bool:
        return accept(context, session, session.current, pid)

    patch.setattr(session_operations, "_accept", any_claim)
    patch.setattr(ClientConnection, "abort", lambda self, reason: None)


def close_room_ignores_away_sessions(patch: pytest.MonkeyPatch) -> None:
    def only_present(self: CloseRoom) -> Sequence[Change]:
        here = [session.sid for session in _members(self) if session.current.connection is not None]
        return [RoomLeft(self.namespace, sid, self.room) for sid in here] or [NOTHING]

    patch.setattr(CloseRoom, "changes", only_present)


def _members(closing: CloseRoom) -> Sequence[Session]:
    return [*WORLDS[-1].server.registry.rooms.get((closing.namespace, closing.room), {})]


def close_room_ignores_joins_of_its_transaction(patch: pytest.MonkeyPatch) -> None:
    def already_in_memory(self: CloseRoom) -> Sequence[Change]:
        left = [RoomLeft(self.namespace, session.sid, self.room) for session in _members(self)]
        return left or [NOTHING]

    patch.setattr(CloseRoom, "changes", already_in_memory)


BREAKS: list[Break] = [
    past_of_a_room_leaks_to_new_members,
    events_before_a_leave_are_lost,
    second_join_moves_the_beginning,
    first_recent_event_is_skipped_when_going_live,
    last_event_is_sent_again_on_recovery,
    replay_ignores_skipped_sids,
    offsets_of_a_lost_future_are_accepted,
    offsets_are_given_out_twice,
    events_are_sent_before_they_are_stored,
    disconnection_confirms_undelivered_events,
    heartbeat_confirms_unsent_events_of_a_replay,
    pong_confirms_events_after_its_ping,
    events_are_pruned_by_age_alone,
    operation_of_a_failed_batch_takes_effect,
    skipped_sessions_receive_the_event,
    session_is_live_before_its_connect,
    close_room_ignores_away_sessions,
    close_room_ignores_joins_of_its_transaction,
]


@pytest.mark.parametrize("broken", BREAKS, ids=lambda broken: broken.__name__.replace("_", " "))
@pytest.mark.timeout(0)
@pytest.mark.usefixtures("without_coverage")
def test_broken_core_is_detected(broken: Break, monkeypatch: pytest.MonkeyPatch) -> None:
    """The random histories detect a core with one fault."""
    broken(monkeypatch)
    with pytest.raises(AssertionError, match="seed"):
        play_many_by_chance(Histories, 0, 20_000)


@pytest.mark.timeout(0)
def test_hypothesis_prints_a_short_program(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hypothesis prints a history that fails as a short program."""
    session_is_live_before_its_connect(monkeypatch)
    with pytest.raises(AssertionError) as found:
        play(Histories, 1_000, [Phase.generate, Phase.shrink], derandomize=True)
    program = [note for note in found.value.__notes__ if note.startswith("state.")]
    assert "state.begin" in program[0] and program[-1] == "state.teardown()" and len(program) < 10
