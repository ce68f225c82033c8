"""The plan of a run, made from a seed. Pure: equal settings give equal plans.

The unit of time in a plan is the acknowledged event, not the second. So the steps happen at about the same
positions of the log on a slow and on a fast machine.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from random import Random
from typing import Final, Literal, TypeAlias

from socketio_eventstore.verify.faults import (
    Break,
    BreakKind,
    Fault,
    Freeze,
    Jump,
    Kill,
    Partition,
    Promotion,
)

NAMESPACES: Final = ("/", "/other")
BEYOND_LEASE_SECONDS: Final = (11.0, 15.0)
"""Durations beyond the lease of a server, which is 10 seconds."""
DAY_SECONDS: Final = 86_400.0
PUBLISHERS: Final = 4
"""The number of publishers: clients of a separate namespace, with cuts like all clients."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The size of a run."""

    clients: int = 50
    rooms: int = 10
    cuts: int = 200
    """The number of transports to break, each by a kind of ``CutKind``."""
    kills: int = 30
    """The number of SIGKILLs of the server, each followed by a start on the same port."""
    events: int = 10_000
    """The approximate number of published events."""
    duration_seconds: float = 300.0
    """The time limit of a run; later steps are left out."""
    synchronous: Literal["full", "normal"] = "full"
    nodes: int = 1
    """The number of servers; several share a log in PostgreSQL."""
    freezes: int = 0
    """The number of SIGSTOPs of a server, each with a later SIGCONT."""
    breaks: int = 0
    """The number of times at which all connections of a server to the database end, at an append."""
    partitions: int = 0
    """The number of times at which nothing passes between a server and the database."""
    jumps: int = 0
    """The number of jumps of the wall clock of a server, by up to a day in either direction."""
    promotions: int = 0
    """1 to promote the standby of the database in the middle of the run."""
    seed: int


class TransportKind(StrEnum):
    """The kind of a client's transport."""

    WEBSOCKET = "websocket"
    POLLING = "polling"
    UPGRADE = "upgrade"
    """Long-polling with an upgrade to WebSocket, the official client's default."""


class CutKind(StrEnum):
    """The kind of a transport's end."""

    RESET = "reset"
    """A reset of the TCP connection, also with unsent data."""
    CLOSE = "close"
    """A close of the transport, without a DISCONNECT packet."""
    SILENCE = "silence"
    """A half-open connection: the server does not see the end, and the client reconnects."""
    DISCONNECT = "disconnect"
    """A DISCONNECT packet, like ``socket.disconnect()``."""


@dataclass(frozen=True, slots=True)
class Member:
    """A client under test."""

    namespace: str
    transport_kind: TransportKind
    rooms: tuple[str, ...]
    """The rooms joined before the first step."""


@dataclass(frozen=True, slots=True)
class Move:
    """A client joins or leaves a room, by its own call (``own``) or by a publisher's call."""

    client: int
    room: str
    joining: bool
    own: bool


@dataclass(frozen=True, slots=True)
class Cut:
    """The end of a client's transport, and the later reconnection."""

    client: int
    """The index of the client: the members first, then the publishers."""
    kind: CutKind
    away_events: int = 0
    """The number of further acknowledged events before the reconnection."""
    moves: tuple[Move, ...] = ()
    """Moves of the client by a publisher before the reconnection."""


@dataclass(frozen=True, slots=True)
class WaitUntilConnected:
    """A wait until all clients are connected."""


Action: TypeAlias = Move | Cut | Fault | WaitUntilConnected


@dataclass(frozen=True, slots=True)
class Step:
    """One action of a plan."""

    after_events: int
    """The number of acknowledged events since the previous step."""
    action: Action


@dataclass(frozen=True, slots=True)
class Plan:
    """The members and the steps of a run."""

    settings: Settings
    members: tuple[Member, ...]
    steps: tuple[Step, ...]


@dataclass(frozen=True, slots=True)
class Publication:
    """One event of a publisher."""

    id: str
    namespace: str
    rooms: tuple[str, ...] = ()
    client: int | None = None
    """The index of a member to emit to. Without rooms and client, the event is for the whole namespace."""
    skipped: int | None = None
    """The index of a member to skip."""
    volatile: bool = False
    binary: bool = False
    hostile: bool = False
    """Whether the handler first makes the calls that the server must refuse."""


def make_plan(settings: Settings) -> Plan:
    """Return the plan of ``settings``."""
    random = Random(settings.seed)  # noqa: S311 -- repeatable by the seed
    rooms = room_names(settings)
    members = tuple(_member(index, rooms, random) for index in range(settings.clients))
    actions = list(_actions(settings, members, random))
    weights = [random.expovariate(1.0) for _ in actions]
    scale = settings.events / max(sum(weights), 1e-9)
    steps = (Step(round(weight * scale), action) for weight, action in zip(weights, actions, strict=True))
    return Plan(settings, members, tuple(steps))


def room_names(settings: Settings) -> list[str]:
    """Return the names of all rooms."""
    return [f"room {number}" for number in range(settings.rooms)]


def _member(index: int, rooms: list[str], random: Random) -> Member:
    kinds = (TransportKind.WEBSOCKET, TransportKind.UPGRADE, TransportKind.POLLING)
    kind = random.choices(kinds, (6, 2, 2))[0]
    joined = random.sample(rooms, min(len(rooms), random.randint(1, 4)))
    return Member(NAMESPACES[index % 5 == 4], kind, tuple(joined))


def _actions(settings: Settings, members: tuple[Member, ...], random: Random) -> Iterator[Action]:
    moves = settings.cuts + settings.clients
    amounts: dict[type[Action], int] = {
        Cut: settings.cuts,
        Kill: settings.kills,
        Move: moves,
        Freeze: settings.freezes,
        Break: settings.breaks,
        Partition: settings.partitions,
        Jump: settings.jumps,
        Promotion: settings.promotions,
    }
    kinds = [kind for kind, amount in amounts.items() for _ in range(amount)]
    random.shuffle(kinds)
    rooms = _PlannedRooms(settings, members, random)
    for kind in kinds:
        if kind is Cut:
            yield _cut(settings, rooms, random)
        elif kind is Move:
            yield rooms.move(random.randrange(settings.clients), own=random.random() < 0.7)
        else:
            yield _fault(kind, settings, random)
            if random.random() < 0.5:  # without the wait, the next step happens during reconnections
                yield WaitUntilConnected()


def _fault(kind: type[Action], settings: Settings, random: Random) -> Fault:
    if kind is Promotion:
        return Promotion()
    node = random.randrange(settings.nodes) if settings.nodes > 1 else 0
    if kind is Jump:
        return Jump(node, random.choice((-1.0, 1.0)) * random.uniform(1.0, DAY_SECONDS))
    if kind is Freeze:
        return Freeze(node, _seconds(random))
    if kind is Break:
        return Break(node, random.choice(list(BreakKind)))
    return Partition(node, _seconds(random)) if kind is Partition else Kill(node)


def _seconds(random: Random) -> float:
    """Return a short time, or one in which other servers take the server for dead."""
    return random.uniform(0.1, 2.0) if random.random() < 0.6 else random.uniform(*BEYOND_LEASE_SECONDS)


def _cut(settings: Settings, rooms: _PlannedRooms, random: Random) -> Cut:
    client, kind = random.randrange(settings.clients + PUBLISHERS), random.choice(list(CutKind))
    if client >= settings.clients or random.random() < 0.5:
        return Cut(client, kind)
    moves = tuple(rooms.move(client, own=False) for _ in range(random.randint(0, 2)))
    return Cut(client, kind, random.randint(1, 1 + settings.events // 50), moves)


class _PlannedRooms:
    """The rooms of each member if every step succeeds: the plan leaves only joined rooms."""

    def __init__(self, settings: Settings, members: tuple[Member, ...], random: Random) -> None:
        self._names = room_names(settings)
        self._joined = [set(member.rooms) for member in members]
        self._chance = random

    def move(self, client: int, *, own: bool) -> Move:
        room, joined = self._chance.choice(self._names), self._joined[client]
        joining = room not in joined
        if joining:
            joined.add(room)
        else:
            joined.remove(room)
        return Move(client, room, joining, own)


def publications(plan: Plan, publisher: int) -> Iterator[Publication]:
    """Yield the events of a publisher, without end."""
    random = Random(f"{plan.settings.seed}/{publisher}")  # noqa: S311 -- repeatable by the seed
    rooms = room_names(plan.settings)
    by_namespace = {
        namespace: [index for index, member in enumerate(plan.members) if member.namespace == namespace]
        for namespace in NAMESPACES
    }
    number = 0
    while True:
        number += 1
        namespace = random.choices(NAMESPACES, (4, 1))[0]
        members = by_namespace[namespace]
        audience = random.random()
        yield Publication(
            f"{publisher}-{number}",
            namespace,
            rooms=tuple(random.sample(rooms, min(len(rooms), 1 + (audience < 0.15))))
            if audience < 0.8
            else (),
            client=random.choice(members) if members and audience > 0.9 else None,
            skipped=random.choice(members) if members and random.random() < 0.1 else None,
            volatile=random.random() < 0.05,
            binary=random.random() < 0.05,
            hostile=random.random() < 0.02,
        )
