from __future__ import annotations

import tracemalloc
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from socketio_eventlog.events import Missed, Room
from socketio_eventlog.index import LEAST_FULL_SEGMENT_BYTES, Index
from socketio_eventlog.missed_summary import summarise, summary_of
from socketio_eventlog.segment import SEGMENT_LENGTH, Segment, audience_ranges, find_missed
from socketio_eventlog.snapshot import Membership

ENOUGH_BYTES = 1_000_000_000

NAMESPACES = st.sampled_from(["/", "/admin"])
ROOMS: st.SearchStrategy[Room] = st.sampled_from(["lobby", "42", 42])
STEPS = st.sampled_from([1, 1, 1, 2, 1000, SEGMENT_LENGTH - 1, SEGMENT_LENGTH, 10 * SEGMENT_LENGTH])
"""The growth of the sequence with each event: failed commits leave gaps."""
ENTRIES = st.lists(
    st.tuples(STEPS, NAMESPACES, st.none() | st.lists(ROOMS, max_size=4), st.integers(0, 2**40)), max_size=60
)
SEQUENCES = st.integers(0, 100 * SEGMENT_LENGTH)

Entry = tuple[int, str, list[Room] | None, int]


@st.composite
def logs(draw: st.DrawFn) -> list[Entry]:
    sequence = 0
    entries: list[Entry] = []
    for step, namespace, rooms, size_bytes in draw(ENTRIES):
        sequence += step
        entries.append((sequence, namespace, rooms, size_bytes))
    return entries


@st.composite
def membership_lists(draw: st.DrawFn, sequences: st.SearchStrategy[int]) -> list[Membership]:
    membership = st.builds(Membership, st.none() | ROOMS, sequences, st.none() | sequences)
    return draw(st.lists(membership, max_size=6))


FULL_BYTES = st.sampled_from([ENOUGH_BYTES, 17_500, 1])
"""The weight of a full segment: never full, full after some events, full after each event."""


def indexed(entries: list[Entry], full_segment_bytes: int = ENOUGH_BYTES) -> Index:
    index = Index(0, full_segment_bytes)
    for entry in entries:
        index.add(*entry)
    return index


def find(index: Index, namespace: str, memberships: list[Membership], after: int, through: int) -> Missed:
    ranges = audience_ranges(namespace, memberships, after, through)
    return find_missed(index.overlapping(ranges)[0], ranges)


def filtered(
    entries: list[Entry], namespace: str, memberships: list[Membership], after: int, through: int
) -> Missed:
    """The result of a scan of every event."""
    hits = [
        (sequence, min(size_bytes, 2**32 - 1))
        for sequence, space, rooms, size_bytes in entries
        if space == namespace and after < sequence <= through
        if any(
            membership.covers(sequence)
            and (rooms is None if membership.room is None else membership.room in (rooms or ()))
            for membership in memberships
        )
    ]
    return Missed(tuple(sequence for sequence, _ in hits), sum(size for _, size in hits))


@given(st.data(), logs(), NAMESPACES)
@settings(max_examples=300)
def test_the_index_agrees_with_a_scan(data: st.DataObject, entries: list[Entry], namespace: str) -> None:
    """The index finds the same events as a scan of every event."""
    last = entries[-1][0] if entries else 0
    used = [sequence for sequence, *_ in entries]
    sequences = st.sampled_from(used) | st.integers(0, last + 1) if used else SEQUENCES
    memberships = data.draw(membership_lists(sequences))
    after, through = data.draw(sequences), data.draw(sequences)
    index = indexed(entries, data.draw(FULL_BYTES))
    found = find(index, namespace, memberships, after, through)
    assert found == filtered(entries, namespace, memberships, after, through)


@given(st.data(), logs(), NAMESPACES)
@settings(max_examples=300)
def test_a_summary_agrees_with_a_search(data: st.DataObject, entries: list[Entry], namespace: str) -> None:
    """A summary says of the limits and of the ends of the range what the list of the events says."""
    sequences = st.sampled_from([sequence for sequence, *_ in entries] or [0])
    memberships = data.draw(membership_lists(sequences))
    after, through = data.draw(sequences) - 1, data.draw(sequences)
    ranges = audience_ranges(namespace, memberships, after, through)
    index = indexed(entries, data.draw(FULL_BYTES))
    missed = find(index, namespace, memberships, after, through)
    max_events = data.draw(st.integers(0, 60))
    max_bytes = data.draw(st.integers(0, 2**33) | st.integers(missed.size_bytes - 1, missed.size_bytes + 1))
    summary = summarise(index.overlapping(ranges)[0], ranges, max_events, max_bytes)
    expected = summary_of(missed, max_events, max_bytes)
    assert summary.exceeds is expected.exceeds
    ends = [end for range_ in summary.ranges for end in range_]
    assert ends == sorted(ends) and set(ends) <= set(missed.sequences)
    assert [ends[:1], ends[-1:]] == [[*missed.sequences[:1]], [*missed.sequences[-1:]]]
    assert all(any(first <= n <= last for first, last in summary.ranges) for n in missed.sequences)


@pytest.mark.parametrize("room", [lambda _: ["a", "b"], lambda sequence: ["ab"[sequence % 2]]])
def test_long_lists_are_counted(room: Callable[[int], list[Room]]) -> None:
    """Bounds that leave a limit open are followed by a count: lists that overlap, and parts of lists."""
    entries: list[Entry] = [(n, "/", room(n), n % 7) for n in range(3 * SEGMENT_LENGTH)]
    index = indexed(entries)
    ranges = audience_ranges("/", [Membership("a", 100, None), Membership("b", 200, 9000)], 0, 10**6)
    missed = find_missed(index.overlapping(ranges)[0], ranges)
    events, size_bytes = len(missed.sequences), missed.size_bytes
    for less_events in (0, 1, 1000, events):
        for less_bytes in (0, 1, 1000, size_bytes):
            limits = (events - less_events, size_bytes - less_bytes)
            summary = summarise(index.overlapping(ranges)[0], ranges, *limits)
            assert summary.exceeds is (less_events > 0 or less_bytes > 0), limits


@given(logs(), SEQUENCES)
def test_drop_through_drops_whole_segments_only(entries: list[Entry], through: int) -> None:
    """The index drops the segments without events, and no other segment."""
    index = indexed(entries)
    index.drop_through(through)
    everything = [Membership(room, 0, None) for room in (None, "lobby", "42", 42)]
    first_kept = (through + 1) // SEGMENT_LENGTH * SEGMENT_LENGTH
    kept = [entry for entry in entries if entry[0] >= first_kept]
    found = find(index, "/", everything, 0, 10**9)
    assert found == filtered(kept, "/", everything, 0, 10**9)
    index.drop_through(10**9)
    assert index.memory_bytes == 0


@given(logs(), SEQUENCES, st.sampled_from([17_500, 1]))
def test_full_segments_are_dropped(entries: list[Entry], through: int, full_bytes: int) -> None:
    """Full segments go with their last event: no event after it goes, and at most one segment stays."""
    index = indexed(entries, full_bytes)
    index.drop_through(through)
    everything = [Membership(room, 0, None) for room in (None, "lobby", "42", 42)]
    kept = [entry for entry in entries if entry[0] > through]
    assert find(index, "/", everything, through, 10**9) == filtered(kept, "/", everything, through, 10**9)
    ranges = audience_ranges("/", everything, 0, through)
    assert len(index.overlapping(ranges)[0]) <= 1


def test_events_to_many_rooms_are_bounded() -> None:
    """The weight of lists counts: the memory stays near the limit, whatever the events are addressed to."""
    index = Index(4 * LEAST_FULL_SEGMENT_BYTES)
    heaviest = 0
    for sequence in range(150):
        for chunk in index.next_chunks(1):
            index.mark_written(chunk)
        index.evict()
        index.add(sequence, "/", [f"{sequence}-{room}" for room in range(2_000)], 1)
        heaviest = max(heaviest, index.memory_bytes)
    assert heaviest < 5.5 * LEAST_FULL_SEGMENT_BYTES
    everything = audience_ranges("/", [Membership(None, 0, None)], 0, 150)
    assert 20 < len(index.overlapping(everything)[1]) + len(index.overlapping(everything)[0]) < 60


def test_a_number_and_its_text_are_different_rooms() -> None:
    index = indexed([(1, "/", ["42"], 1), (2, "/", [42], 1)])
    assert find(index, "/", [Membership("42", 0, None)], 0, 2).sequences == (1,)
    assert find(index, "/", [Membership(42, 0, None)], 0, 2).sequences == (2,)


def test_an_event_is_found_once() -> None:
    """An event that several memberships cover is found once."""
    index = indexed([(1, "/", ["a", "b", "a"], 7)])
    rejoined = [Membership("a", 0, 1), Membership("a", 0, None), Membership("b", 0, None)]
    assert find(index, "/", rejoined, 0, 1) == Missed((1,), 7)


def test_a_limited_search_stops_early() -> None:
    entries: list[Entry] = [(sequence, "/", None, 1) for sequence in range(3 * SEGMENT_LENGTH)]
    index = indexed(entries)
    ranges = audience_ranges("/", [Membership(None, 0, None)], 0, len(entries))
    assert find_missed(index.overlapping(ranges)[0], ranges, at_most=10).sequences == tuple(range(1, 12))
    assert len(find_missed(index.overlapping(ranges)[0], ranges, at_most=5000).sequences) == 5001


@given(data=st.data(), entries=logs(), full_bytes=FULL_BYTES)
def test_a_run_is_as_its_events(data: st.DataObject, entries: list[Entry], full_bytes: int) -> None:
    """Events that the index takes at once are found like those that it takes one by one."""
    one_by_one, at_once, last = Index(0, full_bytes), Index(0, full_bytes), 0
    for step, namespace, rooms, size_bytes in entries[:5]:
        sizes = data.draw(st.lists(st.just(size_bytes), min_size=1, max_size=5))
        if data.draw(st.sampled_from([True, False, False, False])):
            sizes *= SEGMENT_LENGTH // 3
        first = last + step
        for sequence, size in enumerate(sizes, first):
            one_by_one.add(sequence, namespace, rooms, size)
        last = first + len(sizes) - 1
        at_once.add_run(last, namespace, rooms, sizes)
    memberships = [Membership(room, 0, None) for room in data.draw(st.lists(st.none() | ROOMS, max_size=3))]
    for namespace in ("/", "/admin"):
        assert find(one_by_one, namespace, memberships, 0, last) == find(
            at_once, namespace, memberships, 0, last
        )
    if full_bytes == ENOUGH_BYTES:
        assert abs(one_by_one.memory_bytes - at_once.memory_bytes) <= 1


def fill(index: Index, segments: int, room: Callable[[int], Room]) -> None:
    for sequence in range(segments * SEGMENT_LENGTH):
        index.add(sequence, "/", [room(sequence)], 1)


def write_all(index: Index) -> list[int]:
    """Write all complete segments; return their keys."""
    keys = []
    while chunks := index.next_chunks(1):
        for chunk in chunks:
            index.mark_written(chunk)
            if chunk.is_last:
                keys.append(chunk.segment.first)
    return keys


def test_a_complete_segment_is_written() -> None:
    """A segment is written as soon as the log has grown past the segment."""
    index = Index(ENOUGH_BYTES)
    fill(index, 2, lambda _: "lobby")
    assert write_all(index) == [0]
    index.add(2 * SEGMENT_LENGTH, "/", None, 1)
    assert write_all(index) == [SEGMENT_LENGTH]


def test_chunks_cover_a_segment_without_a_gap() -> None:
    """A segment with many lists is written in chunks without a gap."""
    index = Index(0)
    fill(index, 2, lambda sequence: sequence)
    written: list[int] = []
    while chunks := index.next_chunks(1):
        (chunk,) = chunks
        assert chunk.stop - chunk.start <= 256
        written += range(chunk.start, chunk.stop)
        index.mark_written(chunk)
        index.mark_written(chunk)  # two commits at the same time may carry the same chunk
        index.evict()
    assert written == list(range(SEGMENT_LENGTH))
    assert index.overlapping(audience_ranges("/", [Membership(5, 0, None)], 0, 10))[1] == [0]


@pytest.mark.parametrize("rooms", [1, 20])
def test_the_index_is_written_faster_than_it_grows(rooms: int) -> None:
    index = Index(0)
    for sequence in range(20 * SEGMENT_LENGTH):
        index.add(sequence, "/", [sequence * rooms + room for room in range(rooms)], 1)
        if sequence % 1024 == 0:
            for chunk in index.next_chunks(1024):
                index.mark_written(chunk)
            index.evict()
    ranges = audience_ranges("/", [Membership(None, 0, None)], 0, 20 * SEGMENT_LENGTH)
    in_memory = index.overlapping(ranges)[0]
    assert len(in_memory) <= 2 or index.memory_bytes < 4 * LEAST_FULL_SEGMENT_BYTES


def test_few_events_with_many_rooms_are_written_slowly() -> None:
    """A segment of few events with thousands of rooms does not delay the commits of other events."""
    index = Index(4 * LEAST_FULL_SEGMENT_BYTES)
    sequence = 0
    while not index.next_chunks(0):
        sequence += 1
        index.add(sequence, "/", [f"{sequence}-{room}" for room in range(2_000)], 1)
    assert sequence < 20
    index.add(sequence + 1, "/", ["lobby"], 1)
    lengths = [chunk.stop - chunk.start for events in (1, 100) for chunk in index.next_chunks(events)]
    assert lengths == [256, 400]


def test_a_segment_without_lists_is_written() -> None:
    """A segment without addressed rooms is written, too."""
    index = Index(0)
    for sequence in range(SEGMENT_LENGTH + 1):
        index.add(sequence, "/", [], 1)
    assert write_all(index) == [0]


def test_only_stored_segments_are_evicted() -> None:
    """Only segments on disk are evicted, the oldest segment first."""
    index = Index(3 * 40_000)
    fill(index, 5, lambda _: "lobby")
    index.evict()
    ranges = audience_ranges("/", [Membership("lobby", 0, None)], 0, 5 * SEGMENT_LENGTH)
    assert index.overlapping(ranges)[1] == []
    write_all(index)
    index.evict()
    assert index.overlapping(ranges)[1] == [0]
    in_memory = [segment.first for segment in index.overlapping(ranges)[0]]
    assert in_memory == [number * SEGMENT_LENGTH for number in (1, 2, 3, 4)]
    assert index.memory_bytes <= 3 * 40_000


def test_the_newest_segment_is_never_evicted() -> None:
    index = Index(0)
    fill(index, 3, lambda _: "lobby")
    write_all(index)
    index.evict()
    assert find(index, "/", [Membership("lobby", 0, None)], 0, 10**6).sequences == tuple(
        range(2 * SEGMENT_LENGTH, 3 * SEGMENT_LENGTH)
    )


def test_a_stored_segment_continues() -> None:
    """A segment from disk accepts the events after its last event."""
    index = Index(ENOUGH_BYTES)
    index.add_stored_segment(0)
    second = Segment(SEGMENT_LENGTH)
    second.add(SEGMENT_LENGTH, "/", None, 5)
    index.add_segment(second, on_disk=True)
    index.add(SEGMENT_LENGTH + 1, "/", None, 6)
    everyone = [Membership(None, 0, None)]
    assert find(index, "/", everyone, 0, 10**6) == Missed((SEGMENT_LENGTH, SEGMENT_LENGTH + 1), 11)
    assert index.overlapping(audience_ranges("/", everyone, 0, 10**6))[1] == [0]


@pytest.mark.parametrize(
    "room",
    [
        lambda _: "lobby",
        lambda sequence: f"room-{sequence % 100}",
        lambda sequence: f"sid-{sequence:016}",
        lambda sequence: sequence * 1000,
        lambda sequence: f"räume/中-{sequence % 3000}",
    ],
    ids=["one room", "100 rooms", "every event to another sid", "integers", "unicode"],
)
def test_memory_bytes_agrees_with_tracemalloc(room: Callable[[int], Room]) -> None:
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        index = Index(ENOUGH_BYTES)
        fill(index, 8, room)
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert 0.8 < index.memory_bytes / (after - before) < 1.25
