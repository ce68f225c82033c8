"""The results of the checks of a log in PostgreSQL, and the statements of a check."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeAlias

import psycopg

from socketio_eventlog.maintenance import TableSize
from socketio_eventlog.options import Synchronous

Connection: TypeAlias = psycopg.Connection[tuple[Any, ...]]


class NodeState(NamedTuple):
    """A server on the log."""

    node: str
    address: str
    """The host and the process."""
    reader: int
    """The newest readable format of the log."""
    silent_seconds: float
    """The age of the last batch."""
    applied: int
    """The last applied batch, by the last heartbeat."""
    behind: int
    """The number of batches not applied at the last heartbeat."""
    sessions: int
    """The number of sessions."""
    connections: int
    """The open connections to the database; 0 behind PgBouncer, which hides the connections."""
    is_alive: bool
    """Whether the last batch is younger than the lease."""


@dataclass
class Report:
    """The results of the checks."""

    problems: list[str] = field(default_factory=list)
    """Broken promises, and obstacles to a server's work."""
    notes: list[str] = field(default_factory=list)
    """Remarks for the operator that are no problems."""
    facts: dict[str, str] = field(default_factory=dict)
    """By subject a text for people."""
    figures: dict[str, object] = field(default_factory=dict)
    """The facts for programs, by name."""
    losses: dict[str, str] = field(default_factory=dict)
    """The loss of each failure, by failure."""
    nodes: list[NodeState] = field(default_factory=list)
    """The servers on the log, in the order of joining."""
    revision: str | None = None
    """The revision of the schema; None for a database without one."""
    epoch: str | None = None
    """The epoch of the last batch."""
    head: int = 0
    """The number of the last event."""
    pruned_through: int = 0
    """The sequence of the last pruned event."""
    tables: list[TableSize] = field(default_factory=list)
    """The tables, the largest first."""

    @property
    def is_sound(self) -> bool:
        """Whether there is no problem."""
        return not self.problems


@dataclass(frozen=True)
class Probe:
    """The connection and the results of a check."""

    connection: Connection
    conninfo: str
    """The parameters of the connection, for another connection."""
    report: Report
    settings: dict[str, str]
    """The settings of PostgreSQL, as far as readable for the role."""
    synchronous: Synchronous
    """The level at which the servers commit."""
    is_standby: bool

    def rows(self, statement: str, *parameters: object) -> list[tuple[Any, ...]]:
        """Return the rows of a statement."""
        return self.connection.execute(statement.encode(), parameters or None).fetchall()

    def row(self, statement: str, *parameters: object) -> tuple[Any, ...]:
        """Return the only row of a statement."""
        (row,) = self.rows(statement, *parameters)
        return row

    def number(self, name: str) -> int:
        """Return a setting that is a number; 0 for an unknown setting."""
        return int(self.settings.get(name, "0"))


def seconds_text(seconds: float) -> str:
    """Return a duration for people."""
    if abs(seconds) < 1:
        return f"{seconds * 1000:.1f} ms"
    return f"{seconds:.0f} s" if abs(seconds) < 120 else f"{seconds / 60:.0f} min"


def bytes_text(size: float) -> str:
    """Return a size for people."""
    for unit, factor in (("GB", 10**9), ("MB", 10**6), ("KB", 10**3)):
        if size >= factor:
            return f"{size / factor:.1f} {unit}"
    return f"{size:.0f} bytes"
