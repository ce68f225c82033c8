"""The commands that change the log as a whole: ``prune``, ``redact``, ``compact``."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, Final

import click

from socketio_eventstore.program.command_config import config_option, load_config
from socketio_eventstore.program.command_error import CommandError
from socketio_eventstore.program.commands.connection import (
    client_for,
    control_of,
    is_served,
    url_elsewhere,
    url_option,
)
from socketio_eventstore.program.commands.tables import bytes_text, value_of

_DASHED_OFFSET: Final = re.compile(r"-[\w-]*\.\d+", re.ASCII)
_QUOTE: Final = "\0"
"""Hides a dash from the parser; no argument of a program has this character."""
json_option = click.option("--json", "as_json", is_flag=True, help="Print one line of JSON.")


def add_to(commands: click.Group) -> None:
    """Add the commands of the module."""
    for command in (prune, redact, compact):
        commands.add_command(command)


@click.command()
@url_option
@config_option
@json_option
def prune(url: str | None, path: Path | None, as_json: bool) -> None:
    """Delete the events older than the retention, now.

    The server does the same at every prune_interval. An event that a session may still need is not deleted.
    """
    done = client_for(url, path).post("/prune", ("events", "pruned_through"), {}, takes_long=True)
    through = f"the log is pruned up to number {done['pruned_through']}"
    _print(done, f"{done['events']} events were deleted; {through}", as_json=as_json)


class OffsetCommand(click.Command):
    """A command with an offset as argument. One offset in 64 begins with a dash, and is no option."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse the arguments; an offset, or a number, with a dash is an argument."""
        rest = super().parse_args(ctx, [_quoted(text) for text in args])
        ctx.params["offset"] = ctx.params["offset"].removeprefix(_QUOTE)
        ctx.params["args"] = tuple(text.removeprefix(_QUOTE) for text in ctx.params["args"])
        return rest


def _quoted(text: str) -> str:
    return _QUOTE + text if _DASHED_OFFSET.fullmatch(text) else text


@click.command(cls=OffsetCommand)
@click.argument("offset")
@click.argument("args", nargs=-1)
@click.option("--event", default="redacted", show_default=True, help="The name that the event gets.")
@url_option
@config_option
@json_option
def redact(
    offset: str, args: tuple[str, ...], event: str, url: str | None, path: Path | None, as_json: bool
) -> None:
    """Replace the event at OFFSET by a new name and ARGS.

    Each of ARGS is JSON, or a text if it is not JSON. Clients without the event receive the replacement; the
    sessions go on. Backups keep the former content.
    """
    body = {"offset": offset, "event": event, "args": [value_of(text) for text in args]}
    done = client_for(url, path).post("/redact", ("offset", "is_scrubbed"), body, takes_long=True)
    text = f"the event at offset {done['offset']} is {event!r} now"
    if not done["is_scrubbed"]:
        text += (
            "; a reader of the database, or a full disk, keeps the former one in the WAL: redact again later"
        )
    _print(done, text, as_json=as_json)


@click.command()
@click.option("--force", is_flag=True, help="Let a running server rewrite more than 64 MB of content.")
@url_option
@config_option
@json_option
def compact(force: bool, url: str | None, path: Path | None, as_json: bool) -> None:
    """Give the space of deleted events back to the disk.

    A running server commits nothing meanwhile: about a second for each 60 MB of content.
    """
    config = None if url_elsewhere(url) else load_config(path)
    if config is None or config.store.url or is_served(control_of(config.store.path)):
        names = ("before_bytes", "after_bytes", "seconds")
        done = client_for(url, path).post("/compact", names, {"force": force}, takes_long=True)
    else:
        done = _compact_stopped(config.store.path)
    before, after = bytes_text(done["before_bytes"]), bytes_text(done["after_bytes"])
    _print(
        done, f"the database had {before}, and has {after}; it took {done['seconds']:.2f} s", as_json=as_json
    )


def _compact_stopped(database: Path) -> dict[str, Any]:
    from socketio_eventlog.errors import StoreError
    from socketio_eventlog.sqlite.compact import compact_stopped

    try:
        return compact_stopped(database)._asdict()
    except StoreError as error:
        raise CommandError(str(error)) from error


def _print(done: object, text: str, *, as_json: bool) -> None:
    click.echo(json.dumps(done) if as_json else text)
