"""The configuration of a command."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import click

from socketio_eventstore.program.command_error import PROGRAM, CommandError

if TYPE_CHECKING:
    from socketio_eventstore.program.config import Config

DEFAULT_CONFIG = Path("config.toml")

config_option = click.option(
    "--config",
    "path",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help=f"The configuration file. Default: {DEFAULT_CONFIG}.",
)


def load_config(path: Path | None, flags: Mapping[str, Mapping[str, object]] | None = None) -> Config:
    """Return the configuration of a file, with overrides. Raises CommandError."""
    from socketio_eventstore.program.config import Config, ConfigError

    if path is None and not DEFAULT_CONFIG.exists():
        raise CommandError(
            f"there is no {DEFAULT_CONFIG} in {Path.cwd()}; name a file with --config, or create one: "
            f"{PROGRAM} init"
        )
    try:
        return Config.load(path or DEFAULT_CONFIG, flags, os.environ)
    except ConfigError as error:
        raise CommandError(str(error)) from error
