from __future__ import annotations

import tracemalloc
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from socketio_eventlog.index import Index
from socketio_eventlog.records import Membership, Missed, Room
from socketio_eventlog.segment import SEGMENT_LENGTH, Segment, audience_ranges, find_missed

ENOUGH_BYTES = 1_000_000_000

NAMESPACES = st.sampled_from(["/", "/admin"])
ROOMS: st.SearchStrategy[Room] = st.sampled_from(["lobby", "42", 42])
STEPS = st.sampled_from([1, 1, 1, 2, 1000, SEGMENT_LENGTH - 1, SEGMENT_LENGTH, 10 * SEGMENT_LENGTH])
"""How far the numbers advance: gaps are left by commits that failed."""
ENTRIES = st.lists(
    st.tuples(STEPS, NAMESPACES, st.none() | st.lists(ROOMS, max_size=4), st.integers(0, 2**40)), max_size=60
)
NUMBERS = st.integers(0, 100 * SEGMENT_LENGTH)

Entry = tuple[int, str, list[Room] | None, int]


@st.composite
def logs(draw: st.DrawFn) -> list[Entry]:
    number = 0
    entries: list[Entry] = []
    for step, namespace, rooms, size_bytes in draw(ENTRIES):
        number += step
        entries.append((number, namespace, rooms, size_bytes))
    return entries


@st.composite
def memberships(draw: st.DrawFn, numbers: st.SearchStrategy[int]) -> list[Membership]:
    interval = st.builds(Membership, st.none() | ROOMS, numbers, st.none() | numbers)
    return draw(st.lists(interval, max_size=6))


def indexed(entries: list[Entry]) -> Index:
    index = Index(ENOUGH_BYTES)
    for entry in entries:
        index.add(*entry)
    return index


def find(index: Index, namespace: str, memberships: list[Membership], after: int, through: int) -> Missed:
    ranges = audience_ranges(namespace, memberships, after, through)
    return find_missed(index.segments_in_memory(ranges), ranges)


def filtered(
    entries: list[Entry], namespace: str, intervals: list[Membership], after: int, through: int
) -> Missed:
    """The same question, answered by looking at every event."""
    hits = [
        (number, min(size_bytes, 2**32 - 1))
        for number, space, rooms, size_bytes in entries
        if space == namespace and after < number <= through
        if any(
            interval.covers(number)
            and (rooms is None if interval.room is None else interval.room in (rooms or ()))
            for interval in intervals
        )
    ]
    return Missed(tuple(number for number, _ in hits), sum(size for _, size in hits))


@given(st.data(), logs(), NAMESPACES)
@settings(max_examples=300)
def test_the_index_finds_what_looking_at_every_event_finds(
    data: st.DataObject, entries: list[Entry], namespace: str
) -> None:
    last = entries[-1][0] if entries else 0
    numbers = NUMBERS if not entries else st.sampled_from([n for n, *_ in entries]) | st.integers(0, last + 1)
    intervals = data.draw(memberships(numbers))
    after, through = data.draw(numbers), data.draw(numbers)
    found = find(indexed(entries), namespace, intervals, after, through)
    assert found == filtered(entries, namespace, intervals, after, through)


@given(logs(), NUMBERS)
def test_forgetting_drops_the_generations_that_are_pruned_whole_and_no_others(
    entries: list[Entry], through: int
) -> None:
    index = indexed(entries)
    index.drop_through(through)
    everything = [Membership(room, 0, None) for room in (None, "lobby", "42", 42)]
    first_kept = (through + 1) // SEGMENT_LENGTH * SEGMENT_LENGTH
    kept = [entry for entry in entries if entry[0] >= first_kept]
    found = find(index, "/", everything, 0, 10**9)
    assert found == filtered(kept, "/", everything, 0, 10**9)
    index.drop_through(10**9)
    assert index.memory_bytes == 0


def test_a_number_and_its_text_are_different_rooms() -> None:
    index = indexed([(1, "/", ["42"], 1), (2, "/", [42], 1)])
    assert find(index, "/", [Membership("42", 0, None)], 0, 2).sequences == (1,)
    assert find(index, "/", [Membership(42, 0, None)], 0, 2).sequences == (2,)


def test_an_event_that_several_memberships_cover_is_found_once() -> None:
    index = indexed([(1, "/", ["a", "b", "a"], 7)])
    rejoined = [Membership("a", 0, 1), Membership("a", 0, None), Membership("b", 0, None)]
    assert find(index, "/", rejoined, 0, 1) == Missed((1,), 7)


def test_a_search_with_a_limit_ends_soon_after_it() -> None:
    entries: list[Entry] = [(number, "/", None, 1) for number in range(3 * SEGMENT_LENGTH)]
    index = indexed(entries)
    ranges = audience_ranges("/", [Membership(None, 0, None)], 0, len(entries))
    found = find_missed(index.segments_in_memory(ranges), ranges, at_most=10)
    assert 10 < len(found.sequences) <= SEGMENT_LENGTH


def fill(index: Index, generations: int, room: Callable[[int], Room]) -> None:
    for number in range(generations * SEGMENT_LENGTH):
        index.add(number, "/", [room(number)], 1)


def write_all(index: Index) -> list[int]:
    """Write what is complete, and say which generations it was."""
    keys = []
    while (chunk := index.next_chunk(1)) is not None:
        index.mark_written(chunk)
        if chunk.is_last:
            keys.append(chunk.segment.key)
    return keys


def test_a_generation_is_written_when_the_log_has_moved_past_it() -> None:
    index = Index(ENOUGH_BYTES)
    fill(index, 2, lambda _: "lobby")
    assert write_all(index) == [0]
    index.add(2 * SEGMENT_LENGTH, "/", None, 1)
    assert write_all(index) == [1]


def test_a_generation_with_many_lists_is_written_in_chunks_without_a_gap() -> None:
    index = Index(0)
    fill(index, 2, lambda number: number)
    written: list[int] = []
    while (chunk := index.next_chunk(1)) is not None:
        assert chunk.stop - chunk.start <= 256
        written += range(chunk.start, chunk.stop)
        index.mark_written(chunk)
        index.mark_written(chunk)  # two commits at the same time may carry the same
        index.evict()
    assert written == list(range(SEGMENT_LENGTH))
    assert index.keys_on_disk_only(audience_ranges("/", [Membership(5, 0, None)], 0, 10)) == [0]


@pytest.mark.parametrize("rooms", [1, 20])
def test_the_index_is_written_faster_than_it_grows(rooms: int) -> None:
    index = Index(0)
    for number in range(20 * SEGMENT_LENGTH):
        index.add(number, "/", [number * rooms + room for room in range(rooms)], 1)
        if number % 1024 == 0 and (chunk := index.next_chunk(1024)) is not None:
            index.mark_written(chunk)
            index.evict()
    ranges = audience_ranges("/", [Membership(None, 0, None)], 0, 20 * SEGMENT_LENGTH)
    assert len(list(index.segments_in_memory(ranges))) <= 2


def test_a_generation_in_which_nobody_was_addressed_is_written_too() -> None:
    index = Index(0)
    for number in range(SEGMENT_LENGTH + 1):
        index.add(number, "/", [], 1)
    assert write_all(index) == [0]


def test_only_what_is_on_disk_is_evicted_and_the_oldest_first() -> None:
    index = Index(3 * 40_000)
    fill(index, 5, lambda _: "lobby")
    index.evict()
    ranges = audience_ranges("/", [Membership("lobby", 0, None)], 0, 5 * SEGMENT_LENGTH)
    assert index.keys_on_disk_only(ranges) == []
    write_all(index)
    index.evict()
    assert index.keys_on_disk_only(ranges) == [0]
    assert [generation.key for generation in index.segments_in_memory(ranges)] == [1, 2, 3, 4]
    assert index.memory_bytes <= 3 * 40_000


def test_the_newest_generation_stays_however_small_the_bound() -> None:
    index = Index(0)
    fill(index, 3, lambda _: "lobby")
    write_all(index)
    index.evict()
    assert find(index, "/", [Membership("lobby", 0, None)], 0, 10**6).sequences == tuple(
        range(2 * SEGMENT_LENGTH, 3 * SEGMENT_LENGTH)
    )


def test_a_generation_read_back_continues_where_it_was() -> None:
    index = Index(ENOUGH_BYTES)
    index.add_stored_segment(0)
    second = Segment(1)
    second.add(SEGMENT_LENGTH, "/", None, 5)
    index.add_segment(second, on_disk=True)
    index.add(SEGMENT_LENGTH + 1, "/", None, 6)
    everyone = [Membership(None, 0, None)]
    assert find(index, "/", everyone, 0, 10**6) == Missed((SEGMENT_LENGTH, SEGMENT_LENGTH + 1), 11)
    assert index.keys_on_disk_only(audience_ranges("/", everyone, 0, 10**6)) == [0]


@pytest.mark.parametrize(
    "room",
    [
        lambda _: "lobby",
        lambda number: f"room-{number % 100}",
        lambda number: f"sid-{number:016}",
        lambda number: number * 1000,
        lambda number: f"räume/中-{number % 3000}",
    ],
    ids=["one room", "100 rooms", "every event to another sid", "numbers", "unicode"],
)
def test_the_bound_counts_what_python_really_spends(room: Callable[[int], Room]) -> None:
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        index = Index(ENOUGH_BYTES)
        fill(index, 8, room)
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert 0.8 < index.memory_bytes / (after - before) < 1.25
