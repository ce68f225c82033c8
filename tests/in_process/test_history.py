"""``sio.events`` and ``sio.fetch_sessions``: the log and the sessions, as handlers read them."""

from __future__ import annotations

import random
from typing import Any

import pytest

from socketio_eventstore.adapter.history import SessionInfo
from socketio_eventstore.core.event_pages import EventFilter, EventPages, PageLimits
from support.embedded import Server, away


async def test_pages_of_a_room(server: Server) -> None:
    """The last events of a room come newest last; the page before a page begins at its first event."""
    offsets = []
    for number in range(10):
        offsets.append(await server.sio.emit("said", number, room="red"))
        await server.sio.emit("said", number, room=["blue", "red"] if number == 5 else "blue")
        await server.sio.emit("said", number)
    last = await server.sio.events(room="red", limit=3)
    assert [event.args for event in last] == [[7], [8], [9]]
    assert [event.offset for event in last] == offsets[7:]
    before = await server.sio.events(room="red", before=last[0].offset, limit=3)
    assert [event.args for event in before] == [[5], [5], [6]]
    assert (before[1].rooms, last[0].rooms, last[0].event, last[0].namespace) == (
        ("blue", "red"),
        ("red",),
        "said",
        "/",
    )
    after = await server.sio.events(room="red", after=offsets[0], limit=2)
    assert [event.args for event in after] == [[1], [2]]
    between = await server.sio.events(room="red", after=offsets[0], before=offsets[2])
    assert [event.args for event in between] == [[1]]
    assert await server.sio.events(room="green") == await server.sio.events(namespace="/other") == []


async def test_arguments_and_names(server: Server) -> None:
    """Arguments come back as they were emitted, bytes included; a name selects events."""
    await server.sio.emit("none")
    await server.sio.emit("several", (1, {"a": [b"\0\xff"]}, "é"), skip_sid="somebody")
    (none, several) = await server.sio.events()
    assert (none.args, none.rooms, none.skip) == ([], None, ())
    assert (several.args, several.skip) == ([1, {"a": [b"\0\xff"]}, "é"], ("somebody",))
    assert [event.event for event in await server.sio.events(event="several")] == ["several"]


async def test_deep_arguments(server: Server) -> None:
    """Arguments that are nested up to 400 levels deep are shown; deeper ones may be left out."""
    for depth in (400, 900):
        await server.sio.emit("deep", nested(depth))
    shown, deeper = await server.sio.events()
    assert shown.args == [nested(400)] and len(deeper.args) <= 1  # Python 3.12 reads deeper ones


def nested(depth: int) -> Any:
    """Lists within lists."""
    value: Any = 1
    for _ in range(depth):
        value = [value]
    return value


async def test_wrong_arguments(server: Server) -> None:
    """An offset of another log and an impossible limit are errors of the caller."""
    for wrong in ({"before": "x"}, {"after": "other.1"}, {"limit": 0}, {"limit": 1001}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            await server.sio.events(**wrong)


async def test_pruned_events(server: Server) -> None:
    """Deleted events are left out, and an offset of one of them is a place like any other."""
    offsets = [await server.sio.emit("said", number) for number in range(6)]
    from socketio_eventstore.core.operations import Prune

    runtime = await server.manager.start()
    await runtime.queue.submit(Prune(3))
    assert [event.args for event in await server.sio.events()] == [[3], [4], [5]]
    assert [event.args for event in await server.sio.events(after=offsets[0], limit=1)] == [[3]]
    assert await server.sio.events(before=offsets[2]) == []


ROOMS = ["a", "b", 7, "7"]
LIMITS = [PageLimits(), PageLimits(rows_per_search=7), PageLimits(size_bytes=60), PageLimits(window=5)]
BOUNDED = [PageLimits(rows_per_search=3, searches=2), PageLimits(window=4, windows=3)]


@pytest.mark.parametrize("limits", [*LIMITS, *BOUNDED])
async def test_pages_against_a_list(server: Server, limits: PageLimits) -> None:
    """Pages in either direction, put together, are the events that fit the filter, whatever the bounds."""
    chance = random.Random(1)
    emitted: list[tuple[str, str, Any]] = []
    for _ in range(60):
        emitted_in, named = chance.choice(["/", "/", "/other"]), chance.choice(["x", "y"])
        room = chance.choice([None, *ROOMS, ["a", "b"]])
        await server.sio.emit(named, "text" * chance.randrange(9), room=room, namespace=emitted_in)
        emitted.append((emitted_in, named, room))
    pages = EventPages((await server.manager.start()).context, limits)
    for namespace in (None, "/", "/other"):
        for name in (None, "x"):
            for rooms in (None, ("a",), (7,), ("7", "b")):
                if rooms is not None and namespace is None:
                    continue
                wanted = EventFilter(namespace, rooms, name)
                expected = [n for n, event in enumerate(emitted, 1) if fits(wanted, *event)]
                assert await all_before(pages, wanted) == await all_after(pages, wanted) == expected
                thorough = await pages.before(None, wanted, 5, thorough=True)
                found = [logged.sequence for logged in thorough.events]
                assert found == expected[-5:] or limits.size_bytes == 60


def fits(wanted: EventFilter, namespace: str, name: str, room: Any) -> bool:
    rooms = room if isinstance(room, list) else [room]
    fits_room = wanted.rooms is None or any(one in wanted.rooms for one in rooms)
    return fits_room and wanted.namespace in (None, namespace) and wanted.name in (None, name)


async def all_before(pages: EventPages, wanted: EventFilter) -> list[int]:
    found: list[int] = []
    before = None
    for _ in range(100):
        page = await pages.before(before, wanted, 4)
        found = [*(logged.sequence for logged in page.events), *found]
        if page.is_end:
            return found
        before = page.reached
    raise AssertionError("the pages have no end")


async def all_after(pages: EventPages, wanted: EventFilter) -> list[int]:
    found: list[int] = []
    after = 0
    for _ in range(100):
        page = await pages.after(after, wanted, 4)
        found += [logged.sequence for logged in page.events]
        if page.is_end:
            return found
        after = page.reached
    raise AssertionError("the pages have no end")


async def test_sessions(server: Server) -> None:
    """The sessions of a room are there with their rooms, identity and data, connected or away."""
    ann, bob = await server.client(), await server.client()
    for client in (ann, bob):
        await server.sio.enter_room(client.sid, "red")
    await server.sio.enter_room(ann.sid, 7)
    await server.sio.bind(ann.sid, "ann")
    await server.sio.save_session(ann.sid, {"name": "Ann"})
    await away(server, bob)
    first, second = await server.sio.fetch_sessions(room="red")
    assert first == SessionInfo(ann.sid, "/", True, ("red", 7), "ann", {"name": "Ann"})
    assert second == SessionInfo(bob.sid, "/", False, ("red",), None, {})
    assert await server.sio.fetch_sessions(room=7) == await server.sio.fetch_sessions(room=ann.sid) == [first]
    assert await server.sio.fetch_sessions() == [first, second]
    assert await server.sio.fetch_sessions(namespace="/other") == []
