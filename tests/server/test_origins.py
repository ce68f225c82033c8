"""The origins whose pages may connect to ``serve``, and what browsers are told."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest

from support.http_requests import HANDSHAKE, WEBSOCKET, Answer, ask
from support.processes import ServerProcess

PAGE = "https://page.example"
NAME = "chat.example.com"
EVIL = "https://evil.example"
OTHER_ORIGINS = [EVIL, PAGE, "null", "https://deep.example", "http://a.deep.example", "http://localhost"]
OTHER_ORIGINS += [f"https://{NAME}:8443", f"http://{NAME}:3000", f"https://a.{NAME}", f"https://*.{NAME}"]
OTHER_ORIGINS += [f"ftp://{NAME}", f"http://{NAME}, {PAGE}"]

Headers = dict[str, Any]
Serve = Callable[..., AbstractContextManager[ServerProcess]]


@pytest.fixture
def serve(tmp_path: Path) -> Serve:
    """Start a server with these keys of ``[server]``."""
    return lambda **keys: ServerProcess(tmp_path, {"server": {"allowed_hosts": [NAME], **keys}})


def statuses(server: ServerProcess, host: str, origin: str, **headers: str) -> set[int]:
    """The statuses of all kinds of handshakes of a page."""
    every: Headers = {**headers, "Host": host, "Origin": origin}
    preflight = ask(server.port, HANDSHAKE, method="OPTIONS", Access_Control_Request_Method="POST", **every)
    polling, websocket = (ask(server.port, path, **every) for path in (HANDSHAKE, WEBSOCKET))
    assert websocket.status in (101, 403)
    return {preflight.status, polling.status, 200 if websocket.status == 101 else websocket.status}


@pytest.mark.parametrize("listed", [[], [PAGE]])
@pytest.mark.parametrize(
    ("host", "origin"),
    [
        (NAME, f"http://{NAME}"),
        (NAME, f"https://{NAME}"),
        (f"{NAME.upper()}.:80", f"http://{NAME}"),
        (f"{NAME}:8443", f"https://{NAME}:8443"),
        ("127.0.0.1:3000", "http://127.0.0.1:3000"),
        ("[0::1]:3000", "http://[::1]:3000"),
    ],
)
def test_own_origin(serve: Serve, listed: list[str], host: str, origin: str) -> None:
    """The server's own pages connect, with a list and without, also behind a proxy that only adds TLS."""
    with serve(cors_allowed_origins=listed) as server:
        assert statuses(server, host, origin) == {200}


@pytest.mark.parametrize("origin", OTHER_ORIGINS)
def test_other_origin(serve: Serve, origin: str) -> None:
    """Another page gets 403 and is told so; the log has its origin and the expected ones."""
    with serve(cors_allowed_origins=["https://other.example", "https://*.deep.example"]) as server:
        assert statuses(server, NAME, origin) == {403}
        answer = ask(server.port, HANDSHAKE, Host=NAME, Origin=origin)
        assert answer.error == {"code": 4, "message": f"Forbidden: the origin '{origin}' is not allowed"}
        assert answer.header("vary") == "Origin" and "access-control-allow-origin" not in answer.headers
        expected = f"http://{NAME} (the server's own), https://{NAME} (the server's own)"
        said = f"Refused the Origin '{origin}' (403): expected one of {expected}, https://other.example, "
        assert sum(said in line for line in server.lines) == 1


@pytest.mark.parametrize(
    ("listed", "origin"),
    [
        ([PAGE], PAGE),
        (["https://Page.example:443"], PAGE),
        (["https://*.example.com"], "https://a.b.example.com"),
        (["null"], "null"),
        ("*", EVIL),
        (["*"], EVIL),
        (["*"], "null"),
    ],
)
def test_listed_origin(serve: Serve, listed: object, origin: str) -> None:
    """A listed origin connects, with wildcards, and with "*" as a text or in a list."""
    with serve(cors_allowed_origins=listed) as server:
        assert statuses(server, NAME, origin) == {200}


def test_several_origins(serve: Serve) -> None:
    """A request with several origins does not connect, even if each of them may."""
    with serve(cors_allowed_origins=[PAGE]) as server:
        both = (("Host", NAME), ("Origin", PAGE), ("Origin", f"http://{NAME}"))
        assert {ask(server.port, path, *both).status for path in (HANDSHAKE, WEBSOCKET)} == {403}


def test_trusted_proxy(serve: Serve) -> None:
    """The scheme and the host that a trusted proxy names are the own ones."""
    with serve(trusted_proxies=["127.0.0.1"]) as server:
        tls = {"X_Forwarded_Proto": "https"}
        assert statuses(server, NAME, f"https://{NAME}", **tls) == {200}
        assert statuses(server, NAME, f"http://{NAME}", **tls) == {403}
        assert statuses(server, NAME, f"https://{NAME}", X_Forwarded_Proto="http") == {403}
        assert statuses(server, "inner", f"https://{NAME}", X_Forwarded_Host=NAME, **tls) == {200}
        assert statuses(server, "inner", f"https://{NAME}", Forwarded=f"host={NAME};proto=https") == {200}


def test_proxy_that_is_not_trusted(serve: Serve) -> None:
    """The headers of others do not count, and the log says so."""
    with serve(trusted_proxies=["10.0.0.0/8"]) as server:
        named: Headers = {"X_Forwarded_Host": "evil.example", "X_Forwarded_Proto": "https"}
        assert statuses(server, NAME, EVIL, **named) == {403}
        assert statuses(server, NAME, EVIL, Forwarded="host=evil.example;proto=https") == {403}
        expected = "Not counted: x-forwarded-proto, x-forwarded-host of 127.0.0.1, not in trusted_proxies"
        assert expected in server.log


def test_proxy_on_a_unix_socket(serve: Serve) -> None:
    """The peer of a Unix socket is trusted."""
    with serve(host=["unix:socket", "127.0.0.1"]) as server:
        named: Headers = {"Host": "inner", "X_Forwarded_Host": NAME, "X_Forwarded_Proto": "https"}
        path = server.folder / "socket"
        assert ask(path, HANDSHAKE, Origin=f"https://{NAME}", **named).status == 200
        assert ask(path, HANDSHAKE, Origin=f"http://{NAME}", **named).status == 403


def test_headers_for_a_listed_page(serve: Serve) -> None:
    """A listed page may read all answers, with credentials; caches keep none of them."""
    with serve(cors_allowed_origins=[PAGE]) as server:
        asked: Headers = {"Host": NAME, "Origin": PAGE}
        opened = ask(server.port, HANDSHAKE, **asked)
        sid = f"{HANDSHAKE}&sid={json.loads(opened.body[1:])['sid']}"
        answers = [opened, ask(server.port, sid, method="POST", body=b"40", **asked)]
        answers += [ask(server.port, sid, **asked), ask(server.port, f"{HANDSHAKE}&sid=none", **asked)]
        assert [answer.status for answer in answers] == [200, 200, 200, 400]
        for answer in answers:
            assert cors(answer) == (PAGE, "true")
            assert answer.header("vary") == "Origin" and answer.header("cache-control") == "no-store"
        requested: Headers = {
            "Access_Control_Request_Method": "POST",
            "Access_Control_Request_Headers": "x-token",
        }
        preflight = ask(server.port, sid, method="OPTIONS", **asked, **requested)
        assert cors(preflight) == (PAGE, "true")
        assert preflight.header("access-control-allow-methods") == "OPTIONS, GET, POST"
        assert preflight.header("access-control-allow-headers") == "x-token"
        assert cors(ask(server.port, HANDSHAKE, Host=NAME)) == (None, None)


def test_headers_for_every_page(serve: Serve) -> None:
    """With "*" a foreign page gets no credentials."""
    with serve(cors_allowed_origins="*") as server:
        for method in ("GET", "OPTIONS"):
            answer = ask(server.port, HANDSHAKE, method=method, Host=NAME, Origin=EVIL)
            assert cors(answer) == ("*", None) and answer.header("vary") == "Origin"


def test_flood_of_origins(serve: Serve) -> None:
    """A stranger who invents origins fills no log, and no line is long."""
    with serve() as server:
        for number in range(100):
            assert ask(server.port, HANDSHAKE, Host=NAME, Origin=f"https://{number}.example").status == 403
        assert ask(server.port, HANDSHAKE, Host=NAME, Origin="https://" + "a" * 5000).status == 403
        assert server.log.count("Refused the Origin") < 30
        assert max(map(len, server.log.splitlines())) < 1000


def cors(answer: Answer) -> tuple[str | None, str | None]:
    return (
        answer.header("access-control-allow-origin"),
        answer.header("access-control-allow-credentials"),
    )
