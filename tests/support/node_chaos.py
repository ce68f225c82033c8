"""Faults of servers on a database, and a judge that reads only the rows of the database."""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from http.client import HTTPException
from typing import Any, Final

from support.api import call
from support.clients import Client, sequence_of
from support.postgres import Cluster
from support.postgres_proxies import Cutting
from support.processes import DEADLINE, ServerProcess
from support.proxies import Balancer, Streams

ROOMS: Final = ("red", "blue")
LONG_FREEZE_SECONDS: Final = 13.0
"""Longer than a lease."""


class Line(Cutting):
    """The connections of a server to the database, which can be away for a while."""

    is_away = False

    async def leave(self) -> None:
        self.is_away = True
        await self._stop()
        self._close()

    async def _connect(self) -> Streams:
        if self.is_away:
            raise ConnectionRefusedError
        return await super()._connect()


class AnyNode(Balancer):
    """A proxy that leads each connection of a client to a random server."""

    def __init__(self, chance: random.Random, *ports: int) -> None:
        super().__init__(*ports)
        self._chance = chance

    async def cut(self) -> None:
        await self._stop()
        self._close()

    async def _connect(self) -> Streams:
        self._chance.shuffle(self._ports)
        return await super()._connect()


class Chaos:
    """Emits, moves clients between rooms and between servers, and causes faults."""

    def __init__(
        self,
        chance: random.Random,
        servers: Sequence[ServerProcess],
        lines: Sequence[Line],
        clients: Sequence[tuple[AnyNode, Client]],
    ) -> None:
        self._chance = chance
        self._servers = servers
        self._lines = lines
        self._clients = clients
        self._busy: set[int] = set()
        """The servers with a fault at the moment."""
        self.acknowledged: dict[str, int] = {}
        """The number of each acknowledged event, by offset."""
        self.faults: list[str] = []
        self._numbers = 0

    async def run(self, seconds: float, *, freezes_long: bool) -> None:
        """Work and break for a while; at the end everything runs again."""
        loop = asyncio.get_running_loop()
        ends_at, faults = loop.time() + seconds, set[asyncio.Task[None]]()
        tasks = self._emit, self._emit, self._move
        work = [asyncio.create_task(self._until(ends_at, task)) for task in tasks]
        while loop.time() < ends_at:
            await asyncio.sleep(self._chance.uniform(0.1, 0.5))
            faults.add(asyncio.create_task(self._break(freezes_long=freezes_long)))
        await asyncio.gather(*work, *faults)

    async def emit_last(self) -> None:
        """Emit an event to all, as soon as a server can store the event."""
        async with asyncio.timeout(DEADLINE):
            while await self._ask("/emit", {"event": "last"}) is None:
                pass

    async def _until(self, ends_at: float, act: Callable[[], Awaitable[None]]) -> None:
        while asyncio.get_running_loop().time() < ends_at:
            await act()

    # Work -------------------------------------------------------------------------------------------

    async def _ask(self, path: str, body: object) -> Any:
        """Call a server by chance; None without an answer of success."""
        free = [at for at in range(len(self._servers)) if at not in self._busy]
        if not free:
            await asyncio.sleep(0.01)
            return None
        server = self._servers[self._chance.choice(free)]
        with suppress(OSError, HTTPException):
            answer = await asyncio.to_thread(call, server.port, "POST", path, body)
            return json.loads(answer.body or b"true") if answer.status in (200, 204) else None

    async def _emit(self) -> None:
        self._numbers += 1
        number, rooms = self._numbers, self._chance.choice([None, [self._chance.choice(ROOMS)], [*ROOMS]])
        answer = await self._ask("/emit", {"event": "numbered", "args": [number], "rooms": rooms})
        if answer is not None:
            self.acknowledged[answer["offset"]] = number

    async def _move(self) -> None:
        _, client = self._chance.choice(self._clients)
        what, room = self._chance.choice(["join", "leave"]), self._chance.choice(ROOMS)
        await self._ask(f"/sessions/%2F/{client.sid}/{what}", {"room": room})

    # Faults -----------------------------------------------------------------------------------------

    async def _break(self, *, freezes_long: bool) -> None:
        kinds = [*[self._cut] * 8, *[self._lose_answer] * 3, *[self._lose_request] * 3]
        at = self._chance.randrange(len(self._servers))
        if at not in self._busy and len(self._busy) < 2:
            kinds += [self._kill, self._kill, self._freeze, self._isolate]
            kinds += [self._freeze_long, self._isolate_long] if freezes_long and not self._busy else []
        kind = self._chance.choice(kinds)
        self.faults.append(kind.__name__.strip("_"))
        await kind(at)

    async def _cut(self, at: int) -> None:
        await self._chance.choice(self._clients)[0].cut()

    async def _lose_answer(self, at: int) -> None:
        self._lines[at].cut_next_answer()

    async def _lose_request(self, at: int) -> None:
        self._lines[at].cut_next_request()

    async def _kill(self, at: int) -> None:
        self._busy.add(at)
        await asyncio.to_thread(self._servers[at].kill)
        await asyncio.to_thread(self._start, self._servers[at])
        self._busy.discard(at)

    def _start(self, server: ServerProcess) -> None:
        """Start a server as a supervisor does: a start fails with a cut connection."""
        for _ in range(5):
            with suppress(AssertionError):
                server.start()
                return
        server.start()

    async def _freeze(self, at: int, seconds: float = 1.0) -> None:
        self._busy.add(at)
        os.kill(self._servers[at].pid, signal.SIGSTOP)
        await asyncio.sleep(seconds)
        os.kill(self._servers[at].pid, signal.SIGCONT)
        self._busy.discard(at)

    async def _freeze_long(self, at: int) -> None:
        await self._freeze(at, LONG_FREEZE_SECONDS)

    async def _isolate(self, at: int, seconds: float = 1.0) -> None:
        self._busy.add(at)
        await self._lines[at].leave()
        await asyncio.sleep(seconds)
        self._lines[at].is_away = False
        self._busy.discard(at)

    async def _isolate_long(self, at: int) -> None:
        await self._isolate(at, LONG_FREEZE_SECONDS)


class Judge:
    """The expected events of each client, by the events and the memberships in the database."""

    def __init__(self, cluster: Cluster, database: str) -> None:
        """Keep the memberships that the servers delete after the last replay."""
        self._cluster = cluster
        self._database = database
        cluster.sql(
            database,
            "CREATE TABLE public.former (LIKE eventstore.rooms)",
            "CREATE FUNCTION public.keep() RETURNS trigger LANGUAGE plpgsql AS"
            " 'BEGIN INSERT INTO public.former SELECT OLD.*; RETURN OLD; END'",
            "CREATE TRIGGER keep BEFORE DELETE ON eventstore.rooms"
            " FOR EACH ROW EXECUTE FUNCTION public.keep()",
        )

    def _rows(self, query: str) -> list[Any]:
        text = self._cluster.sql(self._database, f"SELECT row_to_json(r) FROM ({query}) AS r")
        return [json.loads(line) for line in text.splitlines()]

    def check(self, client: Client) -> None:
        """Compare the events of a client with the log."""
        sid = client.sid
        (session,) = self._rows(f"SELECT start_offset FROM eventstore.sessions WHERE sid = '{sid}'")
        rooms = self._rows(
            f"SELECT * FROM eventstore.rooms WHERE sid = '{sid}' UNION ALL"
            f" SELECT * FROM public.former WHERE sid = '{sid}' AND left_after IS NOT NULL"
        )
        expected = [
            (event["offset"], event["number"])
            for event in self._events()
            if event["offset"] > session["start_offset"] and _is_for(event, sid, rooms)
        ]
        received = [(sequence_of(event.offset), event.data[0]) for event in client.by_name["numbered"]]
        lost, extra = sorted({*expected} - {*received}), sorted({*received} - {*expected})
        assert received == expected, f"lost: {lost}, not for it or repeated: {extra}; {client.story()}"

    def check_acknowledged(self, acknowledged: dict[str, int]) -> None:
        """Check that each acknowledged event is in the log once, with the offset."""
        stored = {event["offset"]: event["number"] for event in self._events()}
        assert len(set(stored.values())) == len(stored), "an event is in the log twice"
        for offset, number in acknowledged.items():
            assert stored.get(sequence_of(offset)) == number, f"{offset} has another event than {number}"

    def _events(self) -> list[Any]:
        return self._rows(
            'SELECT "offset", rooms::json AS rooms, payload::json -> 1 AS number FROM eventstore.events'
            " WHERE event = 'numbered' ORDER BY \"offset\""
        )


def _is_for(event: Any, sid: str, memberships: Sequence[Any]) -> bool:
    if event["rooms"] is None or sid in event["rooms"]:
        return True
    return any(
        json.loads(one["room"]) in event["rooms"]
        and one["joined_after"] < event["offset"]
        and (one["left_after"] is None or event["offset"] <= one["left_after"])
        for one in memberships
    )
