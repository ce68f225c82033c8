"""A run: the servers, the clients, and the steps of the plan."""

from __future__ import annotations

import asyncio
import math
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from socketio_eventstore.verify.clients import Clients
from socketio_eventstore.verify.event_counter import EventCounter
from socketio_eventstore.verify.faults import Fault, Kill, Promotion
from socketio_eventstore.verify.history import Evidence
from socketio_eventstore.verify.judge import Verdict, judge
from socketio_eventstore.verify.plan import Action, Cut, Move, Plan, WaitUntilConnected
from socketio_eventstore.verify.process import SERVE, CannotRun
from socketio_eventstore.verify.servers import Servers

_CONNECT_SECONDS: Final = 30.0
_STEP_SECONDS: Final = 5.0
"""The longest wait of a step for events; while the server is down there are no events."""
_AHEAD_EVENTS: Final = 25
"""Events allowed beyond the next step, so that the publishers are busy during the step."""

Progress = Callable[[], None]
"""Called after every step of the plan."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """The outcome of a run."""

    verdict: Verdict
    events: int
    """The number of events in the log."""
    deliveries: int
    """The number of entries in the histories of all clients."""
    done: Counter[str]
    """The number of cuts, faults and moves, by their names."""
    notes: tuple[str, ...]
    """Unusual facts that are not broken promises."""


class _PlanRunner:
    """Runs the steps of the plan."""

    def __init__(self, plan: Plan, servers: Servers, clients: Clients, counter: EventCounter) -> None:
        self._plan, self._servers, self._clients, self._counter = plan, servers, clients, counter
        self._cut_locks = [asyncio.Lock() for _ in clients.all_clients]
        self.done: Counter[str] = Counter()

    async def run(self, progress: Progress) -> bool:
        """Run all steps in order. Returns False if the time limit left out steps."""
        tasks: list[asyncio.Task[None]] = []
        clock = asyncio.get_running_loop().time
        deadline = clock() + self._plan.settings.duration_seconds
        try:
            for step in self._plan.steps:
                if clock() > deadline:  # checked between steps, where the server is running
                    return False
                self._counter.allow(step.after_events + _AHEAD_EVENTS)
                await self._counter.wait_for_more(step.after_events, _STEP_SECONDS)
                if (work := await self._start(step.action)) is not None:
                    tasks.append(asyncio.create_task(work))
                progress()
            self._counter.allow(math.inf)
            await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        return True

    async def _start(self, action: Action) -> Coroutine[Any, Any, None] | None:
        """Run an action, or return a coroutine to run during the next steps."""
        match action:
            case Kill() | Promotion():
                await self._strike(action)
            case WaitUntilConnected():
                await self._clients.wait_until_connected(_STEP_SECONDS)
            case Cut():
                return self._cut(action)
            case Move():
                return self._move(action)
            case fault:
                return self._strike(fault)
        return None

    async def _strike(self, fault: Fault) -> None:
        await self._servers.strike(fault)
        self.done[f"{type(fault).__name__.lower()}s"] += 1

    async def _cut(self, cut: Cut) -> None:
        client = self._clients.all_clients[cut.client]
        async with self._cut_locks[cut.client]:
            try:
                await client.cut(cut.kind, stay_away=cut.away_events > 0)
                self.done["cuts"] += 1
                for move in cut.moves:
                    await self._counter.wait_for_more(cut.away_events // len(cut.moves), _STEP_SECONDS)
                    await self._move(move)
                await self._counter.wait_for_more(cut.away_events, _STEP_SECONDS)
            finally:
                client.reconnect()

    async def _move(self, move: Move) -> None:
        await self._clients.move(move)
        self.done["moves"] += 1


async def run(
    plan: Plan,
    folder: Path,
    progress: Progress,
    command: Sequence[str] = SERVE,
    database: str = "",
    standby: str = "",
) -> Outcome:
    """Run the plan in an empty folder, and judge the run.

    ``command`` starts a server, and is called with ``--config`` and ``--port``. ``database``: the URL of a
    PostgreSQL database without a log; "" is a file. ``standby``: see ``Servers``. Raises CannotRun.
    """
    servers = Servers(folder, plan.settings, command, database, standby)
    counter, notes = EventCounter(), list[str]()
    try:
        await servers.start()
        await asyncio.to_thread(servers.store.keep_rooms)
        clients = Clients(plan, servers.url, counter)
        plan_runner = _PlanRunner(plan, servers, clients, counter)
        async with _running(clients):
            if not await clients.wait_until_connected(_CONNECT_SECONDS):
                raise CannotRun(f"the clients could not connect to {servers.url()}")
            await clients.join_initial_rooms()
            publishing = asyncio.create_task(clients.publish())
            try:
                if not await plan_runner.run(progress):
                    limit = plan.settings.duration_seconds
                    notes.append(f"the time limit of {limit:g} s left out some steps")
                clients.stop_publishing()
                await publishing
            finally:
                publishing.cancel()
                await asyncio.gather(publishing, return_exceptions=True)
            if not await clients.wait_until_connected(_CONNECT_SECONDS):
                notes.append("at the end some clients were not connected")
            if not await clients.send_markers():
                notes.append("at the end some clients did not receive the last event")
            store = await asyncio.to_thread(servers.store.read)
    finally:
        await servers.stop()
    if tracebacks := servers.tracebacks():
        notes.append(f"the server logged {tracebacks} errors")
    histories = tuple(client.history for client in clients.all_clients)
    evidence = Evidence(histories, tuple(clients.published), tuple(clients.moves), frozenset(clients.markers))
    verdict = await asyncio.to_thread(judge, evidence, store)
    deliveries = sum(len(history.entries) for history in histories)
    return Outcome(verdict, len(store.events), deliveries, plan_runner.done, tuple(notes))


@asynccontextmanager
async def _running(clients: Clients) -> AsyncIterator[None]:
    tasks = [asyncio.create_task(client.run()) for client in clients.all_clients]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        results = await asyncio.gather(*tasks, return_exceptions=True)
    for result in results:
        if isinstance(result, Exception):  # a fault of verify: without the client the run is not judged
            raise result
