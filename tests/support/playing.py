"""Players of histories: random play, which is fast, and hypothesis, which shrinks a failing history."""

from __future__ import annotations

import inspect
import os
import random
from collections.abc import Sequence
from typing import Any, Protocol, cast

from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import RuleBasedStateMachine, run_state_machine_as_test

from support.steps import CHOICES, names_of, steps_of

EXAMPLES = int(os.environ.get("STATE_MACHINE_EXAMPLES", "100"))
STEPS_OF_A_HISTORY = 40


class Machine(Protocol):
    """A state machine of hypothesis, for random play."""

    def begin(self, **arguments: Any) -> None: ...

    def invariants_hold(self) -> None: ...

    def finish(self) -> None:
        """Bring the world to rest, and check the end."""

    def close(self) -> None: ...


def play_by_chance(kind: type[RuleBasedStateMachine], seed: int) -> None:
    """A random history without hypothesis, which is slower because of the shrinking."""
    chance = random.Random(seed)
    machine = cast("Machine", kind())
    steps, story = steps_of(kind), [f"seed {seed}"]
    beginning = _chosen(chance, [*inspect.signature(machine.begin).parameters])
    machine.begin(**beginning)
    story.append(_told("begin", beginning))
    try:
        for _ in range(STEPS_OF_A_HISTORY):
            function = chance.choice(steps)
            arguments = _chosen(chance, names_of(function))
            story.append(_told(function.__name__, arguments))
            function(machine, **arguments)
            machine.invariants_hold()
        story.append("all clients recover")
        machine.finish()
    except AssertionError as error:
        raise AssertionError("\n".join([str(error), *story])) from error
    finally:
        machine.close()


def _told(name: str, arguments: dict[str, Any]) -> str:
    texts = [f"{key}={getattr(value, '__name__', value)!r}" for key, value in arguments.items()]
    return f"{name}({', '.join(texts)})"


def _chosen(chance: random.Random, names: Sequence[str]) -> dict[str, Any]:
    return {name: chance.choice(CHOICES[name]) for name in names}


def play_many_by_chance(kind: type[RuleBasedStateMachine], first_seed: int, count: int) -> None:
    for seed in range(first_seed, first_seed + count):
        play_by_chance(kind, seed)


def play(
    kind: type[RuleBasedStateMachine],
    examples: int,
    phases: Sequence[Phase] = tuple(Phase),
    *,
    derandomize: bool = False,
) -> None:
    options = settings(
        max_examples=examples,
        derandomize=derandomize,
        stateful_step_count=STEPS_OF_A_HISTORY,
        deadline=None,
        database=None,
        phases=phases,
        suppress_health_check=list(HealthCheck),
        report_multiple_bugs=False,
    )
    run_state_machine_as_test(kind, settings=options)
