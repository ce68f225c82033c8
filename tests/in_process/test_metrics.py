"""The metrics of a server: what it has done is counted, with bounded labels."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import REGISTRY, generate_latest

from socketio_eventstore import LogFull, StoreUnavailable
from socketio_eventstore.core import commit_queue, health
from socketio_eventstore.core.histogram import Histogram
from socketio_eventstore.core.recovery import RecoveryResult
from socketio_eventstore.program.metric_families import MAX_NAMESPACES, REFUSALS
from socketio_eventstore.program.metrics import registry_of
from support.core import pausable_commits
from support.embedded import Server, away, serving, until
from support.http_requests import HANDSHAKE
from support.scrapes import Scrape, scrape_embedded

NAMES = (
    "socket_io_connected",
    "socket_io_connect_total",
    "socket_io_disconnect_total",
    "socket_io_events_received_total",
    "socket_io_events_sent_total",
    "socket_io_receive_bytes_total",
    "socket_io_transmit_bytes_total",
    "recoveries_total",
    "log_commit_duration_seconds_bucket",
    "log_commit_batch_size_bucket",
    "log_head_offset",
    "log_pruned_through_offset",
    "sessions",
    "slow_client_disconnects_total",
    "process_resident_memory_bytes",
    "python_gc_collections_total",
)


def test_histogram_counts_up_to_each_bound() -> None:
    """A value counts for its bound and for all larger ones; the sum is that of the values."""
    histogram = Histogram((1, 2.5))
    for value in (0.5, 1, 2, 9):
        histogram.measured(value)
    assert list(histogram.cumulative()) == [(1, 2), (2.5, 3), (float("inf"), 4)]
    assert histogram.sum == 12.5


async def test_names_of_the_ecosystem(server: Server) -> None:
    """A scrape has the names on which dashboards rely, each with its values from the start."""
    await server.sio.start()
    found = scrape_embedded(server)
    assert set(NAMES) <= found.names()
    assert set(found.values("recoveries_total", "result")) == set(map(str, RecoveryResult))
    assert found.value("ready") == 1


async def test_store_that_is_not_open(server: Server) -> None:
    """Before the start, a scrape works and says that the server is not ready."""
    assert scrape_embedded(server).value("ready") == 0


async def test_events_are_counted(server: Server) -> None:
    """Events count by kind and for each recipient, and so do their bytes."""
    server.sio.on("hello", lambda sid: "answer")
    clients = [await server.client() for _ in range(3)]
    await server.sio.emit("news", "to all")
    await server.sio.emit("news", "to one", to=clients[0].sid)
    await server.sio.emit("news", "volatile", volatile=True)
    await server.sio.emit("question", to=clients[1].sid, callback=lambda *_: None)
    await clients[2].send('427["hello"]')
    packets = [await clients[2].packet() for _ in range(3)]
    assert packets[-1] == '437["answer"]'
    found = scrape_embedded(server)
    kinds = {"stored": 2, "volatile": 1, "acknowledged": 1}
    assert found.values("events_emitted_total", "kind") == kinds
    assert found.value("socket_io_events_sent_total") == 3 + 1 + 3 + 1
    assert found.value("socket_io_events_received_total") == 1
    assert found.value("socket_io_transmit_bytes_total") > 3 * len('42["news","to all"]')
    assert found.value("socket_io_receive_bytes_total") == 3 * len("40") + len('427["hello"]')
    assert found.value("acknowledgements_open") == 1


async def test_connections_and_sessions(server: Server) -> None:
    """Connections count by transport, sessions by state, and clients that have gone by reason."""
    first, _ = await server.client(), await server.polling()
    second = await server.client()
    await away(server, first)
    await second.send("41")
    reason = "client disconnect"
    await until(lambda: scrape_embedded(server).value("socket_io_disconnect_total", reason=reason) == 1)
    found = scrape_embedded(server)
    assert found.values("connections", "transport") == {"polling": 1, "websocket": 1}
    assert found.value("pending_handshakes") == 1
    assert found.value("socket_io_connect_total") == 2
    assert found.value("socket_io_connected", namespace="/") == 0
    gone = found.values("socket_io_disconnect_total", "reason")
    assert gone["transport close"] == 1 and gone[reason] == 1
    assert found.value("sessions", state="away") == 2


async def test_recoveries_are_counted(server: Server) -> None:
    """A recovery counts by its result, and so do the events that were sent again."""
    client = await server.socket()
    pid = (await client.connect())["pid"]
    await away(server, client)
    await server.sio.emit("missed")
    returned = await server.client(auth={"pid": pid})
    await returned.event()
    await server.client(auth={"pid": "unknown"})
    found = scrape_embedded(server)
    results = found.values("recoveries_total", "result")
    assert (results["recovered"], results["unknown_session"]) == (1, 1)
    assert found.value("events_replayed_total") == 1


async def test_commits_are_measured(server: Server) -> None:
    """Each commit counts in the histograms, and the offsets are those of the log."""
    await server.sio.start()
    before = scrape_embedded(server)
    for _ in range(5):
        await server.sio.emit("event")
    found = scrape_embedded(server)
    name = "log_commit_duration_seconds"
    assert found.value(f"{name}_count") >= before.value(f"{name}_count") + 5
    assert 0 < found.value(f"{name}_sum") < 60
    assert found.value(f"{name}_bucket", le="+Inf") == found.value(f"{name}_count")
    assert found.value("log_commit_batch_size_bucket", le="1.0") >= 5
    assert found.value("log_head_offset") == 5
    assert found.value("store_size_bytes") > 0 and found.value("store_max_size_bytes") == 1e9
    assert found.value("log_index_memory_bytes") > 0


async def test_size_is_that_of_the_last_heartbeat(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The size of the store grows with its events, although nothing was deleted."""
    monkeypatch.setattr(health, "HEARTBEAT_SECONDS", 0.01)
    async with serving(path) as server:
        await server.sio.start()
        before = scrape_embedded(server)
        await server.sio.emit("event", "x" * 100_000)
        await until(lambda: _grew(before, scrape_embedded(server), 100_000))


def _grew(before: Scrape, found: Scrape, size_bytes: int) -> bool:
    names = ("store_size_bytes", "store_wal_size_bytes")
    return all(found.value(name) >= before.value(name) + size_bytes for name in names)


async def test_failed_commits_are_counted(server: Server) -> None:
    """A commit that fails counts, and what the limits refuse counts by limit."""
    await server.sio.start()
    async with pausable_commits(server) as commits:
        for error, kind in ((StoreUnavailable("broken."), StoreUnavailable), (LogFull("full."), LogFull)):
            commits.fail_with(error)
            with pytest.raises(kind):
                await server.sio.emit("event")
    found = scrape_embedded(server)
    assert found.value("log_commit_failures_total") == 2
    assert found.value("refusals_total", reason="max_size") == 1


async def test_refusals_are_counted(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each limit and each rule of access has a reason of its own."""
    limits = {"connections": 2, "pending_handshakes": 1, "rooms_per_session": 1, "allowed_hosts": []}
    async with serving(path, recovery=limits) as server:
        client = await server.client()
        await server.polling()
        await _get(server)
        await server.sio.enter_room(client.sid, "a")
        with pytest.raises(ValueError, match="rooms_per_session"):
            await server.sio.enter_room(client.sid, "b")
        monkeypatch.setattr(commit_queue, "QUEUE_OPERATIONS", 1)
        waiting = asyncio.ensure_future(server.sio.enter_room(client.sid, "a"))
        await asyncio.sleep(0)
        with pytest.raises(StoreUnavailable):
            await server.sio.emit("event")
        await waiting
        await _get(server, Host="rebound.example.com")
        await _get(server, Origin="http://evil.example.com")
        refused = {"connections": 1, "rooms_per_session": 1, "queue_full": 1, "host": 1, "origin": 1}
        expected = dict.fromkeys(REFUSALS, 0) | refused
        assert scrape_embedded(server).values("refusals_total", "reason") == expected


async def _get(server: Server, **headers: str) -> None:
    url = server.url.removesuffix("/socket.io/") + HANDSHAKE
    async with server.http.get(url, headers=headers) as response:
        assert response.status >= 400, await response.text()


async def test_handler_errors_are_counted(server: Server) -> None:
    """An exception counts by the kind of handler, never by the event's name, which a client chooses."""

    def fail(*_: Any) -> None:
        raise RuntimeError("of a test")

    server.sio.on("secret name", fail)
    server.sio.on("disconnect", fail)
    client = await server.client()
    await client.send('42["secret name"]')
    await until(lambda: scrape_embedded(server).value("handler_errors_total", handler="event") == 1)
    await away(server, client)
    await until(lambda: scrape_embedded(server).value("handler_errors_total", handler="disconnect") == 1)
    assert "secret name" not in scrape_embedded(server).text


async def test_slow_clients_are_counted(path: Path) -> None:
    """A client that does not read counts when its transport is closed."""
    async with serving(path, recovery={"max_client_buffer": 10_000}) as server:
        polling = await server.polling()
        await polling.connect()
        for _ in range(5):
            await server.sio.emit("large", "x" * 4000)
        assert scrape_embedded(server).value("slow_client_disconnects_total") == 1


async def test_prunings_are_measured(path: Path) -> None:
    """Deleted events count, each deletion has a duration, and sessions that expire count."""
    options = {"max_disconnection_duration": 0.05, "prune_interval": 0.02}
    async with serving(path, recovery=options) as server:
        client = await server.client()
        await server.sio.emit("event")
        await away(server, client)
        await until(lambda: _pruned(scrape_embedded(server)))


def _pruned(found: Scrape) -> bool:
    return bool(
        found.value("pruned_events_total") == found.value("log_pruned_through_offset") == 1
        and found.value("prune_duration_seconds_count") == 1
        and found.value("sessions_expired_total") == 1
    )


async def test_namespaces_are_bounded(path: Path) -> None:
    """Namespaces that clients invent share a label from a number on; those with handlers keep theirs."""
    async with serving(path, namespaces="*") as server:
        server.sio.on("event", lambda sid: None, namespace="/last")
        registry, client = registry_of(server.sio), await server.socket()
        for number in range(MAX_NAMESPACES + 9):
            await client.connect(f"/invented{number}")
        await client.connect("/last")
        connected = scrape_embedded(server, registry).values("socket_io_connected", "namespace")
        assert len(connected) == MAX_NAMESPACES + 1
        assert connected["/last"] == 1 and connected["other"] == 10


async def test_no_sid_and_no_room_is_shown(server: Server) -> None:
    """Neither ids of clients nor names of rooms are in a scrape."""
    client = await server.socket()
    answer = await client.connect()
    await server.sio.enter_room(answer["sid"], "a secret room")
    await server.sio.emit("a secret event", "a secret payload", to="a secret room")
    text = scrape_embedded(server).text
    for secret in (answer["sid"], answer["pid"], *server.engine.sockets, "secret"):
        assert secret not in text


async def test_global_registry_is_the_applications(server: Server) -> None:
    """The metrics of a server are not in the global registry, so two servers do not collide."""
    await server.sio.start()
    registry_of(server.sio)
    registry_of(server.sio)
    assert b"log_head_offset" not in generate_latest(REGISTRY)


def test_embedded_applications_load_no_prometheus() -> None:
    """The public package imports neither prometheus_client nor structlog."""
    code = """
import sys, socketio_eventstore
socketio_eventstore.AsyncServer(None, async_mode="asgi")
assert not {"prometheus_client", "structlog"} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


async def test_admission_of_refused_clients(path: Path) -> None:
    """A CONNECT packet that is refused counts, also one to an unknown namespace."""
    async with serving(path) as server:
        server.sio.on("connect", lambda sid, environ: False)
        client = await server.socket()
        await client.send("40")
        assert str(await client.packet()).startswith("44")
        await client.send("40/unknown,")
        assert str(await client.packet()).startswith("44")
        found = scrape_embedded(server)
        assert found.value("connect_errors_total") == 2 and found.value("socket_io_connect_total") == 0
