from __future__ import annotations

from socketio_eventstore.core.packets import Frames
from socketio_eventstore.core.recent_events import RecentEvents
from support.storing import event

SENT = Frames("as it was sent")


def test_the_tail_has_the_events_after_a_number_oldest_first() -> None:
    tail = RecentEvents(4, limit_bytes=1_000)
    for number in (5, 7, 8):
        tail.append(number, event(str(number)), SENT)
    assert [number for number, _, _ in tail.after(4)] == [5, 7, 8]
    assert [number for number, _, _ in tail.after(6)] == [7, 8]
    assert [number for number, _, _ in tail.after(7)] == [8]
    assert [number for number, _, _ in tail.after(8)] == []
    assert tail.begins_after == 4


def test_the_tail_drops_the_oldest_events_beyond_its_bytes() -> None:
    size_bytes = event("x").size_bytes
    tail = RecentEvents(0, limit_bytes=2 * size_bytes)
    for number in range(1, 5):
        tail.append(number, event("x"), SENT)
    assert tail.begins_after == 2 and [number for number, _, _ in tail.after(2)] == [3, 4]
    tail.append(5, event("x", attachments=(b"y" * 2 * size_bytes,)), SENT)
    assert tail.begins_after == 5 and list(tail.after(5)) == []


def test_the_tail_drops_the_oldest_events_beyond_its_number() -> None:
    tail = RecentEvents(0, limit_bytes=1_000_000, limit_events=2)
    for number in range(1, 5):
        tail.append(number, event("x"), SENT)
    assert tail.begins_after == 2 and [number for number, _, _ in tail.after(2)] == [3, 4]
