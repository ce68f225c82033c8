"""From the options of a command to a server: one that runs on this machine, or one elsewhere."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import click

from socketio_eventstore.program.command_config import load_config
from socketio_eventstore.program.command_error import CommandError

if TYPE_CHECKING:
    from socketio_eventstore.program.api_client import ApiClient

KEY_VARIABLE = "EVENTSTORE_API_KEY"
URL_VARIABLE = "EVENTSTORE_URL"

url_option = click.option(
    "--url",
    help=f"The address of a server. Default: {URL_VARIABLE}, then the server on this machine.",
)


def client_for(url: str | None, path: Path | None) -> ApiClient:
    """Return a client for the address, or for the socket beside the database of the configuration."""
    from socketio_eventstore.program.api_client import ApiClient

    key = os.environ.get(KEY_VARIABLE, "")
    if not key.isascii() or not key.isprintable():
        raise CommandError(f"the variable {KEY_VARIABLE} has no key")
    if url := url or os.environ.get(URL_VARIABLE):
        if not key:
            raise CommandError(f"the variable {KEY_VARIABLE} must have a key of the server; genkey makes one")
        return ApiClient(url, key)
    from socketio_eventstore.program.http_settings import CONTROL_SUFFIX, UNIX

    database = load_config(path).store.path
    control = database.with_name(database.name + CONTROL_SUFFIX)
    try:
        control.stat()
    except (FileNotFoundError, NotADirectoryError):
        raise CommandError(f"no server runs on {database}; --url names a server elsewhere") from None
    except OSError as error:  # such as the folder of another user
        reason = f"cannot look at {control}: {error.strerror}"
        raise CommandError(f"{reason}; the user of the server can, and --url needs no file") from None
    return ApiClient(f"{UNIX}{control}", key)
