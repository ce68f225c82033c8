from __future__ import annotations

import random
from typing import Final

from socketio_eventlog.events import Offset, Room
from socketio_eventlog.snapshot import Membership
from socketio_eventstore.core import recent_pages
from socketio_eventstore.core.frames import Frames
from socketio_eventstore.core.recent_events import RecentEvents
from socketio_eventstore.core.recent_pages import RecentPages
from socketio_eventstore.core.recovery import hash_pid
from socketio_eventstore.core.sessions import Session
from support.storing import event

ROOMS: Final[tuple[Room, ...]] = ("a", "b", "c", "s1", "s2", 7)


def session(sid: str, start: int = 0) -> Session:
    return Session("/", sid, hash_pid(sid), Offset("boot", start))


def filled(events: int, chance: random.Random) -> RecentEvents:
    recent = RecentEvents(0, limit_bytes=1_000_000)
    for sequence in range(1, events + 1):
        rooms = None if chance.random() < 0.2 else tuple(chance.sample(ROOMS, chance.randint(1, 2)))
        skip = ("s1",) if chance.random() < 0.1 else ()
        namespace = "/other" if chance.random() < 0.1 else "/"
        add(recent, sequence, namespace=namespace, rooms=rooms, skip=skip)
    return recent


def add(recent: RecentEvents, sequence: int, **addressed: object) -> None:
    recent.position = sequence
    recent.append(sequence, event(str(sequence), **addressed), Frames(str(sequence)))  # type: ignore[arg-type]


def test_crowd_shares_a_page() -> None:
    """Sessions of one room with one cursor get the same frames object."""
    recent = RecentEvents(0, limit_bytes=1_000)
    pages, crowd = RecentPages(recent), [session(str(number)) for number in range(3)]
    for one in crowd:
        one.enter("a", 0)
        one.enter(one.sid + "'s own", 0)
    for sequence in range(1, 4):
        add(recent, sequence, rooms=("a",))
    found = [pages.page(one, 1) for one in crowd]
    assert found[0] is not None and found[0][0] == 2 and found[0][1].packets == ("2", "3")
    assert all(page is found[0] for page in found)
    add(recent, 4, rooms=("a",))
    after = pages.page(crowd[0], 1)
    assert after is not None and after[1].packets == ("2", "3", "4")


def test_pages_are_what_each_session_receives() -> None:
    """Whatever rooms, sids and memberships there are, a page has what ``Session.receives`` says."""
    chance = random.Random(5)
    for _ in range(200):
        recent = filled(8, chance)
        pages = RecentPages(recent)
        for _ in range(20):
            one = session(chance.choice(("s1", "s2", "s3")), start=chance.randint(0, 3))
            for room in chance.sample(ROOMS, chance.randint(0, 4)):
                one.enter(room, chance.randint(0, 5))
            if chance.random() < 0.3:
                one.left.append(Membership(chance.choice(ROOMS), chance.randint(0, 3), chance.randint(4, 8)))
            after = chance.randint(0, 8)
            expected = [str(number) for number, what, *_ in recent.after(after) if one.receives(what, number)]
            page = pages.page(one, after)
            assert (page is None and not expected) or (page is not None and list(page[1].packets) == expected)
            assert page is None or (str(page[0]), page[2]) == (expected[0], len(expected))


def test_kept_pages_are_bounded() -> None:
    """Beyond MAX_KEPT_BYTES the pages are dropped, and made again."""
    recent = RecentEvents(0, limit_bytes=10 * recent_pages.MAX_KEPT_BYTES)
    recent.position = 1
    recent.append(1, event("large"), Frames("x" * (recent_pages.MAX_KEPT_BYTES + 1)))
    pages, one = RecentPages(recent), session("s1")
    first = pages.page(one, 0)
    assert first is not None and pages.page(one, 0) is not first


def test_kept_rooms_are_bounded() -> None:
    """The rooms that the events after many cursors address count, too."""
    recent, count = RecentEvents(0, limit_bytes=10**9), 600
    for sequence in range(1, count + 1):
        add(recent, sequence, rooms=(f"room {sequence}",))
    pages, one = RecentPages(recent), session("s1")
    most = 0
    for after in range(count):
        pages.page(one, after)
        most = max(most, sum(map(len, pages._addressed.values())))
    assert most <= recent_pages.MAX_KEPT_BYTES / recent_pages.ADDRESS_BYTES + count
    assert most < count * (count + 1) / 2
