"""The output of ``check-store`` for a log in PostgreSQL."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

import click

from socketio_eventstore.program.command_error import CommandError
from socketio_eventstore.program.commands import check_output
from socketio_eventstore.program.commands.progress import bars
from socketio_eventstore.program.commands.tables import Columns, seconds_text, show

if TYPE_CHECKING:
    from socketio_eventlog.postgres.check_report import Report
    from socketio_eventstore.program.config import Config

_FACTS: Final[Columns] = {"Subject": lambda fact: fact[0], "Found": lambda fact: fact[1]}
_LOSSES: Final[Columns] = {"Failure": lambda loss: loss[0], "Loses": lambda loss: loss[1]}
_NODES: Final[Columns] = {
    "Server": lambda node: node.node,
    "Address": lambda node: node.address,
    "Reads format": lambda node: f"{node.reader}",
    "Last batch": lambda node: f"{seconds_text(node.silent_seconds)} ago",
    "Behind": lambda node: f"{node.behind:,} batches",
    "Sessions": lambda node: f"{node.sessions:,}",
    "Connections": lambda node: f"{node.connections:,}",
    "State": lambda node: "alive" if node.is_alive else "silent",
}


def check(url: str | None, config: Config | None, *, as_json: bool) -> bool:
    """Check a database, show the result, and return whether there is no problem. Raises CommandError.

    ``url``: a database instead of the configured database; either ``url`` or ``config`` is given.
    """
    from socketio_eventlog.errors import StoreError
    from socketio_eventlog.opening import check_whole_database, describe

    synchronous = "full" if config is None else config.store.synchronous
    url = url or (config.store.url if config is not None else "")
    try:
        name = describe(url)
        with bars() as shown:
            report = check_whole_database(url, synchronous, shown.checked)
    except StoreError as error:
        raise CommandError(str(error)) from error
    if as_json:
        click.echo(json.dumps(_as_json(name, report)))
    else:
        _show(name, report)
    return report.is_sound


def _as_json(name: str, report: Report) -> dict[str, Any]:
    return {
        **check_output.as_json(name, report),
        "epoch": report.epoch,
        "losses": report.losses,
        "nodes": [node._asdict() for node in report.nodes],
        **report.figures,
    }


def _show(name: str, report: Report) -> None:
    show(report.facts.items(), _FACTS, as_json=False)
    if report.losses:
        show(report.losses.items(), _LOSSES, as_json=False)
    if report.nodes:
        show(report.nodes, _NODES, as_json=False)
    check_output.show_tables(report.tables)
    check_output.show_findings(name, report)
