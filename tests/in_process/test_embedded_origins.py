"""Hosts and origins of embedded servers: python-socketio's values keep their meanings."""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import socketio
import trustme
import uvicorn

from socketio_eventstore import AsyncServer, RecoveryManager
from support.embedded import serving
from support.http_requests import HANDSHAKE, WEBSOCKET, Answer, ask
from support.processes import DEADLINE, HOST

OWN, PAGE, EVIL = "http://chat.example", "https://page.example", "https://evil.example"
ORIGINS = (OWN, PAGE, EVIL)
EVERY = dict.fromkeys(ORIGINS, True)

Ask = Callable[..., Any]
Serve = Callable[..., AbstractAsyncContextManager[Ask]]


@asynccontextmanager
async def on_aiohttp(**options: Any) -> AsyncIterator[Ask]:
    mine = ("allowed_hosts", "trusted_proxies")
    recovery: dict[str, Any] = {key: options.pop(key) for key in mine if key in options}
    async with serving(None, recovery=recovery, **options) as server:
        yield partial(asyncio.to_thread, ask, int(server.url.split(":")[2].partition("/")[0]))


@asynccontextmanager
async def on_asgi(uds: Path | None = None, **options: Any) -> AsyncIterator[Ask]:
    sio = AsyncServer(None, async_mode="asgi", **options)
    app = socketio.ASGIApp(sio)
    where: dict[str, Any] = {"host": HOST, "port": 0} if uds is None else {"uds": str(uds)}
    server = uvicorn.Server(uvicorn.Config(app, log_config=None, lifespan="off", **where))
    running = asyncio.create_task(server.serve())
    async with asyncio.timeout(DEADLINE):
        while not server.started:  # noqa: ASYNC110 - there is no event
            await asyncio.sleep(0.01)
    target = uds or server.servers[0].sockets[0].getsockname()[1]
    try:
        yield partial(asyncio.to_thread, ask, target)
    finally:
        await sio.shutdown()
        server.should_exit = server.force_exit = True
        await running


@pytest.fixture(params=[on_aiohttp, on_asgi])
def serve(request: pytest.FixtureRequest) -> Serve:
    function: Serve = request.param
    return function


def of_page(origin: str, environ: dict[str, Any]) -> bool:
    assert environ["HTTP_ORIGIN"] == origin
    return origin == PAGE


def of_page_alone(origin: str) -> bool:
    return origin == PAGE


@pytest.mark.parametrize(
    ("value", "allowed"),
    [
        (None, {OWN: True, PAGE: False, EVIL: False}),
        ([], EVERY),
        ("*", EVERY),
        (["*"], EVERY),
        (PAGE, {OWN: True, PAGE: True, EVIL: False}),
        ([PAGE], {OWN: True, PAGE: True, EVIL: False}),
        (["https://*.example"], {OWN: True, PAGE: True, EVIL: True}),
        (of_page, {OWN: False, PAGE: True, EVIL: False}),
        (of_page_alone, {OWN: False, PAGE: True, EVIL: False}),
    ],
    ids=["None", "[]", "*", "[*]", "text", "list", "wildcard", "function", "function of origin"],
)
async def test_values_of_the_option(serve: Serve, value: object, allowed: dict[str, bool]) -> None:
    """None is the own origin, [] is no check, and a function decides alone; a list has the own one, too."""
    async with serve(cors_allowed_origins=value) as ask:
        for origin, expected in allowed.items():
            polling = await ask(HANDSHAKE, Host="chat.example", Origin=origin)
            websocket = await ask(WEBSOCKET, Host="chat.example", Origin=origin)
            assert (polling.status, websocket.status) == ((200, 101) if expected else (403, 403))
            readable = origin if expected and value != [] else None
            assert polling.header("access-control-allow-origin") == readable
            assert polling.header("access-control-allow-credentials") == ("true" if readable else None)
            assert polling.header("vary") == (None if value == [] else "Origin")


async def test_refusal_is_explained(serve: Serve, caplog: pytest.LogCaptureFixture) -> None:
    """Polling and WebSocket requests get the reason, and one warning has what was expected."""
    async with serve(cors_allowed_origins=[PAGE]) as ask:
        for path in (HANDSHAKE, WEBSOCKET):
            answer: Answer = await ask(path, Host="chat.example", Origin=EVIL)
            assert answer.error == {"code": 4, "message": f"Forbidden: the origin '{EVIL}' is not allowed"}
            assert answer.header("cache-control") == "no-store"
    lines = [record.message for record in caplog.records if "Refused the Origin" in record.message]
    assert len(lines) == 1 and f"'{EVIL}'" in lines[0] and lines[0].count(PAGE) == 1


async def test_hosts_are_not_checked_by_default(serve: Serve) -> None:
    """An application that exists keeps its names."""
    async with serve() as ask:
        assert (await ask(HANDSHAKE, Host="any.example", Origin="http://any.example")).status == 200


async def test_allowed_hosts(serve: Serve, caplog: pytest.LogCaptureFixture) -> None:
    """With allowed_hosts, requests of Socket.IO to another host get 421."""
    async with serve(allowed_hosts=["chat.example"], cors_allowed_origins=[PAGE]) as ask:
        for host in ("chat.example:80", "page.example", "localhost:1", "[::1]", "10.0.0.1"):
            assert (await ask(HANDSHAKE, Host=host)).status == 200
            assert (await ask(WEBSOCKET, Host=host)).status == 101
        for path in (HANDSHAKE, WEBSOCKET):
            answer = await ask(path, Host="evil.example", Origin="http://evil.example")
            assert answer.status == 421 and "evil.example" in answer.error["message"]
        both = (("Host", "chat.example"), ("Host", "evil.example"))
        assert (await ask(HANDSHAKE, *both)).status == 400
    assert any("Refused the Host 'evil.example' (421)" in record.message for record in caplog.records)


@pytest.mark.parametrize("value", ["*", ["*"]])
async def test_any_host_is_a_warning(serve: Serve, value: object, caplog: pytest.LogCaptureFixture) -> None:
    """With "*" every host is answered, with a warning."""
    async with serve(allowed_hosts=value) as ask:
        assert (await ask(HANDSHAKE, Host="any.example")).status == 200
    (record,) = [record for record in caplog.records if "allowed_hosts" in record.message]
    assert record.levelno == logging.WARNING


async def test_trusted_proxies(serve: Serve) -> None:
    """The headers of a trusted proxy count, also where uvicorn replaces the client's address."""
    named = {"X_Forwarded_Host": "chat.example", "X_Forwarded_Proto": "https", "X_Forwarded_For": "192.0.2.1"}
    own = {"Host": "inner", "Origin": "https://chat.example"}
    async with serve(trusted_proxies=["127.0.0.1"]) as ask:
        assert (await ask(HANDSHAKE, **own, **named)).status == 200
        assert (await ask(WEBSOCKET, **own, **named)).status == 101
        assert (await ask(HANDSHAKE, **{**own, "Origin": OWN}, **named)).status == 403
    async with serve() as ask:
        assert (await ask(HANDSHAKE, **own, **named)).status == 403


async def test_unix_socket_of_uvicorn(tmp_path: Path) -> None:
    """The peer of a Unix socket is trusted on ASGI, too."""
    named = {"Host": "inner", "X_Forwarded_Host": "chat.example", "X_Forwarded_Proto": "https"}
    async with on_asgi(tmp_path / "socket") as ask:
        for path, status in ((HANDSHAKE, 200), (WEBSOCKET, 101)):
            assert (await ask(path, Origin="https://chat.example", **named)).status == status


async def test_no_http_page_with_tls() -> None:
    """Where the server itself has TLS, a page without TLS is another origin."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    trustme.CA().issue_cert(HOST).configure_cert(context)
    async with serving(None, tls=context) as server:
        own = server.url.removesuffix("/socket.io/")
        for origin, status in ((own, 200), (own.replace("https", "http"), 403)):
            url = f"{own}{HANDSHAKE}"
            async with server.http.get(url, headers={"Origin": origin}, ssl=False) as response:
                assert response.status == status


@pytest.mark.parametrize(
    "arguments",
    [{"allowed_hosts": ["https://a"]}, {"allowed_hosts": ["a:80"]}, {"trusted_proxies": ["localhost"]}],
)
def test_invalid_argument(arguments: dict[str, Any]) -> None:
    """An invalid host or proxy is an error of the constructor."""
    with pytest.raises(ValueError):
        AsyncServer(None, async_mode="asgi", **arguments)
    with pytest.raises(ValueError):
        socketio.AsyncServer(async_mode="asgi", client_manager=RecoveryManager(None, **arguments))
