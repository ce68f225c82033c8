"""Official clients behind nginx, HAProxy and Caddy with TLS, as the documentation configures them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from support.api import KEY
from support.clients import NodeClients
from support.http_requests import HANDSHAKE, ask
from support.processes import HOST
from support.reverse_proxies import NAME, PROXIES, DocumentedServer, ReverseProxy

TRANSPORTS = [("polling", "websocket"), ("websocket",)]


@pytest.fixture(params=PROXIES, ids=lambda kind: kind.program)
def proxy(
    request: pytest.FixtureRequest, tmp_path: Path, proxied: DocumentedServer
) -> Iterator[ReverseProxy]:
    with request.param(tmp_path / "proxy", proxied.port) as proxy:
        yield proxy


@pytest.fixture
def proxied(tmp_path: Path) -> Iterator[DocumentedServer]:
    with DocumentedServer(tmp_path) as server:
        yield server


def options(proxy: ReverseProxy, origin: str | None = None) -> dict[str, Any]:
    """The options of an official client that opens a page of the proxy."""
    return {
        "agent": "https",
        "address": HOST,
        "ca": proxy.authority.read_text(),
        "extraHeaders": {"Origin": origin or proxy.url},
    }


@pytest.mark.parametrize("transports", TRANSPORTS, ids=" ".join)
@pytest.mark.parametrize("prefix", ["", "/chat"])
async def test_kill_behind_a_proxy(
    node: NodeClients,
    proxied: DocumentedServer,
    proxy: ReverseProxy,
    prefix: str,
    transports: tuple[str, ...],
) -> None:
    """A client recovers after kill -9 of the server, and has each event once."""
    path = f"{prefix}/socket.io/"
    client = await node.client(proxy.url, transports=transports, path=path, **options(proxy))
    await client.connected()
    await client.upgraded()
    observer = await node.control(proxied.url)
    for number in range(3):
        await observer.call("publish", {"name": "event", "data": number})
    await client.received("event", 3)
    proxied.kill()
    await client.gone()
    await observer.gone()
    proxied.start()
    await observer.reconnected()
    await observer.call("publish", {"name": "event", "data": 3})
    await client.recovered_again()
    events = await client.received("event", 4)
    assert [event.data for event in events] == [[0], [1], [2], [3]]
    await client.disconnect()


@pytest.mark.parametrize("transports", [("polling",), ("websocket",)], ids=" ".join)
async def test_other_pages_behind_a_proxy(
    node: NodeClients, proxied: DocumentedServer, proxy: ReverseProxy, transports: tuple[str, ...]
) -> None:
    """A page of another origin, or of the same name without TLS, does not connect; the log says why."""
    own = proxy.url
    for origin in ("https://evil.example", own.replace("https", "http"), f"https://{NAME}"):
        client = await node.client(own, transports=transports, reconnection=False, **options(proxy, origin))
        await client.refused()
        assert not client.connects
        expected = f"Refused the Origin '{origin}' (403): expected one of {own} (the server's own)"
        assert expected in proxied.log


def test_session_behind_a_proxy(proxied: DocumentedServer, proxy: ReverseProxy) -> None:
    """The slash of a namespace in the path of a session stays as it is encoded."""
    for prefix in ("", "/chat"):
        path = f"{prefix}/api/sessions/%2F/{'a' * 20}?limit=1"
        answer = ask(proxy.connect(), path, Host=f"{NAME}:{proxy.port}", Authorization=f"Bearer {KEY}")
        assert answer.status == 404 and "There is no such session" in answer.error["detail"]


def test_headers_of_strangers(proxied: DocumentedServer, proxy: ReverseProxy) -> None:
    """What a client sends in the headers of proxies does not count behind a proxy."""
    own = f"{NAME}:{proxy.port}"
    evil = ("X-Forwarded-Host", "evil.example"), ("X-Forwarded-Proto", "http")
    forwarded = ("Forwarded", "host=evil.example;proto=http")
    for spoofed in (evil, (forwarded,), (*evil, forwarded)):
        page = ask(proxy.connect(), HANDSHAKE, *spoofed, Host=own, Origin=proxy.url)
        assert page.status == 200 and page.body.startswith(b"0{")
        foreign = ask(proxy.connect(), HANDSHAKE, *spoofed, Host=own, Origin="http://evil.example")
        assert foreign.status == 403
    rebound = ask(proxy.connect(), HANDSHAKE, Host="evil.example", X_Forwarded_Host=NAME)
    assert not rebound.body.startswith(b"0{")  # Caddy answers for no other site
    assert rebound.status == 421 or proxy.program == "caddy"


@pytest.mark.parametrize("kind", PROXIES, ids=lambda kind: kind.program)
def test_addresses_that_strangers_invent(tmp_path: Path, kind: type[ReverseProxy]) -> None:
    """The limit of an address holds, although the client of a proxy names other addresses."""
    server = DocumentedServer(tmp_path)
    server.environ["EVENTSTORE_LIMITS__HANDSHAKES_PER_ADDRESS"] = "1"
    with server, kind(tmp_path / "proxy", server.port) as proxy:
        own = f"{NAME}:{proxy.port}"
        statuses = [
            ask(proxy.connect(), HANDSHAKE, Host=own, X_Forwarded_For=f"203.0.113.{number}").status
            for number in range(3)
        ]
        assert statuses == [200, 429, 429]
        assert "A handshake was refused: there are 1 of 127.0.0.1" in server.log
