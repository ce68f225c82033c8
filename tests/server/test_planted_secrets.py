"""Secrets that are planted wherever a program or a client may put one are found nowhere else."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from socketio_eventstore.program.config import Config, ConfigError
from socketio_eventstore.program.keys import PREFIX
from support.api import KEY, call, serving_api
from support.clients import NodeClients
from support.command_line import run
from support.http_requests import HANDSHAKE, ask
from support.polling import RawPolling
from support.processes import ServerProcess
from support.tokens import ISSUER, SECRET, signed, token_of

MARK = "pl4nted"
"""A part of each planted secret."""
OTHER_KEY = PREFIX + f"{MARK}-key-" * 3
COOKIE = f"session={MARK}-cookie"
PAYLOAD = f"{MARK}-payload"
CLAIM = f"{MARK}-claim"
HANDLERS = f"""
from socketio import exceptions

def register(sio):
    async def connect(sid, environ, auth):
        if auth.get("refuse"):
            raise exceptions.ConnectionRefusedError("{MARK}-refusal")
        if auth.get("fail"):
            raise ValueError("on purpose")

    async def fail(sid, data):
        raise ValueError("on purpose")

    async def say(sid, data):
        await sio.save_session(sid, {{"data": data}})
        return await sio.emit("said", data)

    sio.on("connect", connect)
    sio.on("fail", fail)
    sio.on("say", say)
"""


@pytest.fixture(params=["text", "json"])
def server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[ServerProcess]:
    (tmp_path / "planting.py").write_text(HANDLERS)
    config: dict[str, dict[str, object]] = {
        "server": {"handlers": "planting"},
        "auth": {"algorithms": ["HS256"], "issuer": ISSUER},
        "log": {"access": True},
    }
    server = serving_api(tmp_path, config)
    server.environ = {
        "EVENTSTORE_AUTH__KEY": SECRET.decode(),
        "EVENTSTORE_LOG__FORMAT": request.param,
        "EVENTSTORE_LOG__LEVEL": "debug",
    }
    server.start()
    yield server
    server.kill()


def tokens() -> list[str]:
    """Tokens that are valid, expired, of another issuer or signature, and none at all."""
    claims: dict[str, Any] = {"secret": CLAIM, "rooms": ["red"]}
    valid = token_of(**claims)
    broken = valid[:-4] + "AAAA"
    forged = signed({"iss": ISSUER, "sub": CLAIM}, key=b"another secret of an issuer, as long as the other")
    return [valid, token_of(seconds=-60, **claims), token_of(iss=CLAIM, **claims), broken, forged, CLAIM]


async def answers(server: ServerProcess, http: aiohttp.ClientSession, token: str) -> list[str]:
    """Plant the secrets in requests and packets; return the answers, which must have none of them."""
    found: list[Any] = []
    bearer = {"Authorization": f"Bearer {OTHER_KEY}", "Cookie": COOKIE, "Host": "localhost"}
    paths = (f"/none?key={OTHER_KEY}", "/", "/metrics", f"{HANDSHAKE}&token={token}", "/api/", "/healthz")
    found += [ask(server.port, path, *bearer.items()) for path in paths]
    bodies = ({"event": "x", "args": [PAYLOAD], "wrong": 1}, [PAYLOAD], {"event": 7, "args": PAYLOAD})
    found += [call(server.port, "POST", "/emit", body) for body in bodies]
    found.append(call(server.port, "GET", "/stats", key=OTHER_KEY))
    found.append(call(server.port, "GET", f"/events?limit=x&after={PAYLOAD}"))
    for auth in (
        {"token": token},
        {"token": [token]},
        {"pid": f"{MARK}-pid", "token": token, "offset": f"{MARK}-offset"},
        {"token": token, "refuse": False, "fail": True},
    ):
        polling = RawPolling(http, server.url)
        await polling.open()
        await polling.post(f"40{json.dumps(auth)}")
        found.append(await polling.packet())
        with suppress(AssertionError):  # the packet is invalid
            await polling.post(f'42["nothing","{PAYLOAD}"')
    return [str(getattr(answer, "body", answer)) for answer in found]


def inspector_secrets(server: ServerProcess) -> list[str]:
    """The link and the cookie of a login to the inspector, and of one with a key."""
    link = json.loads(call(server.port, "POST", "/inspector-links").body)["path"].partition("once=")[2]
    found = [link]
    for body in ({"link": link}, {"key": KEY}, {"link": link}, {"key": OTHER_KEY}):
        content = json.dumps(body).encode()
        headers = {"Host": "localhost", "Content_Type": "application/json"}
        answer = ask(server.port, "/inspect/login", method="POST", body=content, **headers)
        cookie = answer.header("set-cookie") or ""
        if value := cookie.partition("=")[2].partition(";")[0]:
            found.append(value)
            ask(server.port, "/inspect/", Host="localhost", Cookie=cookie.partition(";")[0])
    assert len(found) == 3
    return found


async def test_no_secret_is_anywhere_else(
    server: ServerProcess, node: NodeClients, http: aiohttp.ClientSession
) -> None:
    """Log, metrics, pages, errors and database have no key, token, cookie, private id or claim."""
    shown = []
    for token in tokens():
        shown += await answers(server, http, token)
    options: dict[str, Any] = {"extraHeaders": {"Cookie": COOKIE}, "auth": {"token": tokens()[0]}}
    client = await node.client(server.url, **options)
    await client.connected()
    await client.emit("fail", PAYLOAD)
    await client.call("say", PAYLOAD)
    await client.cut()
    await client.recovered_again()
    refused = await node.client(server.url, auth={"token": tokens()[0], "refuse": True})
    assert (await refused.refused())["message"] == f"{MARK}-refusal"
    metrics = ask(server.port, "/metrics", Host="localhost").body.decode()
    sessions = call(server.port, "GET", "/sessions").body.decode()
    assert 'refusals_total{reason="token_invalid"}' in metrics and client.sid in sessions
    secrets = [KEY, OTHER_KEY, SECRET.decode(), client.pid, *inspector_secrets(server), MARK]
    secrets += [part for token in tokens() for part in token.split(".")[1:] if len(part) > 20]
    await asyncio.to_thread(server.terminate)
    assert "on purpose" in server.log and "refused a token" in server.log
    for where, text in {
        "log": server.log,
        "metrics": metrics,
        "sessions": sessions,
        "shown": "".join(shown),
    }.items():
        for secret in secrets:
            assert secret not in text, (where, secret, text[max(0, text.find(secret) - 300) :][:600])
    stored = b"".join(file.read_bytes() for file in server.database.parent.iterdir() if file.is_file())
    assert PAYLOAD.encode() in stored  # the payloads are what it is for
    for secret in [*secrets[:-1], CLAIM, COOKIE]:
        assert secret == MARK or secret.encode() not in stored, secret


def test_errors_of_the_configuration_show_none(tmp_path: Path) -> None:
    """No line about a wrong configuration shows the value of a secret."""
    server = ServerProcess(tmp_path, {"auth": {"key": f"{MARK}-short", "algorithms": ["HS256"]}})
    result = run(server.folder, "check-config")
    assert (result.returncode, MARK in result.stderr) == (2, False)
    assert "[auth] key is a secret of 13 bytes" in result.stderr
    with pytest.raises(ConfigError) as refused:
        Config.load(server.config_file, environ={"EVENTSTORE_AUTH__ALGORITHMS": ""})
    assert "[auth] key = (not shown): expected algorithms" in str(refused.value)
