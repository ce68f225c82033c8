"""The output of ``check-store`` that databases in a file and in PostgreSQL share."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import click

from socketio_eventstore.program.commands.tables import TABLES, printable, show

if TYPE_CHECKING:
    from socketio_eventlog.maintenance import TableSize


class Report(Protocol):
    """The results that both checks have."""

    problems: list[str]
    notes: list[str]
    revision: str | None
    head: int
    pruned_through: int
    tables: list[TableSize]

    @property
    def is_sound(self) -> bool:
        """Whether there is no problem."""


def as_json(name: str, report: Report) -> dict[str, Any]:
    """Return the shared results; ``name`` is the name of the database."""
    return {
        "database": name,
        "is_sound": report.is_sound,
        "problems": report.problems,
        "notes": report.notes,
        "revision": report.revision,
        "head": report.head,
        "pruned_through": report.pruned_through,
        "tables": {table.name: {"rows": table.rows, "bytes": table.size_bytes} for table in report.tables},
    }


def show_tables(tables: Sequence[TableSize]) -> None:
    """Print the sizes of the tables; nothing for a database without tables."""
    if tables:
        show(tables, TABLES, as_json=False)


def show_findings(name: str, report: Report) -> None:
    """Print notes, problems, and the result."""
    show_notes(report.notes)
    for problem in report.problems:
        click.echo(f"problem: {printable(problem)}")
    click.echo(f"{name} is sound" if report.is_sound else f"{name} is NOT sound")


def show_notes(notes: Iterable[str]) -> None:
    """Print the notes, a line each."""
    for note in notes:
        click.echo(f"note: {printable(note)}")
