"""The commands of the program: each one is a function here.

What needs the server's dependencies is imported by the command that uses it, so that the others start
at once.
"""

from __future__ import annotations

import logging
import os
import secrets
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any

import click

from socketio_eventstore.program.config import Config, ConfigError

PROGRAM = "socketio-eventstore"
DEFAULT_CONFIG = Path("config.toml")
LOG_LEVELS = ("debug", "info", "warning", "error")


class CommandError(click.ClickException):
    """The program cannot do what it was asked for; the message has a line for each reason."""

    exit_code = 2

    def show(self, file: IO[Any] | None = None) -> None:
        for line in self.message.splitlines():
            click.echo(f"{PROGRAM}: {line}", file=file, err=True)


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name=PROGRAM, prog_name=PROGRAM, message="%(prog)s %(version)s")
def commands() -> None:
    """A Socket.IO server whose clients miss nothing while they are away."""


config_option = click.option(
    "--config",
    "path",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help=f"The configuration, {DEFAULT_CONFIG} unless told otherwise.",
)


@commands.command()
@config_option
@click.option("--host", help="The address to listen on, whatever the configuration says.")
@click.option("--port", type=int, help="The port to listen on, whatever the configuration says.")
@click.option("--log-level", type=click.Choice(LOG_LEVELS), default="info", show_default=True)
def serve(path: Path | None, host: str | None, port: int | None, log_level: str) -> None:
    """Serve until Ctrl-C or SIGTERM."""
    flags = {"host": host, "port": port}
    config = _load(path, {"server": {key: value for key, value in flags.items() if value is not None}})
    _log_to_stderr(log_level)
    from socketio_eventstore.program import app

    _attempt(app.run, config)


@commands.command()
@config_option
def check_config(path: Path | None) -> None:
    """Say what is wrong with the configuration, without serving."""
    config = _load(path)
    from socketio_eventstore.program import app

    _attempt(app.check, config)
    click.echo(f"{path or DEFAULT_CONFIG} is in order")


@commands.command()
@config_option
def migrate(path: Path | None) -> None:
    """Bring the database to this version's schema. Serving does so, too."""
    config = _load(path)
    from socketio_eventstore.program import app

    _attempt(app.migrate, config)
    click.echo(f"{config.store.path} has this version's schema")


@commands.command()
@click.option("--clients", type=click.IntRange(1, 1000), default=50, show_default=True)
@click.option("--rooms", type=click.IntRange(1, 1000), default=10, show_default=True)
@click.option("--cuts", type=click.IntRange(0), default=200, show_default=True, help="Transports broken.")
@click.option("--kills", type=click.IntRange(0), default=30, show_default=True, help="SIGKILLs and restarts.")
@click.option("--events", type=click.IntRange(1), default=10_000, show_default=True, help="About so many.")
@click.option("--duration", type=float, default=300.0, show_default=True, help="Seconds at most.")
@click.option("--synchronous", type=click.Choice(("full", "normal")), default="full", show_default=True)
@click.option("--seed", type=int, help="Repeats the run with this seed; a new one otherwise.")
@click.option("--keep", is_flag=True, help="Keep the scratch store, as is done when a promise was broken.")
def verify(duration: float, seed: int | None, keep: bool, **amounts: Any) -> None:
    """Break a server of its own in every way it knows, and count what clients missed.

    Exits with 0 if all promises were kept, 1 if one was broken, 2 if it could not run.
    """
    from socketio_eventstore.verify.plan import Settings
    from socketio_eventstore.verify.process import CannotRun
    from socketio_eventstore.verify.program import verify

    seed = secrets.randbelow(2**32) if seed is None else seed
    try:
        code = verify(Settings(duration_seconds=duration, seed=seed, **amounts), keep=keep)
    except CannotRun as error:
        raise CommandError(str(error)) from error
    click.get_current_context().exit(code)


def _load(path: Path | None, flags: Mapping[str, Mapping[str, object]] | None = None) -> Config:
    if path is None and not DEFAULT_CONFIG.exists():
        raise CommandError(
            f"there is no {DEFAULT_CONFIG} in {Path.cwd()}; name a file with --config, or make one: "
            f"echo '[connection_state_recovery]' >{DEFAULT_CONFIG}"
        )
    try:
        return Config.load(path or DEFAULT_CONFIG, flags, os.environ)
    except ConfigError as error:
        raise CommandError(str(error)) from error


def _log_to_stderr(level: str) -> None:
    logging.basicConfig(level=level.upper(), format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    # It announces each of its plugins.
    logging.getLogger("alembic").setLevel(logging.WARNING)


def _attempt(action: Callable[[Config], None], config: Config) -> None:
    from socketio_eventstore.program.app import StartError

    try:
        action(config)
    except StartError as error:
        raise CommandError(str(error)) from error
