"""The faults of a run: of servers, clocks, links to the database, and the database."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TypeAlias


@dataclass(frozen=True, slots=True)
class Kill:
    """A SIGKILL and a new start of a server."""

    node: int = 0


@dataclass(frozen=True, slots=True)
class Freeze:
    """A SIGSTOP of a server, and a SIGCONT."""

    node: int
    seconds: float


class BreakKind(StrEnum):
    """The moment at which a server loses the connections to the database."""

    REQUEST = "request"
    """The next append does not arrive."""
    ANSWER = "answer"
    """The next append arrives, and the answer is lost."""


@dataclass(frozen=True, slots=True)
class Break:
    """The end of all connections of a server to the database."""

    node: int
    kind: BreakKind


@dataclass(frozen=True, slots=True)
class Partition:
    """No bytes pass between a server and the database; bytes sent meanwhile arrive late."""

    node: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Jump:
    """The wall clock of a server jumps ahead by a number of seconds."""

    node: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Promotion:
    """The loss of the database, and the promotion of the standby."""


Fault: TypeAlias = Kill | Freeze | Break | Partition | Jump | Promotion
