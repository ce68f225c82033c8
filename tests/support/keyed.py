"""Events with an idempotency key: the options of clients, and the stored rows."""

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
    """The rows of a query on the server's database."""
    with closing(sqlite3.connect(server.database)) as connection:
        return connection.execute(query, parameters).fetchall()


def logged(server: ServerProcess, text: str) -> int:
    """The number of stored events with a text as the first argument."""
    query = "SELECT count(*) FROM events WHERE json_extract(payload, '$[1]') = ?"
    return int(rows(server, query, text)[0][0])


async def marker(control: Client, sid: str, name: str = "marker") -> str:
    """Publish an event behind all earlier packets; returns the packet."""
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
    # The log has tracebacks of failing handlers, and no others.
    ends = (
        "\nhandlers_for_tests.FailedOnPurpose",
        "\nValueError: the last argument of",
        "\nTypeError: acknowledgement[",
    )
    assert server.log.count("Traceback") == sum(server.log.count(end) for end in ends), server.log
