"""The search for events by text and time."""

from __future__ import annotations

import pytest

from socketio_eventlog.search import Search
from socketio_eventstore.core.event_pages import EventFilter, EventPages, PageLimits
from support.embedded import Server

TEXTS = ["red", "RED deer", "100% of it", "a_b", "back\\slash", 'say "red"', "é", "nothing"]


async def found(server: Server, **wanted: str | float) -> list[int]:
    """The indexes of the found texts, in both directions alike."""
    pages = EventPages((await server.manager.start()).context, PageLimits(rows_per_search=3))
    wanted_events = EventFilter(**wanted)  # type: ignore[arg-type]
    backwards = await pages.before(None, wanted_events, 100)
    forwards = await pages.after(0, wanted_events, 100)
    assert backwards.events == forwards.events and backwards.is_end and forwards.is_end
    return [logged.sequence - 1 for logged in backwards.events]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("red", [0, 1, 5]),
        ("100%", [2]),
        ("%", [2]),
        ("_", [3]),
        ("\\\\", [4]),
        ('\\"red', [5]),
        ("é", [6]),
        ("green", []),
    ],
)
async def test_events_with_a_text(server: Server, text: str, expected: list[int]) -> None:
    """A text finds the events that contain it literally, capital letters aside."""
    for one in TEXTS:
        await server.sio.emit("said", one)
    assert await found(server, text=text) == expected


async def test_events_of_a_time(server: Server) -> None:
    """The range of times has its beginning and not its end; all parts of a filter must fit."""
    for one in TEXTS:
        await server.sio.emit("said", one)
    times = [event.emitted_at for event in await server.sio.events()]
    assert await found(server, emitted_from=times[0]) == list(range(8))
    middle = times[4]
    expected = [index for index, time in enumerate(times) if times[2] <= time < middle]
    assert await found(server, emitted_from=times[2], emitted_before=middle) == expected
    with_text = [index for index, time in enumerate(times) if time < middle and index in (0, 1, 5)]
    assert await found(server, emitted_before=middle, text="red") == with_text
    assert await found(server, emitted_from=times[-1] + 1) == []


@pytest.mark.parametrize("among", [None, [1, 2, 3, 4, 5, 6]])
@pytest.mark.parametrize("newest_first", [True, False])
async def test_a_search_reads_few_bytes(server: Server, newest_first: bool, among: list[int] | None) -> None:
    """A job looks for a text in a limited number of bytes, and the next job continues behind it."""
    for index in range(6):
        await server.sio.emit("said", str(index) * 1000)
    log = (await server.manager.start()).log
    first, last, jobs = 1, 6, list[list[int]]()
    while first <= last:
        question = Search(
            first,
            last,
            newest_first=newest_first,
            max_events=10,
            max_bytes=1_000_000,
            max_rows=100,
            among=None if among is None else [one for one in among if first <= one <= last],
            text="said",
            max_text_bytes=3100,
        )
        answer = await log.search(question)
        jobs.append([logged.sequence for logged in answer.events])
        first, last = (1, answer.reached - 1) if newest_first else (answer.reached + 1, 6)
    assert sorted(one for job in jobs for one in job) == [1, 2, 3, 4, 5, 6] and len(jobs) > 1
    assert max(map(len, jobs)) <= 3
