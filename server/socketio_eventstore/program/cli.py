"""The command line: one function for each command.

A command imports its own dependencies, so ``--help`` and other commands start fast.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from socketio_eventstore.program.command_config import DEFAULT_CONFIG, config_option, load_config
from socketio_eventstore.program.command_error import PROGRAM, CommandError
from socketio_eventstore.program.commands import file_commands, log_commands, maintenance_commands

if TYPE_CHECKING:
    from socketio_eventstore.program.config import Config

T = TypeVar("T")

LOG_LEVELS = ("debug", "info", "warning", "error")


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name=PROGRAM, prog_name=PROGRAM, message="%(prog)s %(version)s")
def commands() -> None:
    """A Socket.IO server with durable connection state recovery: a reconnected client has missed nothing."""


for module in (log_commands, maintenance_commands, file_commands):
    module.add_to(commands)


@commands.command()
@config_option
@click.option("--host", help="The address to listen on. Overrides the configuration.")
@click.option("--port", type=int, help="The port to listen on. Overrides the configuration.")
@click.option("--log-level", type=click.Choice(LOG_LEVELS), help="Overrides the configuration.")
def serve(path: Path | None, host: str | None, port: int | None, log_level: str | None) -> None:
    """Serve until Ctrl-C or SIGTERM (POSIX only).

    A second signal ends the server at once. Without a terminal, SIGHUP reloads the configuration.
    """
    _require_posix("serve")
    values = {key: value for key, value in {"host": host, "port": port}.items() if value is not None}
    flags: dict[str, Mapping[str, object]] = {"server": values}
    if log_level is not None:
        flags["log"] = {"level": log_level}
    config = load_config(path, flags)
    from socketio_eventstore.program.logs import log_to_stderr

    log_to_stderr(config.log)
    absolute = (path or DEFAULT_CONFIG).absolute()  # handlers may change the present folder
    from socketio_eventstore.program import serving
    from socketio_eventstore.program.config import Config

    def load() -> Config:
        return Config.load(absolute, flags, os.environ)

    code = _run(lambda config: serving.run(config, load), config)
    click.get_current_context().exit(code)


@commands.command()
@config_option
def init(path: Path | None) -> None:
    """Write a config file with every key.

    The file shows the default and the meaning of each key.
    """
    from socketio_eventstore.program.shipped_config import shipped_config

    path = path or DEFAULT_CONFIG
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(shipped_config())
    except FileExistsError:
        raise CommandError(f"{path} exists; init does not change it") from None
    except OSError as error:
        raise CommandError(f"cannot write {path}: {error.strerror}") from error
    click.echo(f"{path} is written; `{PROGRAM} serve` reads it")


@commands.command()
@config_option
def check_config(path: Path | None) -> None:
    """Check the configuration without serving."""
    config = load_config(path)
    from socketio_eventstore.program import app

    _run(app.check, config)
    click.echo(f"{path or DEFAULT_CONFIG} is valid")


@commands.command()
@click.option("--json", "as_json", is_flag=True, help="Print one line of JSON.")
@config_option
def migrate(path: Path | None, as_json: bool) -> None:
    """Migrate the database to this version's schema.

    serve does the same at its start, but makes no backup before.
    """
    config = load_config(path)
    from socketio_eventstore.program import schema

    backup = None if config.store.url else file_commands.back_up_before_migration(config.store.path)
    if backup is not None:
        click.echo(f"{backup} is a backup of the former state", err=as_json)  # also if the next line fails
    _run(schema.migrate, config)
    if as_json:
        import json

        former = None if backup is None else str(backup)
        click.echo(json.dumps({"database": str(config.store.name), "backup": former}))
        return
    click.echo(f"{config.store.name} has {schema.description(config)}")


@commands.command()
@click.argument("name")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def genkey(name: str, as_json: bool) -> None:
    """Make a key for the HTTP interface.

    NAME is the user of the key. The key is stored nowhere: the config file gets the hash.
    """
    from socketio_eventstore.program import keys

    if not keys.is_name(name):
        raise CommandError(f"{name!r} is no name of a key: letters, digits, _ and -, at most 64")
    key = keys.new_key()
    hashed = keys.hash_of(key)
    if as_json:
        import json

        click.echo(json.dumps({"name": name, "key": key, "hash": hashed}))
        return
    click.echo(f"The key, for the program that calls the interface; it is not shown again:\n\n  {key}\n")
    click.echo(
        "Its hash, for the config file. In the table [http], replace the line api_keys by this one;\n"
        "where the line has other keys, add this one to them:\n"
    )
    click.echo(f'api_keys = {{ {name} = "{hashed}" }}')


@commands.command()
@click.option("--clients", type=click.IntRange(1, 1000), default=50, show_default=True)
@click.option("--rooms", type=click.IntRange(1, 1000), default=10, show_default=True)
@click.option("--cuts", type=click.IntRange(0), default=200, show_default=True, help="Broken transports.")
@click.option("--kills", type=click.IntRange(0), default=30, show_default=True, help="SIGKILLs and restarts.")
@click.option(
    "--freezes", type=click.IntRange(0), default=0, show_default=True, help="SIGSTOPs and SIGCONTs."
)
@click.option("--url", default="", help="A PostgreSQL database without a log, instead of a file.")
@click.option("--nodes", type=click.IntRange(1, 20), default=1, show_default=True, help="Servers with --url.")
@click.option("--breaks", type=click.IntRange(0), default=0, show_default=True, help="Lost links to --url.")
@click.option(
    "--partitions", type=click.IntRange(0), default=0, show_default=True, help="Silent links to --url."
)
@click.option("--jumps", type=click.IntRange(0), default=0, show_default=True, help="Jumps of wall clocks.")
@click.option("--standby", default="", help="A synchronous standby of --url, to be promoted meanwhile.")
@click.option("--events", type=click.IntRange(1), default=10_000, show_default=True, help="Approximately.")
@click.option("--duration", type=float, default=300.0, show_default=True, help="At most, in seconds.")
@click.option("--synchronous", type=click.Choice(("full", "normal")), default="full", show_default=True)
@click.option("--seed", type=int, help="Repeats the run with this seed. Default: a random seed.")
@click.option("--keep", is_flag=True, help="Keep the scratch store. A broken promise always keeps it.")
def verify(duration: float, seed: int | None, keep: bool, url: str, standby: str, **amounts: Any) -> None:
    """Test the promises against a scratch server.

    verify breaks connections, kills the server, and counts the events missed by clients. With --url, several
    servers share a database in PostgreSQL. The exit code is 0 if all promises were kept, 1 if a promise was
    broken, and 2 if the test could not run.
    """
    _require_posix("verify")
    import secrets

    from socketio_eventstore.verify.plan import Settings
    from socketio_eventstore.verify.process import CannotRun
    from socketio_eventstore.verify.program import verify

    seed = secrets.randbelow(2**32) if seed is None else seed
    try:
        settings = Settings(duration_seconds=duration, seed=seed, promotions=int(bool(standby)), **amounts)
        code = verify(settings, keep=keep, database=url, standby=standby)
    except CannotRun as error:
        raise CommandError(str(error)) from error
    click.get_current_context().exit(code)


def _require_posix(command: str) -> None:
    # asyncio has signal handlers on POSIX only. Checked before the imports, which might fail elsewhere.
    if os.name != "posix":
        raise CommandError(f"{command} needs a POSIX system, for example Linux or macOS")


def _run(action: Callable[[Config], T], config: Config) -> T:
    from socketio_eventstore.program.errors import StartError

    try:
        return action(config)
    except StartError as error:
        raise CommandError(str(error)) from error
