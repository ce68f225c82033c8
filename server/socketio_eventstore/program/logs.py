"""The log of the program: sentences for people on a terminal, JSON for programs elsewhere.

All parts log through the standard library, with fields in ``extra``. structlog formats the records. Only the
program imports structlog, so an embedding application decides about its own log.
"""

from __future__ import annotations

import logging
import sys
from typing import Final, TextIO

import structlog
from structlog.dev import Column, ConsoleRenderer, KeyValueColumnFormatter, plain_traceback
from structlog.typing import EventDict, Processor, WrappedLogger

from socketio_eventstore.program.config import LogSettings

DETAILED: Final = ("alembic", "aiosqlite", "asyncio", "sqlalchemy")
"""Libraries with lines left out below WARNING: such lines tell each step, some with values of SQL."""
_COLORS: Final = {
    "debug": "\x1b[2m",
    "info": "",
    "warning": "\x1b[33m",
    "error": "\x1b[31m",
    "critical": "\x1b[31;1m",
}
_RESET: Final = "\x1b[0m"


def is_for_people(settings: LogSettings, stream: TextIO | None = None) -> bool:
    """Whether the lines on a stream, by default standard error, are sentences."""
    if settings.format == "auto":
        return (stream or sys.stderr).isatty()
    return settings.format == "text"


def log_to_stderr(settings: LogSettings) -> None:
    """Write the log of all libraries to standard error, in the format and from the level of the settings."""
    stream = sys.stderr
    handler = logging.StreamHandler(stream)
    make = _text if is_for_people(settings, stream) else _json
    handler.setFormatter(make(stream))
    logging.basicConfig(handlers=[handler], force=True)
    set_level(settings)


def set_level(settings: LogSettings) -> None:
    """Leave out the lines below the level of the settings."""
    logging.getLogger().setLevel(settings.level.upper())
    for name in DETAILED:
        logging.getLogger(name).setLevel(logging.WARNING)


def _text(stream: TextIO) -> logging.Formatter:
    is_colored = stream.isatty()

    def level(value: object) -> str:
        color = _COLORS.get(str(value), "") if is_colored else ""
        return f"{color}{str(value).upper()}{_RESET if color else ''}"

    columns = [
        Column("timestamp", _column()),
        Column("level", _column(level)),
        Column("logger", _column(postfix=":")),
        Column("event", _column()),
        Column("", _column()),
    ]
    renderer = ConsoleRenderer(columns=columns, exception_formatter=plain_traceback)
    stamp = structlog.processors.TimeStamper(fmt="%Y-%m-%d %H:%M:%S", utc=False)
    return _formatter([stamp], [renderer])


def _column(value_repr: object = str, postfix: str = "") -> KeyValueColumnFormatter:
    return KeyValueColumnFormatter(
        key_style=None,
        value_style="",
        reset_style="",
        value_repr=value_repr,  # type: ignore[arg-type]  # a function, as str
        postfix=postfix,
    )


def _json(_: TextIO) -> logging.Formatter:
    stamp = structlog.processors.TimeStamper(fmt="iso", utc=True, key="time")
    fields: list[Processor] = [stamp, structlog.stdlib.ExtraAdder(), _without_nothing]
    return _formatter(
        fields, [structlog.processors.format_exc_info, structlog.processors.JSONRenderer(default=str)]
    )


def _formatter(fields: list[Processor], render: list[Processor]) -> logging.Formatter:
    return structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=[
            structlog.stdlib.add_log_level,
            structlog.stdlib.add_logger_name,
            *fields,
        ],
        processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *render],
    )


def _without_nothing(_: WrappedLogger, __: str, fields: EventDict) -> EventDict:
    """Leave out the fields without a value."""
    return {name: value for name, value in fields.items() if value is not None}
