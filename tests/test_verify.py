"""``verify``: a server that keeps its promises passes, and every promise that is broken on purpose is found."""

from __future__ import annotations

import os
import re
import select
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import click
import pytest
from click.testing import CliRunner
from processes import DEADLINE

from socketio_eventstore.server.commands import commands
from socketio_eventstore.server.verify import program
from socketio_eventstore.server.verify.judge import Fault
from socketio_eventstore.server.verify.plan import Settings, make_plan
from socketio_eventstore.server.verify.process import CannotRun
from socketio_eventstore.server.verify.world import Outcome, run

SMALL = Settings(clients=8, rooms=3, cuts=20, kills=2, events=400, seed=1)
NAMES = [fault.value for fault in Fault]


async def carried_out(settings: Settings, folder: Path, sabotage: str = "") -> Outcome:
    """A run against a server into which the sabotage was put before it started."""
    script = folder / "sabotaged.py"
    script.write_text(f"{sabotage}\nfrom socketio_eventstore.server.__main__ import main\n\nmain()\n")
    scratch = folder / "scratch"
    scratch.mkdir()
    steps: list[None] = []
    plan = make_plan(settings)
    outcome = await run(plan, scratch, lambda: steps.append(None), (sys.executable, str(script), "serve"))
    assert len(steps) == len(plan.steps)
    return outcome


async def test_a_server_that_keeps_its_promises_passes(tmp_path: Path) -> None:
    outcome = await carried_out(SMALL, tmp_path)
    verdict = outcome.verdict
    assert verdict.kept, verdict.findings[:5]
    assert outcome.notes == ()
    assert (outcome.done["cuts"], outcome.done["kills"]) == (SMALL.cuts, SMALL.kills)
    assert outcome.events >= SMALL.events * 0.9
    assert verdict.recovered == verdict.returns > SMALL.kills * SMALL.clients
    assert all(verdict.checked[fault] > 0 for fault in Fault)


SENT_BEFORE_COMMIT = """
import asyncio
from itertools import chain
from socketio_eventstore.server.dispatch import Dispatcher
from socketio_eventstore.store.model import Event

async def process(self, groups):
    batch = list(chain.from_iterable(groups))
    changes, positions, number = [], [], self.position
    for turn in batch:
        wanted = turn.changes(self.registry)
        changes += wanted
        number += sum(type(change) is Event for change in wanted)
        positions.append(number)
    await self._apply(batch, positions)
    await asyncio.sleep(0.02)  # the moment in which a crash takes what was sent
    await self.log.commit(changes)

Dispatcher._process = process
"""

OFFSET_REUSED = """
from socketio_eventstore.server.dispatch import Dispatcher

def offset(self):
    return str(self.log.place(self.position - (self.position % 20 == 0)))

Dispatcher.offset = property(offset)
"""

REPLAY_GAP = """
from socketio_eventstore.server.replay import Replayer
honest = Replayer._put

def put(self, session, number, frames):
    if number % 10:
        honest(self, session, number, frames)

Replayer._put = put
"""

REPLAYED_TWICE = """
from socketio_eventstore.server.replay import Replayer
honest = Replayer._put

def put(self, session, number, frames):
    for _ in range(1 if number % 10 else 2):
        honest(self, session, number, frames)

Replayer._put = put
"""

REPLAYED_BACKWARDS = """
from socketio_eventstore.server.tail import Tail
honest = Tail.after
Tail.after = lambda self, number: reversed(list(honest(self, number)))
"""

JOINED_FOR_THE_PAST_TOO = """
from socketio_eventstore.server.registry import Session
from socketio_eventstore.store.model import Interval

def memberships(self):
    for room in (None, self.sid, *self.joined):
        yield Interval(room, self.start.number, None)
    yield from self.left

Session.memberships = memberships
"""

SKIPPED_IN_VAIN = """
from socketio_eventstore.server.outbox import Outbox
honest = Outbox.broadcast
Outbox.broadcast = lambda self, audience, frames: honest(self, (*audience[:2], ()), frames)
"""

RECOVERY_REFUSED = """
from itertools import count
from socketio_eventstore.server.recovery import Recovery, Result
honest, times = Recovery.decide, count(1)

async def decide(self, *arguments, **more):
    return Result.EXPIRED if next(times) % 5 == 0 else await honest(self, *arguments, **more)

Recovery.decide = decide
"""

JOIN_NOT_STORED = """
from socketio_eventstore.server.turns import Join
Join.changes = lambda self, registry: ()
"""

LOST_ROWS = """
from socketio_eventstore.store import events
honest = events.insert

def insert(connection, first_number, rows):
    honest(connection, first_number, rows)
    connection.execute("DELETE FROM events WHERE offset >= ? AND offset % 20 = 0", (first_number,))

events.insert = insert
"""


@pytest.mark.parametrize(
    ("sabotage", "found"),
    [
        pytest.param(SENT_BEFORE_COMMIT, {Fault.UNLOGGED}, id="sent before commit"),
        pytest.param(OFFSET_REUSED, {Fault.REUSED}, id="offset reused"),
        pytest.param(REPLAY_GAP, {Fault.LOST}, id="replay gap"),
        pytest.param(JOINED_FOR_THE_PAST_TOO, {Fault.LEAKED}, id="join leak"),
        pytest.param(SKIPPED_IN_VAIN, {Fault.LEAKED}, id="skip leak"),
        pytest.param(REPLAYED_TWICE, {Fault.REPEATED}, id="duplicate"),
        pytest.param(REPLAYED_BACKWARDS, {Fault.MISORDERED}, id="misorder"),
        pytest.param(RECOVERY_REFUSED, {Fault.REFUSED}, id="recovery refused"),
        pytest.param(JOIN_NOT_STORED, {Fault.ROOMS}, id="join not stored"),
        pytest.param(LOST_ROWS, {Fault.UNLOGGED}, id="rows lost"),
    ],
)
async def test_a_promise_that_is_broken_on_purpose_is_found(
    tmp_path: Path, sabotage: str, found: set[Fault]
) -> None:
    outcome = await carried_out(SMALL, tmp_path, sabotage)
    counts = {fault: outcome.verdict.count(fault) for fault in Fault}
    print(counts, outcome.notes, outcome.verdict.findings[:5])
    assert found <= {fault for fault, count in counts.items() if count}
