"""The output of a command: tables for people, a line of JSON for each entry for programs."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeAlias

import click

WIDTH_OF_PIPES = 10_000
Columns: TypeAlias = Mapping[str, Callable[[Any], str]]
"""By title, a function that returns the text of an entry."""

json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON, a line for each entry.")


def value_of(argument: str) -> Any:
    """Return the value of an argument of an event: JSON, or the text itself."""
    try:
        value = json.loads(argument)
        json.dumps([[value]], allow_nan=False)  # Python reads NaN and 1e999, which are no JSON for others
    except (ValueError, RecursionError):
        return argument
    return value


def bytes_text(size: int) -> str:
    """Return a size for people."""
    for unit, factor in (("GB", 10**9), ("MB", 10**6), ("KB", 10**3)):
        if size >= factor:
            return f"{size / factor:.1f} {unit}"
    return f"{size} bytes"


def seconds_text(seconds: float | None) -> str:
    """Return a duration for people; empty for none."""
    return "" if seconds is None else f"{seconds:.0f} s"


TABLES: Columns = {
    "Table": lambda table: table.name,
    "Rows": lambda table: f"{table.rows:,}",
    "Size": lambda table: "" if table.size_bytes is None else bytes_text(table.size_bytes),
}
"""The columns for the tables of a database."""


def show(entries: Iterable[Any], columns: Columns, *, as_json: bool) -> None:
    """Print the entries, each as a row of a table, or as a line of JSON."""
    if as_json:
        for entry in entries:
            click.echo(json.dumps(entry))
        return
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(*columns, box=SIMPLE_HEAD, pad_edge=False)
    for entry in entries:
        table.add_row(*(Text(printable(column(entry))) for column in columns.values()))
    # Where no person looks, such as in a pipe, no column is cut.
    Console(width=None if sys.stdout.isatty() else WIDTH_OF_PIPES).print(table)


def show_line(entry: Any, columns: Columns, *, as_json: bool) -> None:
    """Print one entry as a line, before the next entries are known."""
    texts = [json.dumps(entry)] if as_json else [printable(column(entry)) for column in columns.values()]
    click.echo("  ".join(texts))


def printable(text: str) -> str:
    """Return a text without effect on the terminal: clients choose names and arguments."""
    return "".join(
        character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in text
    )
