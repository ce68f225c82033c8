from __future__ import annotations

from socketio_eventlog.events import Event
from socketio_eventstore.core.frames import Frames
from socketio_eventstore.core.recent_events import RecentEvents
from support.storing import event

SENT = Frames("as it was sent")


def test_frames_are_made_when_asked_for() -> None:
    """An event that was sent to nobody here has frames when a session turns out to have missed it."""
    recent = RecentEvents(0, limit_bytes=60, encode=lambda sequence, one: Frames(f"{sequence} {one.name}"))
    recent.append(1, event(), SENT)
    recent.extend([(2, event(), None, 20), (3, event(), None, 20), (4, event(), None, 20)])
    recent.extend([])
    assert (recent.position, recent.begins_after, recent.total) == (4, 1, 4)
    assert [recent.frames_of(one).packets for one in recent.after(2)] == [("3 message",), ("4 message",)]


def test_frames_are_made_once() -> None:
    """All sessions that have missed an event share its frames, which go with the event."""
    made: list[int] = []

    def encode(sequence: int, one: Event) -> Frames:
        made.append(sequence)
        return Frames(str(sequence))

    recent = RecentEvents(0, limit_bytes=1_000, limit_events=2, encode=encode)
    recent.extend([(1, event(), None, 20), (2, event(), None, 20)])
    first, second = recent.after(0)
    assert recent.frames_of(first) is recent.frames_of(first)
    assert recent.frames_of(second) is recent.frames_of(second)
    assert made == [1, 2]
    recent.extend([(3, event(), None, 20)])
    assert list(recent._made) == [2]
    recent.replace(2, event("redacted"), SENT)
    assert [recent.frames_of(one).packets for one in recent.after(1)] == [SENT.packets, ("3",)]
    assert list(recent._made) == [3]
    recent.clear()
    assert recent._made == {}


def test_events_after_a_sequence_oldest_first() -> None:
    """``after`` gives the events after a sequence, oldest first."""
    recent = RecentEvents(4, limit_bytes=1_000)
    for sequence in (5, 7, 8):
        recent.append(sequence, event(str(sequence)), SENT)
    assert [sequence for sequence, *_ in recent.after(4)] == [5, 7, 8]
    assert [sequence for sequence, *_ in recent.after(6)] == [7, 8]
    assert [sequence for sequence, *_ in recent.after(7)] == [8]
    assert [sequence for sequence, *_ in recent.after(8)] == []
    assert recent.begins_after == 4


def test_oldest_events_are_dropped_beyond_the_bytes() -> None:
    """The oldest events are dropped beyond the limit in bytes."""
    size_bytes = event("x").size_bytes
    recent = RecentEvents(0, limit_bytes=2 * size_bytes)
    for sequence in range(1, 5):
        recent.append(sequence, event("x"), SENT)
    assert recent.begins_after == 2 and [sequence for sequence, *_ in recent.after(2)] == [3, 4]
    recent.append(5, event("x", attachments=(b"y" * 2 * size_bytes,)), SENT)
    assert recent.begins_after == 5 and list(recent.after(5)) == []


def test_oldest_events_are_dropped_beyond_the_count() -> None:
    """The oldest events are dropped beyond the limit in events."""
    recent = RecentEvents(0, limit_bytes=1_000_000, limit_events=2)
    for sequence in range(1, 5):
        recent.append(sequence, event("x"), SENT)
    assert recent.begins_after == 2 and [sequence for sequence, *_ in recent.after(2)] == [3, 4]
