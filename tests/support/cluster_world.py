"""Three nodes over a log, with clients and a network."""

from __future__ import annotations

from socketio_eventlog.changes import Batch
from socketio_eventlog.errors import StoreUnavailable
from socketio_eventlog.log import LEASE_SECONDS
from socketio_eventstore.core.sessions import Session, State
from support.cluster_judge import Judge, compare
from support.cluster_log import Handle, SharedLog
from support.simulated_clients import Scene
from support.simulated_network import Client, Wire
from support.simulated_server import DURATION, SimulatedServer

NODES = 3
RETENTION_SECONDS = 2.0
"""Short, so only the floor keeps events for sessions."""
RECONNECTION_SECONDS = 1.1
"""The shortest time between two connections of a client.

A claim that took less than ``PROMPT_CLAIM_SECONDS`` is therefore no older claim of the same client.
"""


class Node(SimulatedServer):
    """A life of a node."""

    def __init__(self, scene: Cluster, log: Handle) -> None:
        super().__init__(scene, log, log.join(), retention_seconds=RETENTION_SECONDS)
        self.handle = log
        self.is_lost = False
        """Whether the node has noticed the end of its life."""

    def lost(self, reason: str) -> None:
        self.is_lost = True

    def look(self) -> None:
        """Let the node check its lease, unless frozen."""
        if not self.handle.is_frozen:
            self.call(self.lease.look)

    @property
    def is_member(self) -> bool:
        """Whether the node is running and was not declared dead."""
        return self.is_running and self.handle.node in self.handle.state.nodes


class Cluster(Scene):
    """Nodes that share a log, and clients."""

    def __init__(self) -> None:
        super().__init__()
        self.judge = Judge(self)
        self.shared = SharedLog(lambda: self.seconds, self._judge)
        self.nodes = [self._new_node() for _ in range(NODES)]
        self.loop.run_until_idle()

    def _judge(self, batch: Batch) -> None:
        self.twins.add(batch)
        try:
            self.judge.add(batch)
        except AssertionError as error:  # inside a task of the core, which would go on
            self.faults.append(str(error))

    # Nodes ------------------------------------------------------------------------------------------

    def _new_node(self) -> Node:
        handle = Handle(self.shared, f"node{next(self.ids)}", lambda: self.seconds)
        return self.loop.call(lambda: Node(self, handle))

    def kill(self, at: int, *, lands: bool) -> None:
        """End the process of a node; ``lands``: whether the batch under way reaches the log."""
        node = self.nodes[at]
        if not node.is_running:
            return
        if lands and node.handle.sending is not None:
            self._land(node.handle)
        for client in self.clients:
            if client.wire is not None and client.wire.server is node:
                self.hang_up(client)
        self.zombies = [wire for wire in self.zombies if wire.server is not node]
        node.handle.is_closed = True
        self.shared.handles.remove(node.handle)
        node.kill()

    def _land(self, handle: Handle) -> None:
        assert handle.sending is not None
        try:
            self.shared.append(handle.node, *handle.sending)
        except StoreUnavailable:
            return

    def restart(self, at: int) -> None:
        """Start a node under a new id, after its end or declared death."""
        node = self.nodes[at]
        if node.is_running and not node.handle.is_fenced:
            return
        self.kill(at, lands=False)
        self.nodes[at] = self._new_node()
        self.check()

    def run_node(self, at: int) -> Node | None:
        """The node, if running."""
        return self.nodes[at] if self.nodes[at].is_running else None

    @property
    def running(self) -> list[Node]:
        return [node for node in self.nodes if node.is_running]

    def pass_time(self, seconds: float) -> None:
        """Let time pass, with sweeps by the nodes with contact to the log."""
        while seconds > 0.0:
            self.wait(min(seconds, 2.0))
            seconds -= 2.0
            for node in self.running:
                if node.handle.appends.is_open and node.handle.deliveries.is_open:
                    node.sweep()
            self.check()

    def pass_a_lease(self) -> None:
        self.pass_time(LEASE_SECONDS + 4.0)

    def wait(self, seconds: float) -> None:
        super().wait(seconds)
        self.look()

    def look(self) -> None:
        """Let the nodes check their leases; a node after its life ends, and clients notice the end."""
        for at, node in enumerate(self.nodes):
            if node.is_running:
                node.look()
                if node.is_lost:
                    self.kill(at, lands=next(self.ids) % 2 == 0)
                else:
                    self._check_lease(node)

    # Clients ----------------------------------------------------------------------------------------

    def connect(self, client: Client, server: SimulatedServer) -> None:
        pause = client.connected_at + RECONNECTION_SECONDS - self.seconds
        if pause > 0.0:
            self.wait(pause)
        client.connected_at = self.seconds
        super().connect(client, server)

    def last_contact(self, wire: Wire) -> float:
        node = wire.server
        assert isinstance(node, Node)
        return node.handle.contact_at

    def check_packets(self, wire: Wire, packets: list[str]) -> None:  # type: ignore[override]
        if any(packet.startswith("42") for packet in packets):
            node = wire.server
            assert isinstance(node, Node)
            assert node.handle.owns(wire.claims, wire.claim), f"{node.handle.node} does not own {wire.claims}"

    def session_expired(self, server: SimulatedServer, session: Session) -> None:
        assert isinstance(server, Node)
        self.judge.session_expired(server, session)
        super().session_expired(server, session)

    def must_recover(self, client: Client) -> bool:
        # A client counts as away from the claim that took the session.
        gone_at = self.judge.gone_at.get(client.key, self.seconds)
        return super().must_recover(client) and self.seconds - gone_at <= DURATION

    # Invariants -------------------------------------------------------------------------------------

    def check(self) -> None:
        super().check()
        for node in self.running:
            # A node that has noticed its death goes on from memory, until the restart.
            if not node.handle.is_fenced and node.context.nodes.batch == node.handle.fold.batch:
                compare(node.registry, node.handle.fold, node.handle.node)
        for client in self.clients:
            self._check_service(client)
            self._check_positions(client)

    def _check_lease(self, node: Node) -> None:
        """Check that no node keeps clients for longer than a lease without contact."""
        seconds = self.seconds - node.handle.contact_at
        assert node.handle.is_frozen or seconds <= LEASE_SECONDS, f"{node} has lost its lease"

    def _check_service(self, client: Client) -> None:
        """Check that no connection of a client is open and silent for ever."""
        wire = client.wire
        if wire is None or not client.connected or client.key in self.ended or wire.closed:
            return
        session = wire.server.registry.get(*client.key)
        assert session is not None, f"{client.key} is connected and unknown"
        is_told = any(packet.startswith("41") for packet in wire.in_flight)
        is_served = session.current.connection is wire or wire in session.superseded
        assert is_told or is_served, f"{client.key} is connected and not served"

    def _check_positions(self, client: Client) -> None:
        """Check the confirmed positions of the log and the nodes."""
        if client.key not in self.twins.present:
            return
        has = len(client.received)
        row = self.shared.state.sessions.get(client.key)
        known = [0 if row is None else row.confirmed]
        for node in self.running:
            session = node.registry.get(*client.key)
            if session is not None and session.state is not State.ENDED:
                known.append(session.confirmed)
        assert self._events_until(client, max(known)) <= has, f"{client.key} has not received {max(known)}"
        if client.connected or self.must_recover(client):
            pruned = self.shared.state.pruned_through
            assert self._events_until(client, pruned) <= has, f"{client.key} needs events before {pruned}"

    def _events_until(self, client: Client, sequence: int) -> int:
        return sum(number <= sequence for number, _ in self.twins.received[client.key])

    def check_at_rest(self) -> None:
        """Check that the cluster has healed: each client is live, and no node is behind."""
        self.check()
        assert set(self.shared.state.nodes) == {node.handle.node for node in self.running}
        for client in self.clients:
            wire = client.wire
            assert client.connected and wire is not None, f"a client that cannot reconnect: {client}"
            assert client.received == self.expected(client), f"{client.key} misses an event at the end"
            session = wire.server.registry.get(*client.key)
            assert session is not None and session.current.connection is wire, f"{client.key} is not served"
            assert session.state is State.LIVE, f"{client.key} is not live: {session.state}"
            assert session.data == self.twins.data[client.key]
            assert {client.sid, *session.joined} == self.twins.present[client.key]
        for node in self.running:
            applied = node.handle.fold.batch, node.context.nodes.batch
            assert applied == (self.shared.state.batch,) * 2, f"{node.handle.node} is behind: {applied}"

    def stop(self) -> None:
        for at in range(NODES):
            self.kill(at, lands=False)
        self.end_tasks()
