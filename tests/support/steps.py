"""The steps of a history, and the values of their arguments."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, TypeVar

from hypothesis import strategies as st
from hypothesis.stateful import rule

from socketio_eventlog.errors import StoreBusy, StoreRejected, StoreUnavailable
from support.simulated_network import NAMESPACES
from support.simulated_world import DURATION, ROOMS, World

CHOICES: dict[str, Sequence[Any]] = {
    "durable": [True, False],
    "connected": [3, 3, 3, 1, 0],
    "number": range(len(NAMESPACES)),
    "namespace": NAMESPACES,
    "room": ROOMS,
    "kind": ["all", "room", "room", "rooms", "to", "to", "skip", "skip room"],
    "accept": [True, True, True, False],
    "farewell": [True, False],
    "count": [1, 2, 3],
    "how": [World.cut, World.cut, World.strand, World.send_disconnect],
    "steps": [1, 2, 3, 4],
    "which": ["commits", "reads"],
    "failure": [StoreUnavailable, StoreBusy, StoreRejected],
    "times": [1, 2, 3],
    "may_be_found": [False, True],
    "keep": [0, 0, 1, 2, 5],
    "find_uncertain": [False, True],
    "back": [True, False],
    "seconds": [1.0, 4.0, DURATION + 1.0],
    "sweep": [True, False],
}
"""The values of a step's argument, by its name."""
STEPS: list[Callable[..., None]] = []
"""The steps; frequent ones are repeated."""
Step = TypeVar("Step", bound=Callable[..., None])


def step(weight: int = 1) -> Callable[[Step], Step]:
    """Declare a step, for hypothesis and for random histories."""

    def decorate(function: Step) -> Step:
        STEPS.extend([function] * weight)
        decorated: Callable[[Step], Step] = rule(**strategies_for(function))
        return decorated(function)

    return decorate


@cache
def names_of(function: Callable[..., None]) -> Sequence[str]:
    return list(inspect.signature(function).parameters)[1:]


def strategies_for(function: Callable[..., None]) -> dict[str, Any]:
    return {name: st.sampled_from(CHOICES[name]) for name in names_of(function)}
