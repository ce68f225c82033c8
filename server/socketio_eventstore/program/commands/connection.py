"""From the options of a command to a client of a server, on this machine or elsewhere."""

from __future__ import annotations

import os
import shlex
import socket
from pathlib import Path
from typing import TYPE_CHECKING

import click

from socketio_eventstore.program.command_config import load_config
from socketio_eventstore.program.command_error import CommandError

if TYPE_CHECKING:
    from socketio_eventstore.program.api_client import ApiClient
    from socketio_eventstore.program.config import Config

KEY_VARIABLE = "EVENTSTORE_API_KEY"
URL_VARIABLE = "EVENTSTORE_URL"

url_option = click.option(
    "--url",
    help=f"The address of a server. Default: {URL_VARIABLE}, then the server on this machine.",
)


def client_for(url: str | None, path: Path | None, *, needs_server: bool = False) -> ApiClient:
    """Return a client for the address, or for the socket beside the database of the configuration.

    If no server runs there, the command opens the store itself, unless the command ``needs_server``. A log in
    PostgreSQL may have servers on other machines all the same.
    """
    from socketio_eventstore.program.api_client import ApiClient

    key = os.environ.get(KEY_VARIABLE, "")
    if not key.isascii() or not key.isprintable():
        raise CommandError(f"the variable {KEY_VARIABLE} has no key")
    if url := url_elsewhere(url):
        if not key:
            raise CommandError(f"the variable {KEY_VARIABLE} must have a key of the server; genkey makes one")
        return ApiClient(url, key)
    from socketio_eventstore.program.http_settings import UNIX

    config = load_config(path)
    database = config.store.path
    control = control_of(database)
    if is_served(control):
        return ApiClient(f"{UNIX}{control}", key)
    if needs_server:
        raise CommandError(f"no server runs on {config.store.name}; --url names a server elsewhere")
    return _stopped(config)


def file_of(config: Config, instead: str, backup: Path) -> Path:
    """Return the database of a command about a file. Raises CommandError for a log in PostgreSQL.

    ``instead``: the equivalent command there, with places for the ``database`` and the ``file`` of the
    backup.
    """
    if config.store.url:
        database = shlex.quote(config.store.name.rpartition(" on ")[0])
        raise CommandError(
            f"the log is in PostgreSQL, {config.store.name}, and this command is about a file: "
            f"{instead.format(database=database, file=shlex.quote(str(backup)))}"
        )
    return config.store.path


def url_elsewhere(url: str | None) -> str | None:
    """Return the address of a server elsewhere, if given."""
    return url or os.environ.get(URL_VARIABLE)


def control_of(database: Path) -> Path:
    """Return the socket beside a database."""
    from socketio_eventstore.program.http_settings import CONTROL_SUFFIX

    return database.with_name(database.name + CONTROL_SUFFIX)


def is_served(control: Path) -> bool:
    """Whether a server listens at the socket beside the database. Raises CommandError."""
    try:
        control.stat()
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            probe.connect(str(control))
    except (FileNotFoundError, NotADirectoryError, ConnectionRefusedError):
        return False  # refused: a server was killed
    except OSError as error:  # such as the folder of another user
        reason = f"cannot look at {control}: {error.strerror}"
        raise CommandError(f"{reason}; the user of the server can, and --url needs no file") from None
    return True


def _stopped(config: Config) -> ApiClient:
    """Return a client of the stopped store, which is closed with the command."""
    from socketio_eventstore.program.api_client import ApiClient
    from socketio_eventstore.program.api_without_server import serve_without_server
    from socketio_eventstore.program.errors import DatabaseInUse, StartError

    try:
        url, end = serve_without_server(config)
    except DatabaseInUse as error:  # such as with an overlong path of a socket
        control = control_of(config.store.path)
        raise CommandError(f"{error} Commands reach it with --url: it has no socket {control}.") from error
    except StartError as error:
        raise CommandError(str(error)) from error
    click.get_current_context().call_on_close(end)
    return ApiClient(url, "")
