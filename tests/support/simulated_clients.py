"""The clients of simulated servers, the network, and the expected events of each client."""

from __future__ import annotations

import asyncio
import itertools
import json
import logging
from collections.abc import Coroutine, Sequence
from typing import Any, cast

from socketio_eventlog.errors import StoreError
from socketio_eventstore.core.sessions import Session, State
from support.simulated_network import NAMESPACES, PING, Client, VirtualLoop, Wire
from support.simulated_server import DURATION, LIMITS, SimulatedServer, is_expected, new_task
from support.simulated_twins import Twins, text_of


class Faults(logging.Handler):
    """Records the faults that the core logs; after a fault the core goes on for the other clients."""

    def __init__(self) -> None:
        super().__init__()
        self.texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        if record.exc_info and not isinstance(record.exc_info[1], StoreError):
            self.texts.append(self.format(record))


LOGGED = Faults()


class Scene:
    """Servers, clients, and the network in between."""

    def __init__(self) -> None:
        self.loop = VirtualLoop()
        self.twins = Twins()
        self.seconds = 1_000.0
        self.clients = [Client(namespace, last_seen=self.seconds) for namespace in NAMESPACES]
        self.zombies: list[Wire] = []
        """Transports without a client, still open for the server."""
        self.texts: dict[str, str] = {}
        """The text of the event of each offset."""
        self.ended: set[tuple[str, str]] = set()
        """The sessions ended by the application or by expiry."""
        self.away_again: set[tuple[str, str]] = set()
        """The sessions with a resumption lost in a crash."""
        self.refused: set[str] = set()
        """The transports that may receive CONNECT_ERROR."""
        self.faults = LOGGED.texts
        self.faults.clear()
        self.ids = itertools.count(1)
        self.loop.set_task_factory(cast("Any", new_task))
        self.loop.set_exception_handler(lambda _, context: self.faults.append(repr(context)))

    def spawn(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        return self.loop.create_task(work)

    def do(self, work: Coroutine[Any, Any, Any]) -> bool:
        """Run work that may fail with a StoreError only; return whether it is done."""

        def check(task: asyncio.Task[Any]) -> None:
            error = None if task.cancelled() else task.exception()
            if not is_expected(error):
                self.faults.append(repr(error))

        task = self.spawn(work)
        task.add_done_callback(check)
        self.loop.run_until_idle()
        return task.done() and not task.cancelled() and task.exception() is None

    def end_tasks(self) -> None:
        for task in asyncio.all_tasks(self.loop):
            task.cancel()
        self.loop.run_until_idle()

    def wait(self, seconds: float) -> None:
        """Let time pass, for the timers of the servers, too."""
        self.seconds += seconds
        self.loop.now += seconds
        for client in self.clients:
            if client.connected and client.wire is not None and not client.wire.closed:
                client.last_seen = self.last_contact(client.wire)

    def last_contact(self, wire: Wire) -> float:
        """When the server of a transport was last known to be alive."""
        return self.seconds

    def session_expired(self, server: SimulatedServer, session: Session) -> None:
        key = session.namespace, session.sid
        for client in self.clients:
            assert client.key != key or not self.must_recover(client), f"expired too early: {client}"
        self.ended.add(key)

    # The network ------------------------------------------------------------------------------------

    def connect(self, client: Client, server: SimulatedServer) -> None:
        wire = client.wire = server.new_wire()
        auth = {key: value for key, value in (("pid", client.pid), ("offset", client.offset)) if value}
        server.call(lambda: server.admission.connect(cast("Any", wire), client.namespace, auth or None))

    def hang_up(self, client: Client) -> Wire | None:
        """Close the client's end of the transport."""
        wire, client.wire = client.wire, None
        if client.connected and wire is not None:
            client.last_seen = self.last_contact(wire)
        client.connected = False
        if wire is not None:
            wire.in_flight.clear()
        return wire

    def cut(self, client: Client) -> None:
        """Break a transport; both ends notice the break."""
        if (wire := self.hang_up(client)) is not None:
            wire.server.call(lambda: wire.close("transport close"))

    def strand(self, client: Client) -> None:
        """Break a transport; only the client notices the break."""
        if (wire := self.hang_up(client)) is not None:
            self.zombies.append(wire)

    def send_disconnect(self, client: Client) -> None:
        """The Disconnect button of the tutorial: DISCONNECT; the client ignores later packets."""
        if (wire := self.hang_up(client)) is not None and not wire.closed:
            server = wire.server
            server.call(lambda: server.departures.client_disconnected(cast("Any", wire), client.namespace))
            server.call(lambda: wire.close("transport close"))

    def notice(self) -> None:
        """Let a server notice an earlier broken transport."""
        if self.zombies:
            wire = self.zombies.pop(0)
            wire.server.call(lambda: wire.close("ping timeout"))

    def ping(self, client: Client) -> None:
        """Send a heartbeat as the transport does."""
        if client.wire is not None and not client.wire.closed and PING not in client.wire.in_flight:
            client.wire.ping(self.seconds)

    def deliver(self, client: Client, count: int) -> None:
        """Let the client take packets, one by one."""
        if client.wire is not None:
            client.wire.server.call(lambda: self._deliver(client, count))

    def _deliver(self, client: Client, count: int) -> None:
        for _ in range(count):
            wire = client.wire
            if wire is None or not wire.in_flight:
                return
            self._take(client, wire, wire.in_flight.popleft())

    def check_packets(self, wire: Wire, packets: Sequence[str]) -> None:
        """Check what a server writes to a transport."""

    # The clients ------------------------------------------------------------------------------------

    def _take(self, client: Client, wire: Wire, packet: str) -> None:
        if packet == PING:
            if not wire.closed:
                wire.pong()
                client.answered_at = wire.pinged_at if client.connected else client.answered_at
            return
        kind, start = packet[:2], packet.find("[" if packet[:2] == "42" else "{")
        content: Any = json.loads(packet[start:]) if start > 0 else None
        match kind:
            case "40":
                self._connected(client, content)
            case "44":
                assert not client.connected, "an error after the acceptance"
                allowed = wire.id in self.refused or wire.claims in self.ended
                assert allowed, f"CONNECT_ERROR to a client that was not refused: {packet}"
                self.hang_up(client)
                wire.close("transport close")
            case "41":
                allowed = client.key in self.ended
                assert allowed, f"DISCONNECT to a client that was not disconnected: {client}"
                self.hang_up(client)
                wire.close("transport close")
            case "42":
                assert client.connected, f"an event before the acceptance: {packet}"
                self._event(client, *content)
            case _:
                raise AssertionError(packet)

    def _connected(self, client: Client, content: dict[str, str]) -> None:
        assert not client.connected, "a second CONNECT"
        recovered = content["pid"] == client.pid
        if recovered:
            assert content["sid"] == client.sid, "another sid under the same pid"
        else:
            assert not self.must_recover(client), f"a session that must be recovered is lost: {client}"
            client.received = []
        client.sid, client.pid, client.connected = content["sid"], content["pid"], True
        client.last_seen = self.seconds
        self.away_again.discard(client.key)
        assert client.key in self.twins.received, "a session that is not on disk"
        expected = self.expected(client)
        assert client.received == expected[: len(client.received)], "recovered with another past"

    def _event(self, client: Client, name: str, text: str, offset: str) -> None:
        client.offset = offset
        if name == "volatile":
            return
        assert self.texts.setdefault(offset, text) == text, f"{offset} was given out twice"
        expected = self.expected(client)
        index = len(client.received)
        assert expected[index : index + 1] == [text], (
            f"{client.key} received {text} at index {index}, where its twin has {expected}"
        )
        position, _ = self.twins.received[client.key][index]
        assert offset.rpartition(".")[2] == str(position), f"{text} has another offset than {position}"
        client.received.append(text)

    def expected(self, client: Client) -> list[str]:
        """The texts of the twin's events."""
        return [text_of(event) for _, event in self.twins.received.get(client.key, [])]

    def must_recover(self, client: Client) -> bool:
        """Whether the server must recover the client's session."""
        if client.pid is None or client.key in self.ended or client.key not in self.twins.present:
            return False
        if client.key in self.away_again:  # the time to return began earlier
            return False
        if self.confirms_nothing(client):
            return False
        # The uptime clock may be slower than this clock, never faster.
        return self.seconds - client.last_seen <= DURATION and not self.is_lost(client.offset)

    def confirms_nothing(self, client: Client) -> bool:
        """Whether the client has not confirmed a missed event for too long, by offset or heartbeat."""
        missed = self.twins.received[client.key][len(client.received) :]
        too_old = self.seconds - LIMITS.max_unconfirmed_seconds
        return bool(missed) and max(missed[0][1].emitted_at, client.answered_at) <= too_old

    def is_lost(self, offset: str | None) -> bool:
        """Whether an offset lies in a future lost in a crash."""
        return False

    def check(self) -> None:
        assert not self.faults, self.faults
        for client in self.clients:
            self._check(client)

    def _check(self, client: Client) -> None:
        wire = client.wire
        if wire is None:
            return
        if wire.closed:
            self.hang_up(client)
            return
        session = wire.sessions.get(client.namespace)
        if client.connected and not wire.in_flight and session is not None and session.state is State.LIVE:
            reached = [
                text_of(event)
                for sequence, event in self.twins.received[client.key]
                if sequence <= wire.server.queue.position
            ]
            assert client.received == reached, f"{client.key} is live and misses an event"
