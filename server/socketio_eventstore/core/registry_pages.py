"""Pages of the registry: sessions and rooms in a fixed order, some at a time.

A registry may have 50,000 sessions. A page checks all sessions, in slices, between which the event loop
serves others; changes meanwhile may or may not show.
"""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import islice
from typing import Any, Final, TypeVar

from socketio_eventlog.events import Room
from socketio_eventstore.core.registry import Registry
from socketio_eventstore.core.sessions import Session, State

SLICE: Final = 2000
"""Entries to check before the event loop serves others: less than a millisecond."""

T = TypeVar("T")
SessionKey = tuple[str, str]
RoomKey = tuple[str, bool, str | int]
"""Namespace, whether the room is a text, and the room: numbers come before texts."""


@dataclass(frozen=True, slots=True)
class SessionFilter:
    """The sessions to show; None shows all."""

    states: frozenset[State] | None = None
    namespace: str | None = None
    rooms: tuple[Room, ...] | None = None
    """Sessions in any of the rooms, in the namespace."""
    identity: str | None = None

    def fits(self, session: Session) -> bool:
        """Whether a session of the namespace and the rooms fits the rest of the filter."""
        if session.state is State.ENDED:
            return False
        return (self.states is None or session.state in self.states) and (
            self.identity is None or session.identity == self.identity
        )


@dataclass(frozen=True, slots=True)
class RoomMembers:
    """A room and the number of its sessions."""

    namespace: str
    room: Room
    sessions: int


async def sessions(
    registry: Registry, wanted: SessionFilter, after: SessionKey | None, limit: int
) -> tuple[list[Session], SessionKey | None]:
    """Return the sessions behind a key, in the order of namespace and sid, and the key of the next page.

    The key is None on the last page.
    """
    fitting = list(_candidates(registry, wanted))
    page = await _smallest(
        fitting, lambda session: (session.namespace, session.sid), after, limit, wanted.fits
    )
    return page, (page[-1].namespace, page[-1].sid) if len(page) == limit else None


async def rooms(
    registry: Registry, namespace: str | None, after: RoomKey | None, limit: int
) -> tuple[list[RoomMembers], RoomKey | None]:
    """Return the rooms behind a key, in the order of the keys, and the key of the next page."""
    page = await _smallest(
        list(registry.rooms),
        lambda room: _room_key(*room),
        after,
        limit,
        lambda room: namespace in (None, room[0]),
    )
    found = [RoomMembers(*room, sessions=len(registry.rooms.get(room, ()))) for room in page]
    return found, _room_key(*page[-1]) if len(page) == limit else None


def _candidates(registry: Registry, wanted: SessionFilter) -> Iterable[Session]:
    if wanted.rooms is not None:
        return registry.members(wanted.namespace or "/", wanted.rooms)
    if wanted.namespace is not None:
        return registry.members(wanted.namespace, None)
    return registry


def _room_key(namespace: str, room: Room) -> RoomKey:
    return namespace, isinstance(room, str), room


async def _smallest(
    entries: list[T], key: Callable[[T], Any], after: Any, limit: int, fits: Callable[[T], bool]
) -> list[T]:
    """Return the fitting entries with the smallest keys beyond ``after``, ascending."""
    smallest: list[T] = []
    remaining = iter(entries)
    while part := list(islice(remaining, SLICE)):
        found = [entry for entry in part if fits(entry) and (after is None or key(entry) > after)]
        smallest = heapq.nsmallest(limit, [*smallest, *found], key=key)
        if len(entries) > SLICE:
            await asyncio.sleep(0)
    return smallest
