"""The work for bodies that are wrong or large: it is bounded, and the loop serves others meanwhile."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from pydantic import TypeAdapter, ValidationError

from socketio_eventstore.program.api.problems import Problem
from socketio_eventstore.program.api.publish import MAX_NAMES, Emit, validated
from socketio_eventstore.program.api.sessions import RoomBody

MANY = 30_000


@pytest.mark.parametrize(
    ("model", "body"),
    [
        (Emit, {"event": "a", "rooms": [1.5] * MAX_NAMES}),
        (Emit, {"event": "a", "skip": [7] * MAX_NAMES}),
        (Emit, {"event": "a"} | {f"unknown {number}": 0 for number in range(MANY)}),
        (RoomBody, {"room": "a"} | {f"unknown {number}": 0 for number in range(MANY)}),
    ],
)
def test_few_errors(model: type[object], body: object) -> None:
    """However much of a body is wrong, few errors are made."""
    with pytest.raises(ValidationError) as wrong:
        TypeAdapter(model).validate_python(body)
    assert wrong.value.error_count() < 30


def test_long_room() -> None:
    """A room whose name is too long is told so, and not that it is no text."""
    with pytest.raises(ValidationError, match="at most 1000 characters, not 1001"):
        TypeAdapter(Emit).validate_python({"event": "a", "rooms": ["x" * 1001]})


async def test_first_wrong_event() -> None:
    """A group is read to its first wrong event, whose fields are named."""
    wrong = {"event": 7, "rooms": [1.5], "more": 0}
    with pytest.raises(Problem) as problem:
        await validated([{"event": "ok"}, wrong, *[wrong] * 500])
    assert [field.field for field in problem.value.fields] == ["1.event", "1.rooms.0", "1.more"]


@pytest.mark.parametrize("field", ["rooms", "skip"])
async def test_names_together(field: str) -> None:
    """The events of a group have a bound for their rooms and sids together."""
    full = {"event": "a", field: ["x"] * 4000}
    assert isinstance(await validated([full] * 5), list)
    with pytest.raises(Problem) as problem:
        await validated([*[full] * 5, {"event": "a", field: ["x"]}])
    assert [wrong.field for wrong in problem.value.fields] == ["5"]


async def test_others_meanwhile() -> None:
    """Between slices of a group, the loop serves others."""
    validating = asyncio.ensure_future(validated([{"event": "ok"}] * 100))
    steps = await steps_until(validating)
    assert isinstance(await validating, list) and steps >= 5


async def steps_until(task: asyncio.Future[Any]) -> int:
    """Return how often the loop served others until the task ended."""
    steps = 0
    while not task.done():
        await asyncio.sleep(0)
        steps += 1
    return steps
