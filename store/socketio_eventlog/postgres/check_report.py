"""What the checks of a log in PostgreSQL have found, and how a check asks the database."""

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
    """The newest format of the log that it reads."""
    silent_seconds: float
    """The age of its last batch."""
    applied: int
    """The last batch that it had applied, by its last heartbeat."""
    behind: int
    """How many batches it had not applied when it wrote that heartbeat."""
    sessions: int
    """The sessions that it has."""
    connections: int
    """Its open connections to the database; 0 behind PgBouncer, where nothing shows them."""
    is_alive: bool
    """Whether its last batch is younger than the lease."""


@dataclass
class Report:
    """What the checks have found."""

    problems: list[str] = field(default_factory=list)
    """Promises that are broken, and what keeps a server from its work."""
    notes: list[str] = field(default_factory=list)
    """What an operator may want to know, although no promise is broken."""
    facts: dict[str, str] = field(default_factory=dict)
    """By subject a text for people."""
    figures: dict[str, object] = field(default_factory=dict)
    """By name what programs may want to know of the facts."""
    losses: dict[str, str] = field(default_factory=dict)
    """By failure what it loses."""
    nodes: list[NodeState] = field(default_factory=list)
    """The servers on the log, in the order in which they joined."""
    revision: str | None = None
    """The revision of the schema; None for a database without one."""
    epoch: str | None = None
    """The epoch of the last batch."""
    head: int = 0
    """The number of the last event."""
    pruned_through: int = 0
    """The number of the last event that was pruned."""
    tables: list[TableSize] = field(default_factory=list)
    """The tables, the largest first."""

    @property
    def is_sound(self) -> bool:
        """Whether there is no problem."""
        return not self.problems


@dataclass(frozen=True)
class Probe:
    """One check at work."""

    connection: Connection
    conninfo: str
    """The parameters of the connection, for another one."""
    report: Report
    settings: dict[str, str]
    """The settings of PostgreSQL, as far as the role may read them."""
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
        """Return a setting that is a number; 0 for one that PostgreSQL does not have."""
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
