"""Events with an idempotency key: a client that hears no answer, and what is stored."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from support.clients import Client
from support.processes import ServerProcess

TUTORIAL: dict[str, Any] = {"retries": 3, "ackTimeout": 10_000}
"""The client's options in step 8 of the tutorial."""


def rows(server: ServerProcess, query: str, *parameters: object) -> list[tuple[Any, ...]]:
    """What the database holds at this moment."""
    with closing(sqlite3.connect(server.database)) as connection:
        return connection.execute(query, parameters).fetchall()


def logged(server: ServerProcess, text: str) -> int:
    """How many events have this text as their only argument."""
    query = "SELECT count(*) FROM events WHERE json_extract(payload, '$[1]') = ?"
    return int(rows(server, query, text)[0][0])


async def marker(control: Client, sid: str, name: str = "marker") -> str:
    """Something that comes after what was sent before; returns its packet."""
    offset = await control.call("publish", {"name": name, "to": sid})
    return f'42["{name}","{offset}"]'


@contextmanager
def serving_keyed_events(folder: Path) -> Iterator[ServerProcess]:
    server = ServerProcess(folder)
    server.start()
    try:
        yield server
    finally:
        server.kill()
    # Handlers that fail are in the log with their traceback; nothing of ours may be.
    ends = (
        "\nhandlers_for_tests.FailedOnPurpose",
        "\nValueError: the last argument of",
        "\nTypeError: answer[",
    )
    assert server.log.count("Traceback") == sum(server.log.count(end) for end in ends), server.log
