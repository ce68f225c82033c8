"""Which events are addressed to whom, in memory. No I/O.

An index by room on disk dirties a random page for every event; in memory it costs next to nothing.
The log is cut into generations of consecutive numbers: each is complete when the log has moved past
it, is then written to disk once, dropped from memory when that grows too large, and deleted as a
whole when its last event is pruned.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from sys import getsizeof, maxsize
from typing import TypeAlias

from socketio_eventlog.records import Interval, Missed, Room

GENERATION_LENGTH = 4096
_LARGEST_SIZE = 2**32 - 1
_EVERYONE = (None,)
_SMALLEST_PORTION = 256

Audience: TypeAlias = tuple[str, Room | None]
"""A namespace, and a room in it; None for everyone in the namespace."""

# What CPython spends, measured (tests/test_index.py compares the sums with tracemalloc).
_GENERATION_BYTES = 4 * GENERATION_LENGTH + 700
_AUDIENCE_BYTES = 180
_NUMBER_BYTES = 2.2


@dataclass(frozen=True, slots=True)
class Wanted:
    """A stretch of the log in which one audience's events are looked for."""

    audience: Audience
    first: int
    """The first number that counts."""
    last: int
    """The last number that counts."""


def wanted(namespace: str, memberships: Iterable[Interval], after: int, through: int) -> list[Wanted]:
    """The stretches in which events of (after, through] fall into one of the memberships."""
    stretches = []
    for interval in memberships:
        first = max(after, interval.after) + 1
        last = through if interval.through is None else min(through, interval.through)
        if first <= last:
            stretches.append(Wanted((namespace, interval.room), first, last))
    return stretches


class Generation:
    """The lists of GENERATION_LENGTH consecutive numbers."""

    __slots__ = ("audiences", "first", "key", "lists_on_disk", "memory_bytes", "order", "sizes")

    def __init__(self, key: int) -> None:
        """``key``: how many generations lie before it."""
        self.key = key
        self.first = key * GENERATION_LENGTH
        self.audiences: dict[Audience, array[int]] = {}
        """By audience its numbers, ascending, less ``first``."""
        self.sizes = array("I", bytes(4 * GENERATION_LENGTH))
        """By number less ``first``: what the event weighs, in bytes."""
        self.memory_bytes: float = _GENERATION_BYTES
        self.order: list[Audience] | None = None
        """The order in which the lists are written, for the one who writes them."""
        self.lists_on_disk = 0

    def add(self, number: int, namespace: str, rooms: Sequence[Room] | None, size_bytes: int) -> None:
        """Enter an event; its number is larger than all before it."""
        place = number - self.first
        self.sizes[place] = min(size_bytes, _LARGEST_SIZE)
        for room in _EVERYONE if rooms is None else rooms:
            audience = (namespace, room)
            places = self.audiences.get(audience)
            if places is None:
                self.put(audience, array("H", (place,)))
            elif places[-1] != place:  # the same room named twice
                places.append(place)
                self.memory_bytes += _NUMBER_BYTES

    def put(self, audience: Audience, places: array[int]) -> None:
        """Enter a whole list."""
        self.audiences[audience] = places
        self.memory_bytes += _AUDIENCE_BYTES + getsizeof(audience[1]) + len(places) * _NUMBER_BYTES

    def find(self, stretches: Iterable[Wanted]) -> list[int]:
        """The numbers in any of the stretches, ascending, each once."""
        parts = [part for stretch in stretches if (part := self._part(stretch))]
        if len(parts) == 1:
            return [self.first + place for place in parts[0]]
        return [self.first + place for place in sorted(set().union(*parts))]

    def _part(self, stretch: Wanted) -> array[int] | None:
        places = self.audiences.get(stretch.audience)
        if places is None:
            return None
        start = bisect_left(places, stretch.first - self.first)
        return places[start : bisect_right(places, stretch.last - self.first)]

    def weigh(self, numbers: Iterable[int]) -> int:
        """The sizes of these numbers together, in bytes."""
        sizes, first = self.sizes, self.first
        return sum([sizes[number - first] for number in numbers])


@dataclass(frozen=True, slots=True)
class Portion:
    """Some lists of a complete generation, to be written with a commit."""

    generation: Generation
    start: int
    """How many of its lists were written before."""
    stop: int

    @property
    def is_last(self) -> bool:
        """Whether the generation is whole on disk after it."""
        return self.stop == len(self.generation.audiences)


def collect(
    generations: Iterable[Generation], stretches: Sequence[Wanted], at_most: int | None = None
) -> Missed:
    """Look through the generations, in their order.

    With ``at_most`` the search ends once it has more than so many: whoever refuses a longer answer
    need not pay for it.
    """
    limit = maxsize if at_most is None else at_most
    numbers: list[int] = []
    size_bytes = 0
    audiences = {stretch.audience for stretch in stretches}
    for generation in generations:
        # Of a long log most generations have nothing for one client, and this is all that they cost.
        if generation.audiences.keys().isdisjoint(audiences):
            continue
        found = generation.find(stretches)
        if found:
            numbers += found
            size_bytes += generation.weigh(found)
            if len(numbers) > limit:
                break
    return Missed(tuple(numbers), size_bytes)


class Index:
    """The generations of the log: all of them by key, the newest ones with their lists."""

    def __init__(self, memory_bytes: int) -> None:
        """``memory_bytes``: what the lists may take; the newest generation stays in any case."""
        self._bound_bytes = memory_bytes
        self._keys: list[int] = []
        self._loaded: dict[int, Generation] = {}
        self._on_disk: set[int] = set()
        self._newest: Generation | None = None
        self._older_bytes: float = 0

    @property
    def memory_bytes(self) -> int:
        """An estimate of what the lists take."""
        return int(self._older_bytes + (0 if self._newest is None else self._newest.memory_bytes))

    def add(self, number: int, namespace: str, rooms: Sequence[Room] | None, size_bytes: int) -> None:
        """Enter an event; its number is larger than all before it."""
        newest = self._newest
        if newest is None or number >= newest.first + GENERATION_LENGTH:
            newest = Generation(number // GENERATION_LENGTH)
            self.hold(newest, on_disk=False)
        newest.add(number, namespace, rooms, size_bytes)

    def hold(self, generation: Generation, *, on_disk: bool) -> None:
        """Take in a whole generation, newer than all before it."""
        if self._newest is not None:
            self._older_bytes += self._newest.memory_bytes
        self._newest = self._loaded[generation.key] = generation
        self._keys.append(generation.key)
        if on_disk:
            self._on_disk.add(generation.key)

    def know(self, key: int) -> None:
        """Take note of a generation, newer than all before it, whose lists stay on disk."""
        self._keys.append(key)
        self._on_disk.add(key)

    def portion(self, events: int) -> Portion | None:
        """What is to be written next of the generations that the log has moved past, oldest first.

        A generation of direct messages has a list for each event, and all of them in one commit would
        hold it up. In the end it must be written faster than the ``events`` of the commits come in.
        """
        generation = self._oldest_unwritten()
        if generation is None:
            return None
        start, end = generation.lists_on_disk, len(generation.audiences)
        share = 2 * end * events // GENERATION_LENGTH
        return Portion(generation, start, min(start + max(share, _SMALLEST_PORTION), end))

    def _oldest_unwritten(self) -> Generation | None:
        oldest = None
        for key in reversed(self._keys):
            if key in self._on_disk:
                break
            if self._loaded[key] is not self._newest:
                oldest = self._loaded[key]
        return oldest

    def written(self, portion: Portion) -> None:
        """Take note that it is on disk from now on."""
        generation = portion.generation
        generation.lists_on_disk = max(generation.lists_on_disk, portion.stop)
        if portion.is_last and generation.key in self._loaded:
            self._on_disk.add(generation.key)

    def evict(self) -> None:
        """Drop the lists of the oldest generations that are on disk, until the rest fits the bound."""
        while self.memory_bytes > self._bound_bytes:
            oldest = next(iter(self._loaded.values()))
            if oldest.key not in self._on_disk or oldest is self._newest:
                break
            self._unload(oldest)

    def forget(self, through: int) -> None:
        """Drop the generations whose last number is at most ``through``."""
        end = bisect_left(self._keys, (through + 1) // GENERATION_LENGTH)
        for key in self._keys[:end]:
            self._on_disk.discard(key)
            if key in self._loaded:
                self._unload(self._loaded[key])
        del self._keys[:end]

    def _unload(self, generation: Generation) -> None:
        del self._loaded[generation.key]
        if generation is self._newest:
            self._newest = None
        else:
            self._older_bytes -= generation.memory_bytes

    def loaded(self, stretches: Sequence[Wanted]) -> Iterator[Generation]:
        """The generations in memory that the stretches touch, oldest first."""
        loaded = self._loaded
        return (loaded[key] for key in self._touched(stretches) if key in loaded)

    def only_on_disk(self, stretches: Sequence[Wanted]) -> list[int]:
        """The keys of the generations that the stretches touch and memory does not hold, ascending."""
        loaded = self._loaded
        return [key for key in self._touched(stretches) if key not in loaded]

    def find(self, namespace: str, memberships: Iterable[Interval], after: int, through: int) -> Missed:
        """What memory knows of the events in (after, through] that a membership covers."""
        stretches = wanted(namespace, memberships, after, through)
        return collect(self.loaded(stretches), stretches)

    def _touched(self, stretches: Sequence[Wanted]) -> list[int]:
        if not stretches:
            return []
        first = min(stretch.first for stretch in stretches) // GENERATION_LENGTH
        last = max(stretch.last for stretch in stretches) // GENERATION_LENGTH
        return self._keys[bisect_left(self._keys, first) : bisect_right(self._keys, last)]
