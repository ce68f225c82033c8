"""The log of a server: JSON for programs, sentences for people, and no secret in either."""

from __future__ import annotations

import asyncio
import json
import os
import pty
import re
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest

from support.api import open_polling
from support.clients import NodeClients
from support.command_line import COMMAND, environment
from support.http_requests import HANDSHAKE, ask
from support.processes import DEADLINE, EmbeddedServer, ServerProcess, free_port
from support.steered_clocks import SteeredServer

SECRET = "planted-secret"


def json_server(folder: Path, level: str = "info", **changes: Any) -> SteeredServer:
    """A server whose uptime stands still, so that a slow client does not expire."""
    server = SteeredServer(folder, changes)
    server.environ = {"EVENTSTORE_LOG__FORMAT": "auto", "EVENTSTORE_LOG__LEVEL": level}
    return server


def records(server: ServerProcess) -> list[dict[str, Any]]:
    """Everything that the server has written, which must be JSON line by line.

    The server may be writing the last line.
    """
    return [json.loads(line) for line in server.log.split("\n")[:-1]]


async def line(server: ServerProcess, start: str, **fields: object) -> dict[str, Any]:
    """Waits for a line that begins so and has these fields."""
    async with asyncio.timeout(DEADLINE):
        while True:
            for record in records(server):
                if record["event"].startswith(start) and fields.items() <= record.items():
                    return record
            await asyncio.sleep(0.01)


async def test_life_of_a_server(tmp_path: Path) -> None:
    """A server without a terminal writes JSON alone: its start, its addresses and its stop are lines."""
    with json_server(tmp_path, http={"listen": "unix:api.sock"}) as server:
        started = await line(server, "started", synchronous="full", sessions=0, events=0)
        assert started["store"] == str(server.database) and started["level"] == "info"
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d+Z", started["time"])
        for url in (server.url, "unix:api.sock"):
            await line(server, "Listening on", url=url)
        assert server.terminate().code == 0
        assert [record["event"] for record in records(server)][-2:] == ["stopping: SIGTERM", "stopped"]


async def test_life_of_a_client(node: NodeClients, tmp_path: Path) -> None:
    """A client's connect, recovery, refusal, disconnection and expiry are lines with the session's id."""
    with json_server(tmp_path) as server:
        client = await node.client(server.url)
        sid = (await client.connected()).sid
        connected = await line(server, "connected: ", sid=sid, namespace="/")
        observer = await node.control(server.url)
        await observer.call("publish", {"name": "event", "data": 1})
        (event,) = await client.received("event")
        await client.close()
        await observer.call("publish", {"name": "event", "data": 2})
        await client.recovered_again()
        gone = await line(server, "disconnected: ", sid=sid, reason="transport close")
        assert gone["request_id"] == connected["request_id"]
        found = await line(server, "recovered ", sid=sid, result="recovered")
        assert found["missed"] <= 1 and found["offset"].startswith(event.offset.partition(".")[0])

        refused = await node.client(server.url, auth={"refuse": SECRET}, reconnection=False)
        await refused.refused()
        assert (await line(server, "refused by the connect handler: "))["request_id"]
        await client.disconnect()
        with server.time_passes():
            await line(server, "expired: ", sid=sid, namespace="/")
            assert (await line(server, "pruned "))["events"] >= 1
        assert SECRET not in server.log


async def test_reconnection_without_recovery(node: NodeClients, tmp_path: Path) -> None:
    """The line of a reconnection that got a new session has the reason."""
    with json_server(tmp_path) as server:
        client = await node.client(server.url, auth={"pid": "unknown", "offset": "unknown"})
        await client.connected()
        await line(server, "reconnection of ", result="unknown_session")
        await line(server, "connected: ", former_session="unknown_session")


async def test_refused_requests(tmp_path: Path) -> None:
    """The line of a refused request names the limit or the rule."""
    with json_server(tmp_path, limits={"pending_handshakes": 1}) as server:
        for _ in range(2):
            ask(server.port, HANDSHAKE, Host="localhost")
        await line(server, "A handshake was refused", reason="pending_handshakes", level="warning")
        ask(server.port, HANDSHAKE, Host="rebound.example.com")
        await line(server, "Refused the Host", reason="host")
        ask(server.port, HANDSHAKE, Host="localhost", Origin="http://evil.example.com")
        await line(server, "Refused the Origin", reason="origin")


async def test_slow_client(node: NodeClients, tmp_path: Path) -> None:
    """The line of a client that does not read has its session's id."""
    with json_server(tmp_path, server={"max_client_buffer": 10_000}) as server:
        connection, sid = open_polling(server)
        observer = await node.control(server.url)
        for number in range(9):
            await observer.call("publish", {"name": "large", "data": f"{number}" * 2000})
        await line(server, f"{connection}: transport aborted", sids=[sid])


@pytest.mark.parametrize("is_trusted", [True, False])
async def test_request_id_of_a_proxy(tmp_path: Path, is_trusted: bool) -> None:
    """The request id is that of a trusted proxy; a stranger writes nothing into the log."""
    proxies = ["127.0.0.1"] if is_trusted else []
    with json_server(tmp_path, server={"trusted_proxies": proxies}, log={"access": True}) as server:
        ask(server.port, HANDSHAKE, Host="localhost", X_Request_ID="proxy-1")
        found = await line(server, "GET /socket.io/ 200", method="GET", path="/socket.io/", status=200)
        assert (found.get("request_id") == "proxy-1") == is_trusted and found["peer"] == "127.0.0.1"
        assert ("proxy-1" in server.log) == is_trusted


async def test_no_access_log_by_default(tmp_path: Path) -> None:
    """A request has no line, unless the configuration asks for it."""
    with json_server(tmp_path) as server:
        assert ask(server.port, "/healthz", Host="localhost").status == 200
        server.terminate()
        assert "healthz" not in server.log


@pytest.mark.parametrize("file_format", ["text", "json"])
async def test_no_secret_is_written(node: NodeClients, tmp_path: Path, file_format: str) -> None:
    """At the level debug, with all lines on, the output has no pid, token, cookie or payload."""
    server = json_server(tmp_path, "debug", log={"access": True})
    server.environ["EVENTSTORE_LOG__FORMAT"] = file_format
    with server:
        headers = {"Cookie": f"session={SECRET}", "Authorization": f"Bearer {SECRET}"}
        options: dict[str, Any] = {"auth": {"token": SECRET}, "extraHeaders": headers}
        clients = [
            await node.client(server.url, transports=transports, **options)
            for transports in (("websocket",), ("polling",))
        ]
        for client in clients:
            await client.connected()
            await client.call("say", SECRET)
            await client.call("save", {"key": SECRET})
        await node.client(server.url, auth={"token": SECRET, "refuse": SECRET}, reconnection=False)
        await clients[0].close()
        await clients[0].recovered_again()
        for body in (f"9{SECRET}", f"4{SECRET}", f"b{SECRET}%"):
            await _send_garbage(server, body)
        pids = [client.pid for client in clients]
        server.restart()
        for client in clients:
            await client.recovered_again()
        server.terminate()
    for secret in (SECRET, *pids):
        assert secret not in server.log


async def _send_garbage(server: ServerProcess, body: str) -> None:
    eio_sid = json.loads(ask(server.port, HANDSHAKE, Host="localhost").body[1:])["sid"]
    path = f"{HANDSHAKE}&sid={eio_sid}"
    assert ask(server.port, path, Host="localhost", method="POST", body=body.encode()).status == 400


LOGGING_APPLICATION = """
import logging, sys
from aiohttp import web
from socketio_eventstore import AsyncServer

logging.basicConfig(level=logging.DEBUG)
port, database = sys.argv[1:]
sio = AsyncServer(database, async_mode="aiohttp", logger=True, engineio_logger=True)
sio.on("connect", lambda sid, environ, auth: None)
app = web.Application()
sio.attach(app)
app.on_shutdown.append(lambda _: sio.shutdown())
web.run_app(app, host="127.0.0.1", port=int(port), access_log=None, print=None)
"""


async def test_loggers_of_python_socketio(node: NodeClients, tmp_path: Path) -> None:
    """With python-socketio's loggers on, too, neither pids nor the client's auth are written."""
    with EmbeddedServer(tmp_path, LOGGING_APPLICATION) as server:
        clients = [
            await node.client(server.url, auth={"token": SECRET}, transports=transports)
            for transports in (("websocket",), ("polling", "websocket"))
        ]
        for client in clients:
            await client.connected()
            await client.close()
            await client.recovered_again()
        log = server.log
    assert "Received packet MESSAGE data 0{…}" in log and "Sending packet MESSAGE data 0{…}" in log
    for secret in (SECRET, *(client.pid for client in clients)):
        assert secret not in log


def test_terminal(tmp_path: Path) -> None:
    """On a terminal, people get the banner and sentences."""
    (tmp_path / "config.toml").write_text(f"[server]\nport = {free_port()}\n")
    ours, terminal = pty.openpty()
    variables = environment({})
    del variables["EVENTSTORE_LOG__FORMAT"]
    with subprocess.Popen(
        (*COMMAND, "serve"), cwd=tmp_path, env=variables, stdin=terminal, stdout=terminal, stderr=terminal
    ) as process:
        os.close(terminal)
        said = b""
        while b"Ctrl-C stops" not in said:
            said += os.read(ours, 1000)
        process.send_signal(signal.SIGTERM)
        while b": stopped" not in said:
            said += os.read(ours, 1000)
        assert process.wait(DEADLINE) == 0
    os.close(ours)
    assert b"Listening on http://" in said and b"{" not in said
    assert re.search(rb"\d\d:\d\d:\d\d INFO socketio_eventstore\.program\.serving: stopping: SIGTERM", said)
