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
import logging
import os
import random
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
from hypothesis import Phase

from socketio_eventlog.errors import StoreError
from socketio_eventlog.offsets import Epochs
from socketio_eventlog.records import Change, Event, Membership, Offset, RoomLeft, SessionAway
from socketio_eventstore.core import replay
from socketio_eventstore.core.commit_queue import CommitQueue
from socketio_eventstore.core.fan_out import FanOut
from socketio_eventstore.core.operation import Context
from socketio_eventstore.core.operations import CloseRoom, Emit
from socketio_eventstore.core.recent_events import RecentEvents
from socketio_eventstore.core.recovery import Recovery, RecoveryResult, Restore
from socketio_eventstore.core.registry import Registry
from socketio_eventstore.core.replay import Replayer
from socketio_eventstore.core.retention import Retention
from socketio_eventstore.core.session_operations import AcceptSession, MarkAway
from socketio_eventstore.core.sessions import ClientConnection, Session, SessionConnection, State
from support.histories import EXAMPLES, play, play_many_by_chance
from support.simulated_network import Wire
from support.simulated_store import SimulatedLog
from support.simulated_world import LOGGED, WORLDS


@pytest.fixture(autouse=True)
def small_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make a few events several pages; let only ``Faults`` handle the logs of the core."""
    monkeypatch.setattr(replay, "PAGE_EVENTS", 2)
    monkeypatch.setattr(replay, "READ_EVENTS", 3)
    root = logging.getLogger("socketio_eventstore")
    monkeypatch.setattr(root, "handlers", [LOGGED])
    monkeypatch.setattr(root, "propagate", False)


@pytest.fixture
def without_coverage() -> Iterator[None]:
    """Run without coverage, which doubles the time; the other histories cover the same lines."""
    trace = sys.gettrace()
    sys.settrace(None)
    yield
    sys.settrace(trace)


@pytest.mark.timeout(0)
def test_clients_match_their_twins_with_hypothesis() -> None:
    """Every client has the events of its twin in the histories of hypothesis."""
    play(EXAMPLES)


@pytest.mark.timeout(0)
@pytest.mark.usefixtures("without_coverage")
def test_clients_match_their_twins_in_random_histories() -> None:
    """Every client has the events of its twin in thousands of random histories."""
    first = int(os.environ.get("STATE_MACHINE_SEED") or random.randrange(2**32))
    play_many_by_chance(first, 10 * EXAMPLES)


Break = Callable[[pytest.MonkeyPatch], None]


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

    async def one_too_early(self: Recovery, *arguments: Any) -> Restore | RecoveryResult:
        answer = await decide(self, *arguments)
        return Restore(answer.session, answer.cursor - 1) if isinstance(answer, Restore) else answer

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
    apply, process = Emit.apply, CommitQueue._process

    async def too_early(self: CommitQueue, groups: Any) -> None:
        for group in groups:
            for operation in group[0]:
                if isinstance(operation, Emit) and operation.event.name == "e":
                    self.context.recent_events.position += 1
                    apply(operation, self.context, (operation.event,))
        self.context.fan_out.flush()
        await process(self, groups)

    patch.setattr(CommitQueue, "_process", too_early)
    patch.setattr(Emit, "apply", lambda self, context, changes: None)


def disconnection_confirms_undelivered_events(patch: pytest.MonkeyPatch) -> None:
    changes = MarkAway.changes

    def confirm_all(self: MarkAway, registry: Registry) -> Sequence[Change]:
        return [
            SessionAway(c.namespace, c.sid, c.disconnected_at, c.away_since, 10**6)
            for c in changes(self, registry)
            if isinstance(c, SessionAway)
        ]

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
            session.confirm(WORLDS[-1].queue.position if session.state in live else pinged)

    patch.setattr(Wire, "pong_received", confirm_all)


def events_are_pruned_by_age_alone(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Retention, "floor", lambda self: self._queue.position)


def operation_of_a_failed_batch_takes_effect(patch: pytest.MonkeyPatch) -> None:
    def anyway(self: CommitQueue, groups: Any, changes: Any, error: StoreError) -> None:
        for operations, result, _ in groups:
            self._take_effect(operations, result)

    patch.setattr(CommitQueue, "_refuse", anyway)


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
    apply = AcceptSession.apply

    def any_claim(self: AcceptSession, context: Context, changes: Sequence[Change]) -> bool:
        self.attached = self.session.current
        return apply(self, context, changes)

    patch.setattr(AcceptSession, "apply", any_claim)
    patch.setattr(ClientConnection, "abort", lambda self, reason: None)


def close_room_ignores_away_sessions(patch: pytest.MonkeyPatch) -> None:
    def only_present(self: CloseRoom, registry: Registry) -> Sequence[Change]:
        members = registry.rooms.get((self.namespace, self.room), {})
        here = [session.sid for session in members if session.current.connection is not None]
        return [RoomLeft(self.namespace, sid, self.room) for sid in here]

    patch.setattr(CloseRoom, "changes", only_present)


def close_room_ignores_joins_of_its_transaction(patch: pytest.MonkeyPatch) -> None:
    def already_in_memory(self: CloseRoom, registry: Registry) -> Sequence[Change]:
        members = registry.rooms.get((self.namespace, self.room), {})
        return [RoomLeft(self.namespace, session.sid, self.room) for session in members]

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
        play_many_by_chance(0, 20_000)


@pytest.mark.timeout(0)
def test_hypothesis_prints_a_short_program(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hypothesis prints a history that fails as a short program."""
    session_is_live_before_its_connect(monkeypatch)
    with pytest.raises(AssertionError) as found:
        play(1_000, [Phase.generate, Phase.shrink], derandomize=True)
    program = [note for note in found.value.__notes__ if note.startswith("state.")]
    assert "state.begin" in program[0] and program[-1] == "state.teardown()" and len(program) < 10
