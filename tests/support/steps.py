"""The steps of a history, and the values of arguments."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from functools import cache
from types import FunctionType
from typing import Any, TypeVar

from hypothesis import strategies as st
from hypothesis.stateful import rule

from socketio_eventlog.errors import StoreBusy, StoreRejected, StoreUnavailable
from support.simulated_clients import Scene
from support.simulated_network import NAMESPACES
from support.simulated_server import DURATION, ROOMS

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
    "how": [Scene.cut, Scene.cut, Scene.strand, Scene.send_disconnect],
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
    "at": [0, 1, 2],
    "other": [0, 1, 2],
    "lands": [True, False],
    "alone": [True, False],
    "ending": ["node", "connection"],
    "pauses": [True, False],
    "gate": ["appends", "appends", "deliveries", "deliveries", "reads"],
}
"""The values of a step's argument, by name."""
_WEIGHTS: dict[Callable[..., None], int] = {}
Step = TypeVar("Step", bound=Callable[..., None])


def step(weight: int = 1) -> Callable[[Step], Step]:
    """Declare a step, for hypothesis and for random histories."""

    def decorate(function: Step) -> Step:
        declare: Callable[[Step], Step] = rule(**strategies_for(function))
        decorated = declare(function)
        _WEIGHTS[decorated] = weight
        return decorated

    return decorate


@cache
def steps_of(machine: type) -> Sequence[Callable[..., None]]:
    """The steps of a machine, without hypothesis; frequent ones are repeated."""
    members = [member for kind in reversed(machine.__mro__) for member in vars(kind).values()]
    functions = [member for member in members if isinstance(member, FunctionType) and member in _WEIGHTS]
    return [inspect.unwrap(function) for function in functions for _ in range(_WEIGHTS[function])]


@cache
def names_of(function: Callable[..., None]) -> Sequence[str]:
    return list(inspect.signature(function).parameters)[1:]


def strategies_for(function: Callable[..., None]) -> dict[str, Any]:
    return {name: st.sampled_from(CHOICES[name]) for name in names_of(function)}
