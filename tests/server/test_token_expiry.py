"""The example of the documentation: official clients whose tokens end come back with new ones."""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from support.api import call, result, serving_api
from support.clients import Client, NodeClients, node_command
from support.http_requests import ask
from support.processes import DEADLINE, ServerProcess

DOCUMENT = (Path(__file__).parents[2] / "docs" / "authentication.md").read_text()
RUN_EXAMPLE = """
const { io } = require("node:module").createRequire(process.argv[1])("socket.io-client");
const [url, ...tokens] = process.argv.slice(2);
const fetch = async () => ({ text: async () => (tokens.length > 1 ? tokens.shift() : tokens[0]) });
%s
socket.on("connect", () => console.log(JSON.stringify([socket.id, socket.recovered])));
socket.on("connect_error", (error) => console.log(JSON.stringify(error.data)));
socket.on("news", (text) => { console.log(JSON.stringify(text)); process.exit(0); });
"""


def block(language: str) -> str:
    """The first example of a language in the documentation."""
    found = re.search(rf"^```{language}\n(.*?)^```", DOCUMENT, re.MULTILINE | re.DOTALL)
    assert found
    return found[1]


class Issuer:
    """The login service of the documentation."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for line in block("sh").splitlines():
            if line.startswith("openssl"):
                subprocess.run(line.split(), cwd=folder, check=True, capture_output=True)
        text = block("python").replace('Path("', f'Path("{folder}/').replace("+ 900", "+ SECONDS")
        assert "SECONDS" in text
        self._names: dict[str, Any] = {}
        exec(text, self._names)

    def token(self, user: str, seconds: float) -> str:
        self._names["SECONDS"] = seconds
        token: str = self._names["token_for"](user)
        return token


@pytest.fixture(scope="module")
def issuer(tmp_path_factory: pytest.TempPathFactory) -> Issuer:
    return Issuer(tmp_path_factory.mktemp("server"))


@pytest.fixture(scope="module")
def server(issuer: Issuer) -> Iterator[ServerProcess]:
    server = serving_api(issuer.folder, {"server": {"handlers": "socketio_eventstore.chat"}})
    with server.config_file.open("a") as file:
        file.write(block("toml") + "leeway = 0.0\n")
    with server:
        yield server


def publish(server: ServerProcess, text: str, room: str = "news") -> None:
    result(call(server.port, "POST", "/emit", {"event": "news", "args": [text], "rooms": [room]}))


async def ended_and_recovered(server: ServerProcess, client: Client) -> None:
    """The token of a connected client ends; the client recovers by itself, with what it has missed."""
    first = await client.connected()
    publish(server, "live", first.sid)
    await client.received("news")
    await client.until(lambda: bool(client.disconnects), "the end of the token")
    publish(server, "missed", first.sid)
    assert (await client.recovered_again()).sid == first.sid
    assert [event.data for event in await client.received("news", 2)] == [["live"], ["missed"]]
    assert client.errors == [] and client.disconnects[0].startswith("transport ")  # close, or error of a poll


def tokens_of(issuer: Issuer) -> list[str]:
    """A token that ends soon, but not before its client is connected, and the next one."""
    return [issuer.token("ann", 10.0), issuer.token("ann", 900.0)]


def run_example(server: ServerProcess, issuer: Issuer) -> None:
    """The client of the documentation recovers with its next token."""
    node = node_command()
    assert not isinstance(node, str)
    command = [node[0], "-e", RUN_EXAMPLE % block("js"), node[-1], server.url, *tokens_of(issuer)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        sid, recovered = json.loads(process.stdout.readline())
        assert not recovered
        assert json.loads(process.stdout.readline()) == [sid, True]
        publish(server, "hello", sid)
        assert json.loads(process.stdout.readline()) == "hello"
        assert process.wait(DEADLINE) == 0


async def test_clients_recover_with_new_tokens(
    server: ServerProcess, issuer: Issuer, node: NodeClients
) -> None:
    """At the end of a token an official client comes back with a new one, and has missed nothing."""
    clients = []
    for name in ("websocket", "polling"):
        options: dict[str, Any] = {"tokens": tokens_of(issuer), "reconnectionDelay": 100}
        clients.append(await node.client(server.url, transports=(name,), **options))
    await asyncio.gather(
        *(ended_and_recovered(server, client) for client in clients),
        asyncio.to_thread(run_example, server, issuer),
    )
    metrics = ask(server.port, "/metrics", Host="localhost").body.decode()
    assert re.search(r"^tokens_ended_total [3-9]", metrics, re.MULTILINE)
    assert "the token ended: " in server.log


async def test_refusals_name_a_code(server: ServerProcess, issuer: Issuer, node: NodeClients) -> None:
    """A client without a valid token is told a code; metrics and log name no token."""
    token = issuer.token("bob", -1.0)
    client = await node.client(server.url, auth={"token": token})
    assert (await client.refused())["data"] == {"code": "token_expired"}
    nobody = await node.client(server.url)
    assert (await nobody.refused())["data"] == {"code": "token_missing"}
    metrics = ask(server.port, "/metrics", Host="localhost").body.decode()
    assert re.search(r'^refusals_total\{reason="token_expired"\} [1-9]', metrics, re.MULTILINE)
    assert "refused a token (token_expired)" in server.log
    assert not any(part in server.log + metrics for part in token.split(".")[1:])
