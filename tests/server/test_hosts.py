"""The hosts for which ``serve`` answers. A name that is rebound to the server is not one of them."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from support.http_requests import HANDSHAKE, WEBSOCKET, ask
from support.processes import ServerProcess

EVIL = "evil.example"
PATHS = ("/", "/pages/index.html", "/client.js", "/healthz", "/readyz", "/none", "/socket.io/socket.io.js")

Serve = Callable[..., AbstractContextManager[ServerProcess]]


@pytest.fixture
def serve(tmp_path: Path) -> Serve:
    """Start a server with these keys of ``[server]``."""
    return lambda **keys: ServerProcess(tmp_path, {"server": keys})


def test_rebound_name(serve: Serve) -> None:
    """A page on a name that is rebound to the server gets 421 everywhere, and the log names the host."""
    with serve() as server:
        evil = f"{EVIL}:{server.port}"
        for path in (*PATHS, HANDSHAKE, WEBSOCKET):
            answer = ask(server.port, path, Host=evil, Origin=f"http://{evil}")
            assert answer.status == 421, path
            assert b"does not answer for the host 'evil.example:" in answer.body
        assert ask(server.port, HANDSHAKE, Host=evil, method="OPTIONS").status == 421
        assert ask(server.port, HANDSHAKE, Host=evil, method="POST", body=b"40").status == 421
        expected = f"Refused the Host '{evil}' (421): expected one of an IP address, localhost"
        assert sum(expected in line for line in server.lines) == 1


@pytest.mark.parametrize(
    "host",
    [
        *(
            "127.0.0.1",
            "10.1.2.3:80",
            "[::1]:3000",
            "[2001:db8::1]",
            "localhost",
            "LocalHost:1",
            "localhost.",
        ),
        *(
            "chat.example.com",
            "CHAT.example.com.:8443",
            "a.b.wild.example",
            "page.example",
            "a.pages.example",
        ),
    ],
)
def test_allowed_host(serve: Serve, host: str) -> None:
    """Addresses, localhost, allowed names and the hosts of allowed origins are answered."""
    origins = ["https://page.example:8443", "https://*.pages.example", "null"]
    with serve(allowed_hosts=["chat.example.com", "*.wild.example"], cors_allowed_origins=origins) as server:
        for path in ("/healthz", HANDSHAKE):
            assert ask(server.port, path, Host=host).status == 200


@pytest.mark.parametrize("host", ["wild.example", "chat.example.com.evil", "evilpages.example", "127.1", "0"])
def test_other_host(serve: Serve, host: str) -> None:
    """A name that is only like an allowed one gets 421."""
    names = ["chat.example.com", "*.wild.example"]
    with serve(allowed_hosts=names, cors_allowed_origins=["https://*.pages.example"]) as server:
        assert ask(server.port, "/healthz", Host=host).status == 421
        expected = "expected one of an IP address, localhost, chat.example.com, *.wild.example"
        assert expected in server.log and "*.pages.example; allowed_hosts adds names" in server.log


def test_no_host_and_several(serve: Serve) -> None:
    """A request without a host, as of a probe, is answered; one with several or an invalid one is not."""
    with serve() as server:
        assert ask(server.port, "/readyz", version="1.0").status == 200
        assert ask(server.port, HANDSHAKE, version="1.0", Origin="http://localhost").status == 403
        for path in ("/readyz", HANDSHAKE):
            both = (("Host", "localhost"), ("Host", EVIL))
            assert ask(server.port, path, *both).status == 400
            assert ask(server.port, path, *reversed(both)).status == 400
            assert ask(server.port, path, Host="localhost evil").status == 400


@pytest.mark.parametrize("value", ["*", ["*"]])
def test_any_host(serve: Serve, value: object) -> None:
    """With "*" every host is answered, and a warning says so."""
    with serve(allowed_hosts=value) as server:
        for path in ("/healthz", HANDSHAKE):
            assert ask(server.port, path, Host=EVIL).status == 200
        assert "WARNING" in server.log and 'allowed_hosts is "*"' in server.log


def test_flood_of_hosts(serve: Serve) -> None:
    """A stranger who invents hosts fills no log."""
    with serve() as server:
        for number in range(100):
            assert ask(server.port, "/healthz", Host=f"{number}.example").status == 421
        assert server.log.count("Refused the Host") < 30


def test_host_of_a_proxy(serve: Serve) -> None:
    """The host that a trusted proxy names is checked; that of others is not heard."""
    with serve(trusted_proxies=["127.0.0.0/8"], allowed_hosts=["chat.example.com"]) as server:
        inner = ("Host", "inner"), ("X-Forwarded-Host", "chat.example.com")
        assert ask(server.port, "/healthz", *inner).status == 200
        assert ask(server.port, "/healthz", Host="localhost", X_Forwarded_Host=EVIL).status == 421
        assert f"Refused the X-Forwarded-Host '{EVIL}' (421)" in server.log
    with serve(allowed_hosts=["chat.example.com"]) as server:
        assert ask(server.port, "/healthz", *inner).status == 421
        assert "Not counted: x-forwarded-host of 127.0.0.1, not in trusted_proxies" in server.log


def test_host_of_a_unix_socket(serve: Serve) -> None:
    """The peer of a Unix socket is trusted, and its hosts are checked, too."""
    with serve(host=["unix:socket", "127.0.0.1"], allowed_hosts=["chat.example.com"]) as server:
        path = server.folder / "socket"
        assert ask(path, "/healthz", Host="inner", X_Forwarded_Host="chat.example.com").status == 200
        assert ask(path, "/healthz", Host="localhost").status == 200
        assert ask(path, "/healthz", Host=EVIL).status == 421
