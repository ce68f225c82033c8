"""``/metrics`` of a real server: its formats, and who may read it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from support.api import KEY, serving_api
from support.clients import NodeClients
from support.http_requests import ask
from support.processes import ServerProcess
from support.reverse_proxies import NAME, PROXIES, DocumentedServer, ReverseProxy
from support.scrapes import OPENMETRICS, scrape, scrape_of


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    folder = tmp_path_factory.mktemp("server")
    hosts = ["127.0.0.1", f"unix:{folder}/socket"]
    with serving_api(folder, {"server": {"host": hosts, "allowed_hosts": ["*"]}}) as server:
        yield server


async def test_kill_is_seen_in_the_metrics(node: NodeClients, tmp_path: Path) -> None:
    """After kill -9 and a start, a scrape has the recovery of an official client."""
    with ServerProcess(tmp_path) as server:
        client = await node.client(server.url)
        await client.connected()
        observer = await node.control(server.url)
        await observer.call("publish", {"name": "event", "data": 1})
        await client.received("event")
        before = scrape(server.port)
        assert before.value("socket_io_connected", namespace="/") == 1
        assert before.value("events_emitted_total", kind="stored") == 1
        server.restart()
        await client.recovered_again()
        after = scrape(server.port)
    assert after.value("recoveries_total", result="recovered") >= 1
    assert after.value("log_head_offset") == before.value("log_head_offset")
    assert after.value("process_start_time_seconds") > before.value("process_start_time_seconds")


@pytest.mark.parametrize("accept", ["text/plain", OPENMETRICS, "*/*"])
def test_formats(server: ServerProcess, accept: str) -> None:
    """A scraper gets the format that it accepts, and the parser of the format reads every line."""
    answer = ask(server.port, "/metrics", Host="localhost", Accept=accept)
    is_openmetrics = "openmetrics" in str(answer.header("content-type"))
    assert is_openmetrics == ("openmetrics" in accept)
    assert answer.body.endswith(b"# EOF\n") == is_openmetrics
    assert scrape_of(answer).value("ready") == 1
    assert answer.header("cache-control") == "no-store"


def test_unix_socket(server: ServerProcess) -> None:
    """The peer of a Unix socket is normally a proxy, so its clients need a key."""
    where = server.folder / "socket"
    assert ask(where, "/metrics", Host="localhost").status == 403
    assert ask(where, "/metrics", Host="localhost", Authorization=f"Bearer {KEY}").status == 200


def test_trusted_proxies(tmp_path: Path) -> None:
    """With a trusted proxy, which may add no header, a client that names localhost needs a key."""
    with serving_api(tmp_path, {"server": {"trusted_proxies": ["127.0.0.1"]}}) as server:
        refused = ask(server.port, "/metrics", Host="localhost")
        assert refused.status == 403 and b"a key is needed" in refused.body
        assert ask(server.port, "/metrics", Host="localhost", Authorization=f"Bearer {KEY}").status == 200


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("X-Forwarded-For", "203.0.113.9"),
        ("X-Forwarded-For", "127.0.0.1"),
        ("X-Forwarded-Proto", "https"),
        ("X-Forwarded-Host", "localhost"),
        ("X-Real-IP", "127.0.0.1"),
        ("Forwarded", "for=127.0.0.1"),
        ("Via", "1.1 proxy"),
    ],
)
def test_request_of_a_proxy(server: ServerProcess, name: str, value: str) -> None:
    """A request that a proxy has passed on is refused: its client is a stranger."""
    answer = ask(server.port, "/metrics", (name, value), Host="localhost")
    assert answer.status == 403 and answer.body.startswith(b"A proxy has passed this request on")


@pytest.mark.parametrize("host", ["chat.example.com", "203.0.113.9", ""])
def test_request_for_another_host(server: ServerProcess, host: str) -> None:
    """A request to a public name is refused: a proxy without headers of its own keeps the name."""
    assert ask(server.port, "/metrics", Host=host).status in (400, 403)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost:3000", "[::1]:3000"])
def test_request_to_this_machine(server: ServerProcess, host: str) -> None:
    """Each name of the machine itself is accepted."""
    assert ask(server.port, "/metrics", Host=host).status == 200


@pytest.mark.parametrize("kind", PROXIES, ids=lambda kind: kind.program)
def test_metrics_behind_a_proxy(tmp_path: Path, kind: type[ReverseProxy]) -> None:
    """The documented proxies show the metrics to no client."""
    with (
        DocumentedServer(tmp_path) as server,
        kind(tmp_path / "proxy", server.port) as proxy,
        proxy.connect() as connection,
    ):
        assert ask(connection, "/metrics", Host=NAME).status == 403
