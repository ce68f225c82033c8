"""Calls of the HTTP interface of a server under test."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from socketio_eventstore.program.keys import PREFIX, hash_of
from support.http_requests import HANDSHAKE, Answer, ask
from support.polling import without_heartbeats
from support.processes import DEADLINE, ServerProcess

KEY = PREFIX + "of-all-tests-" * 3 + "0000"


def serving_api(
    folder: Path, config: Mapping[str, Mapping[str, object] | None] | None = None, **http: object
) -> ServerProcess:
    """A server whose HTTP interface takes ``KEY``."""
    server = ServerProcess(folder, config)
    table = {"api_keys": {"tests": hash_of(KEY)}, **http}
    lines = [f"{key} = {_toml(value)}" for key, value in table.items()]
    with server.config_file.open("a") as file:
        file.write("\n[http]\n" + "\n".join(lines) + "\n")
    return server


def _toml(value: object) -> str:
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{name} = {json.dumps(item)}" for name, item in value.items()) + " }"
    return json.dumps(value)


def call(
    where: int | Path,
    method: str,
    path: str,
    body: object = None,
    *,
    key: str | None = KEY,
    raw: bytes | None = None,
    **headers: str,
) -> Answer:
    """Call an operation; the body is sent as JSON, or as the bytes ``raw``."""
    if key is not None:
        headers.setdefault("Authorization", f"Bearer {key}")
    headers.setdefault("Host", "localhost")
    content = raw if raw is not None else b"" if body is None else json.dumps(body).encode()
    if content:
        headers.setdefault("Content_Type", "application/json")
    return ask(where, f"/api{path}", method=method, body=content, **headers)


def open_session(server: ServerProcess) -> str:
    """Open a session by polling; its sid."""
    return open_polling(server)[1]


def open_polling(server: ServerProcess) -> tuple[str, str]:
    """Open a session by polling; the ids of its connection and of the session."""
    handshake = ask(server.port, HANDSHAKE, Host="localhost").body
    connection: str = json.loads(handshake[1:])["sid"]
    poll = f"{HANDSHAKE}&sid={connection}"
    ask(server.port, poll, Host="localhost", method="POST", body=b"40")
    packets: list[str] = []
    while not packets:
        packets = without_heartbeats(ask(server.port, poll, Host="localhost").body.decode())
    return connection, json.loads(packets[0].removeprefix("40"))["sid"]


def result(answer: Answer, status: int = 200) -> Any:
    """The JSON of an answer with the expected status."""
    assert answer.status == status, answer.body
    return json.loads(answer.body)


def problem(answer: Answer, status: int) -> dict[str, Any]:
    """The problem document of an answer with the expected status."""
    document: dict[str, Any] = result(answer, status)
    assert answer.header("content-type") == "application/problem+json; charset=utf-8"
    assert document["status"] == status and document["type"] == "about:blank" and document["title"]
    return document


def until(happened: Callable[[], object]) -> None:
    """Wait for another process."""
    give_up = time.monotonic() + DEADLINE
    while not happened():
        assert time.monotonic() < give_up
        time.sleep(0.01)
