"""What is going to happen, decided by a seed. Pure: the same settings give the same plan.

When something happens is counted in acknowledged events, not in seconds, so the same things happen at
about the same places of the log on a slow machine and on a fast one.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from random import Random
from typing import Final, Literal, TypeAlias

NAMESPACES: Final = ("/", "/other")
PUBLISHERS: Final = 4
"""Clients of their own, in a namespace of their own; they are cut off like all others."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """How much is to happen."""

    clients: int = 50
    rooms: int = 10
    cuts: int = 200
    """Transports that are broken, each in one of the ways of ``Ending``."""
    kills: int = 30
    """SIGKILLs of the server, each followed by a start on the same port."""
    events: int = 10_000
    """How many events are published, about."""
    duration_seconds: float = 300.0
    """When this has passed, what has not happened yet is left out."""
    synchronous: Literal["full", "normal"] = "full"
    seed: int


class Wire(StrEnum):
    """How a client is connected."""

    WEBSOCKET = "websocket"
    POLLING = "polling"
    UPGRADE = "upgrade"
    """Long-polling first, then a WebSocket, as official clients do by default."""


class Ending(StrEnum):
    """How a transport ends."""

    RESET = "reset"
    """TCP connection reset, whatever was on the way."""
    CLOSE = "close"
    """Closed in order, without a word in Socket.IO."""
    SILENCE = "silence"
    """Half-open: the client is gone without the server's knowledge, and takes its session over."""
    DISCONNECT = "disconnect"
    """``socket.disconnect()``, later ``socket.connect()``."""


@dataclass(frozen=True, slots=True)
class Member:
    """A client of the plan."""

    namespace: str
    wire: Wire
    rooms: tuple[str, ...]
    """What it joins before the chaos."""


@dataclass(frozen=True, slots=True)
class Move:
    """A room is joined or left, at the client's own wish or at somebody else's."""

    client: int
    room: str
    joining: bool
    own: bool


@dataclass(frozen=True, slots=True)
class Cut:
    """A client's transport ends; it comes back after a while."""

    client: int
    """Beyond the members come the publishers."""
    how: Ending
    away_events: int = 0
    """It stays away until so many more events are acknowledged."""
    moves: tuple[Move, ...] = ()
    """What somebody else does to its rooms while it is away."""


@dataclass(frozen=True, slots=True)
class Kill:
    """SIGKILL and a new start."""


@dataclass(frozen=True, slots=True)
class Gather:
    """Wait until everybody is connected."""


Action: TypeAlias = Move | Cut | Kill | Gather


@dataclass(frozen=True, slots=True)
class Step:
    """One thing that happens."""

    after_events: int
    """Acknowledged events since the step before."""
    action: Action


@dataclass(frozen=True, slots=True)
class Plan:
    """Who takes part, and what happens to them."""

    settings: Settings
    members: tuple[Member, ...]
    steps: tuple[Step, ...]


@dataclass(frozen=True, slots=True)
class Publication:
    """One event that a publisher emits."""

    id: str
    namespace: str
    rooms: tuple[str, ...] = ()
    client: int | None = None
    """Addressed to this one's own sid; without rooms and client it is for the whole namespace."""
    skipped: int | None = None
    volatile: bool = False
    binary: bool = False


def make_plan(settings: Settings) -> Plan:
    """The plan of a seed."""
    chance = Random(settings.seed)  # noqa: S311 -- to be repeatable
    rooms = room_names(settings)
    members = tuple(_member(number, rooms, chance) for number in range(settings.clients))
    actions = list(_actions(settings, members, chance))
    weights = [chance.expovariate(1.0) for _ in actions]
    scale = settings.events / max(sum(weights), 1e-9)
    steps = (Step(round(weight * scale), action) for weight, action in zip(weights, actions, strict=True))
    return Plan(settings, members, tuple(steps))


def room_names(settings: Settings) -> list[str]:
    """The rooms' names."""
    return [f"room {number}" for number in range(settings.rooms)]


def _member(number: int, rooms: list[str], chance: Random) -> Member:
    wire = chance.choices((Wire.WEBSOCKET, Wire.UPGRADE, Wire.POLLING), (6, 2, 2))[0]
    joined = chance.sample(rooms, min(len(rooms), chance.randint(1, 4)))
    return Member(NAMESPACES[number % 5 == 4], wire, tuple(joined))


def _actions(settings: Settings, members: tuple[Member, ...], chance: Random) -> Iterator[Action]:
    moves = settings.cuts + settings.clients
    kinds = [Cut] * settings.cuts + [Kill] * settings.kills + [Move] * moves
    chance.shuffle(kinds)
    rooms = _Rooms(settings, members, chance)
    for kind in kinds:
        if kind is Kill:
            yield Kill()
            if chance.random() < 0.5:  # otherwise the next thing happens while some are on their way back
                yield Gather()
        elif kind is Cut:
            yield _cut(settings, rooms, chance)
        else:
            yield rooms.move(chance.randrange(settings.clients), own=chance.random() < 0.7)


def _cut(settings: Settings, rooms: _Rooms, chance: Random) -> Cut:
    client, how = chance.randrange(settings.clients + PUBLISHERS), chance.choice(list(Ending))
    if client >= settings.clients or chance.random() < 0.5:
        return Cut(client, how)
    moves = tuple(rooms.move(client, own=False) for _ in range(chance.randint(0, 2)))
    return Cut(client, how, chance.randint(1, 1 + settings.events // 50), moves)


class _Rooms:
    """Who is in which room if all goes as planned, so that the plan leaves only rooms that were joined."""

    def __init__(self, settings: Settings, members: tuple[Member, ...], chance: Random) -> None:
        self._names = room_names(settings)
        self._joined = [set(member.rooms) for member in members]
        self._chance = chance

    def move(self, client: int, *, own: bool) -> Move:
        room, joined = self._chance.choice(self._names), self._joined[client]
        joining = room not in joined
        if joining:
            joined.add(room)
        else:
            joined.remove(room)
        return Move(client, room, joining, own)


def publications(plan: Plan, publisher: int) -> Iterator[Publication]:
    """What a publisher emits, without end."""
    chance = Random(f"{plan.settings.seed}/{publisher}")  # noqa: S311 -- to be repeatable
    rooms = room_names(plan.settings)
    by_namespace = {
        namespace: [number for number, member in enumerate(plan.members) if member.namespace == namespace]
        for namespace in NAMESPACES
    }
    number = 0
    while True:
        number += 1
        namespace = chance.choices(NAMESPACES, (4, 1))[0]
        there = by_namespace[namespace]
        audience = chance.random()
        yield Publication(
            f"{publisher}-{number}",
            namespace,
            rooms=tuple(chance.sample(rooms, min(len(rooms), 1 + (audience < 0.15))))
            if audience < 0.8
            else (),
            client=chance.choice(there) if there and audience > 0.9 else None,
            skipped=chance.choice(there) if there and chance.random() < 0.1 else None,
            volatile=chance.random() < 0.05,
            binary=chance.random() < 0.05,
        )
