"""The example of the documentation: official clients whose tokens end come back with new ones."""

from __future__ import annotations

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
    publish(server, "live", "user:ann")
    await client.received("news")
    await client.until(lambda: bool(client.disconnects), "the end of the token")
    publish(server, "missed", "user:ann")
    assert (await client.recovered_again()).sid == first.sid
    assert [event.data for event in await client.received("news", 2)] == [["live"], ["missed"]]
    assert client.disconnects == ["transport close"] and client.errors == []


@pytest.mark.parametrize("transport", ["websocket", "polling"])
async def test_a_client_recovers_with_a_new_token(
    server: ServerProcess, issuer: Issuer, node: NodeClients, transport: str
) -> None:
    """At the end of a token an official client comes back with a new one, and has missed nothing."""
    tokens = [issuer.token("ann", 2.0), issuer.token("ann", 900.0)]
    client = await node.client(server.url, transports=(transport,), tokens=tokens, reconnectionDelay=100)
    await ended_and_recovered(server, client)


async def test_a_fixed_token_ends_for_good(server: ServerProcess, issuer: Issuer, node: NodeClients) -> None:
    """A client whose token is fixed is told that the token has expired; metrics and log name no token."""
    token = issuer.token("bob", 1.0)
    client = await node.client(server.url, auth={"token": token}, reconnectionDelay=100)
    await client.connected()
    assert (await client.refused())["data"] == {"code": "token_expired"}
    nobody = await node.client(server.url)
    assert (await nobody.refused())["data"] == {"code": "token_missing"}
    metrics = ask(server.port, "/metrics", Host="localhost").body.decode()
    assert re.search(r'^refusals_total\{reason="token_expired"\} [1-9]', metrics, re.MULTILINE)
    assert re.search(r"^tokens_ended_total [1-9]", metrics, re.MULTILINE)
    assert "refused a token (token_expired)" in server.log and "the token ended: " in server.log
    assert not any(part in server.log + metrics for part in token.split(".")[1:])


def test_the_example_of_the_documentation(server: ServerProcess, issuer: Issuer) -> None:
    """The client of the documentation recovers with its next token."""
    node = node_command()
    if isinstance(node, str):
        pytest.skip(node)
    tokens = [issuer.token("carol", 1.5), issuer.token("carol", 900.0)]
    command = [node[0], "-e", RUN_EXAMPLE % block("js"), node[-1], server.url, *tokens]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        sid, recovered = json.loads(process.stdout.readline())
        assert not recovered
        assert json.loads(process.stdout.readline()) == [sid, True]
        publish(server, "hello")
        assert json.loads(process.stdout.readline()) == "hello"
        assert process.wait(DEADLINE) == 0
