"""A run: the server, the clients, and what happens to both."""

from __future__ import annotations

import asyncio
import math
import sqlite3
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from socketio_eventstore.verify.crowd import Crowd
from socketio_eventstore.verify.history import Evidence
from socketio_eventstore.verify.judge import Verdict, judge
from socketio_eventstore.verify.meter import Meter
from socketio_eventstore.verify.plan import Action, Cut, Gather, Kill, Move, Plan
from socketio_eventstore.verify.process import SERVE, CannotRun, Server
from socketio_eventstore.verify.truth import read_truth

_GATHER_SECONDS: Final = 30.0
_STALL_SECONDS: Final = 5.0
"""The longest that a step waits for events: while the server is down there are none."""
_AHEAD_EVENTS: Final = 25
"""How many events are published beyond the next step, so that it finds the publishers at work."""

Progress = Callable[[], None]
"""Called after every step of the plan."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a run has brought."""

    verdict: Verdict
    events: int
    """In the log."""
    deliveries: int
    """Events that clients received."""
    done: Counter[str]
    """How often what happened: cuts, kills, moves."""
    notes: tuple[str, ...]
    """What is odd and not a broken promise."""


class _Chaos:
    """Carries the plan out."""

    def __init__(self, plan: Plan, server: Server, crowd: Crowd, meter: Meter) -> None:
        self._plan, self._server, self._crowd, self._meter = plan, server, crowd, meter
        self._cutting = [asyncio.Lock() for _ in crowd.everyone]
        self.done: Counter[str] = Counter()

    async def carry_out(self, progress: Progress) -> bool:
        """Do everything, in its order; return whether the time sufficed."""
        tasks: list[asyncio.Task[None]] = []
        clock = asyncio.get_running_loop().time
        deadline = clock() + self._plan.settings.duration_seconds
        try:
            for step in self._plan.steps:
                if clock() > deadline:  # between steps, where the server is running
                    return False
                self._meter.allow(step.after_events + _AHEAD_EVENTS)
                await self._meter.more(step.after_events, _STALL_SECONDS)
                if (work := await self._act(step.action)) is not None:
                    tasks.append(asyncio.create_task(work))
                progress()
            self._meter.allow(math.inf)
            await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        return True

    async def _act(self, action: Action) -> Coroutine[Any, Any, None] | None:
        """Do it, or return what goes on beside the next steps."""
        match action:
            case Kill():
                await self._server.kill()
                await self._server.start()
                self.done["kills"] += 1
            case Gather():
                await self._crowd.gather(_STALL_SECONDS)
            case Cut():
                return self._cut(action)
            case Move():
                return self._move(action)
        return None

    async def _cut(self, cut: Cut) -> None:
        client = self._crowd.everyone[cut.client]
        async with self._cutting[cut.client]:
            try:
                await client.cut(cut.how, stay_away=cut.away_events > 0)
                self.done["cuts"] += 1
                for move in cut.moves:
                    await self._meter.more(cut.away_events // len(cut.moves), _STALL_SECONDS)
                    await self._move(move)
                await self._meter.more(cut.away_events, _STALL_SECONDS)
            finally:
                client.come_back()

    async def _move(self, move: Move) -> None:
        await self._crowd.move(move)
        self.done["moves"] += 1


async def run(plan: Plan, folder: Path, progress: Progress, command: Sequence[str] = SERVE) -> Outcome:
    """Let the plan happen in a folder that is empty, and judge it.

    ``command`` starts the server; it is called with ``--config`` and ``--port``. Raises CannotRun.
    """
    server, meter, notes = Server(folder, plan.settings, command), Meter(), []
    try:
        await server.start()
        crowd = Crowd(plan, server.url, meter)
        chaos = _Chaos(plan, server, crowd, meter)
        async with _present(crowd):
            if not await crowd.gather(_GATHER_SECONDS):
                raise CannotRun(f"the clients could not connect to {server.url}")
            await crowd.settle_in()
            publishing = asyncio.create_task(crowd.publish())
            try:
                if not await chaos.carry_out(progress):
                    notes.append(f"stopped after {plan.settings.duration_seconds:g} s, before all was done")
                crowd.stop_publishing()
                await publishing
            finally:
                publishing.cancel()
                await asyncio.gather(publishing, return_exceptions=True)
            if not await crowd.gather(_GATHER_SECONDS):
                notes.append("in the end not everybody was connected again")
            if not await crowd.mark_the_end():
                notes.append("in the end not everybody received the last event")
            truth = await asyncio.to_thread(read_truth, server.database)
    except sqlite3.Error as error:
        raise CannotRun(f"{server.database} cannot be read: {error}") from error
    finally:
        await server.stop()
    if tracebacks := server.tracebacks():
        notes.append(f"the server logged {tracebacks} errors")
    histories = tuple(client.history for client in crowd.everyone)
    evidence = Evidence(histories, tuple(crowd.published), tuple(crowd.moves), frozenset(crowd.markers))
    verdict = await asyncio.to_thread(judge, evidence, truth)
    deliveries = sum(len(history.entries) for history in histories)
    return Outcome(verdict, len(truth.events), deliveries, chaos.done, tuple(notes))


@asynccontextmanager
async def _present(crowd: Crowd) -> AsyncIterator[None]:
    tasks = [asyncio.create_task(client.run()) for client in crowd.everyone]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        results = await asyncio.gather(*tasks, return_exceptions=True)
    for result in results:
        if isinstance(result, Exception):  # a fault of ours: without that client nothing can be judged
            raise result
