"""The error of a command, which the program prints."""

from __future__ import annotations

from typing import IO, Any

import click

PROGRAM = "socketio-eventstore"


class CommandError(click.ClickException):
    """A command cannot run. The message has one line per reason; the exit code is 2."""

    exit_code = 2

    def show(self, file: IO[Any] | None = None) -> None:
        for line in self.message.splitlines():
            click.echo(f"{PROGRAM}: {line}", file=file, err=True)
