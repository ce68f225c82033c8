"""The histories of a cluster: nodes, log, and crossing claims."""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

from hypothesis import strategies as st
from hypothesis.stateful import initialize, invariant

from socketio_eventlog.events import Room
from support.cluster_steps import ClusterSteps
from support.cluster_world import NODES, RETENTION_SECONDS, Cluster, Node
from support.simulated_clients import Scene
from support.simulated_network import Client
from support.simulated_server import ROOMS
from support.steps import CHOICES, step


class ClusterHistories(ClusterSteps):
    """The steps of the cluster, in any order."""

    @initialize(connected=st.sampled_from(CHOICES["connected"]), alone=st.booleans())
    def begin(self, connected: int, alone: bool) -> None:
        """``alone``: whether a single node must heal the cluster at the end."""
        self.world = Cluster()
        self.alone = alone
        self.passing: list[tuple[int, Callable[[], None]]] = []
        self.steps = 0
        for number in range(connected):
            self._reconnect(number, number)

    # Claims that cross ------------------------------------------------------------------------------

    @step(2)
    def come_and_be_refused(self, number: int, at: int, how: Callable[[Scene, Client], None]) -> None:
        """A client is refused, although the former connection may live."""
        client, node = self.world.clients[number], self.world.run_node(at)
        how(self.world, client)
        if client.wire is None and node is not None:
            self.world.connect(client, node)
            self._decide(client, accept=False)
            self.world.deliver(client, 1)

    @step(3)
    def cross_claims(self, number: int, at: int, other: int, steps: int) -> None:
        """An older claim is on the way to the log while another node accepts the client."""
        client, node = self.world.clients[number], self.world.run_node(at)
        if node is None or at == other:
            return
        self.world.strand(client)
        self.hold(at, "appends", steps)
        self.world.connect(client, node)
        older = client.wire
        self.world.strand(client)
        self._reconnect(number, other)
        self._until(steps + 1, lambda: self._accept(older))

    @step(2)
    def cross_claims_and_end(self, number: int, at: int, other: int, ending: str) -> None:
        """An older claim takes the session from the client, and the claim's node or connection ends."""
        client, zombies = self.world.clients[number], len(self.world.zombies)
        self.cross_claims(number, at, other, 1)
        self.world.nodes[at].handle.release()
        self.world.loop.run_until_idle()
        if ending == "node":
            self.world.kill(at, lands=True)
            self.world.pass_a_lease()
        while len(self.world.zombies) > zombies:
            self.world.notice()
        self.world.deliver(client, 1_000)

    @step(2)
    def cross_an_absence(self, number: int, at: int, steps: int) -> None:
        """The end of a connection is on the way to the log while another node accepts the client."""
        client = self.world.clients[number]
        if (wire := client.wire) is not None and wire.server is not self.world.nodes[at]:
            self.hold(self.world.nodes.index(cast("Node", wire.server)), "appends", steps)
            self.world.cut(client)
            self._reconnect(number, at)

    @step(2)
    def be_refused_again_and_again(self, number: int, at: int) -> None:
        """A client is refused for longer than a session waits."""
        for _ in range(3):
            self.come_and_be_refused(number, at, Scene.cut)
            self.world.pass_time(4.0)
        self._reconnect(number, at)

    # The nodes and the log --------------------------------------------------------------------------

    @step(4)
    def hold(self, at: int, gate: str, steps: int) -> None:
        """The appends, batches or reads of a node wait for some steps."""
        handle = self.world.nodes[at].handle
        handle.hold(getattr(handle, gate))
        self._until(steps, getattr(handle, gate).open)
        self._until(steps, handle.nudge)

    @step(2)
    def let_batches_pass(self, at: int, count: int) -> None:
        handle = self.world.nodes[at].handle
        handle.may_pass += count
        handle.nudge()

    @step(4)
    def lose_answers(self, at: int, times: int, pauses: bool, steps: int) -> None:
        """The answers to appends are lost, perhaps with the connection."""
        handle = self.world.nodes[at].handle
        handle.answers_to_lose, handle.pauses_after_loss = times, pauses
        self._until(steps, handle.appends.open)

    @step(2)
    def freeze(self, at: int, steps: int) -> None:
        """A node stands still until another node, if any, has declared its death."""
        handle = self.world.nodes[at].handle
        handle.freeze()
        self.world.pass_a_lease()
        self._until(steps, handle.release)

    @step(2)
    def isolate(self, at: int, steps: int, seconds: float) -> None:
        """A node has no contact to the log for a while, perhaps for longer than the lease."""
        handle = self.world.nodes[at].handle
        handle.cut_off()
        self.world.pass_time(seconds)
        self._until(steps, handle.release)

    @step(2)
    def kill(self, at: int, lands: bool, back: bool) -> None:
        self.world.kill(at, lands=lands)
        if back:
            self.world.restart(at)

    @step(2)
    def claim_beside_a_sweep(self, number: int, at: int, kind: str, room: Room) -> None:
        """A client comes to a node with an older floor, and the others prune events."""
        self.world.cut(self.world.clients[number])
        self.emit(at, kind, number, room)
        self.ping_all()
        for beating in range(NODES):
            self.sweep(beating)
        self.world.pass_time(RETENTION_SECONDS)
        self.connect(number, at)
        for other in range(NODES):
            if other != at:
                self.sweep(other)

    @step(2)
    def die_after_a_claim(self, number: int, at: int, other: int, kind: str, room: Room) -> None:
        """A client returns to a node, and the node dies at once."""
        self.world.cut(self.world.clients[number])
        self.emit(other, kind, number, room)
        for node in self.world.running:
            node.sweep()
        self._reconnect(number, at)
        self.sweep(other)
        self.world.kill(at, lands=True)
        self.world.pass_a_lease()

    @step(2)
    def restart(self, at: int) -> None:
        self.world.restart(at)

    @step()
    def pass_time(self, seconds: float, sweep: bool) -> None:
        if sweep:
            self.world.pass_time(seconds)
        else:
            self.world.wait(seconds)

    @step(3)
    def sweep(self, at: int) -> None:
        """A node writes a heartbeat; the first one ends sessions and prunes events."""
        if (node := self.world.run_node(at)) is not None:
            node.sweep()

    # ------------------------------------------------------------------------------------------------

    @invariant()
    def invariants_hold(self) -> None:
        if hasattr(self, "world"):
            self.steps += 1
            for step, end in [*self.passing]:
                if step <= self.steps:
                    self.passing.remove((step, end))
                    end()
            self.world.loop.run_until_idle()
            self.world.look()
            self.world.check()

    def teardown(self) -> None:
        if hasattr(self, "world"):
            try:
                self.finish()
            finally:
                self.close()

    def close(self) -> None:
        self.world.stop()
        self.world.loop.close()

    def finish(self) -> None:
        """After any history, the remaining nodes heal the cluster."""
        world = self.world
        for node in world.nodes:
            node.handle.release()
        world.loop.run_until_idle()
        world.check()
        left = range(1 if self.alone else NODES)
        for at in range(len(left), NODES):
            world.kill(at, lands=True)
        while world.zombies:
            world.notice()
        for turn in range(10):  # longer than a lease
            for at in left:
                world.restart(at)
            for number, client in enumerate(world.clients):
                self._reconnect(number, (turn + number) % len(left))
                world.ping(client)
                world.deliver(client, 1_000)
            world.pass_time(2.0)
            world.check()
        for at in range(NODES):
            self.emit(at, "all", 0, ROOMS[0])
        for client in world.clients:
            world.deliver(client, 1_000)
        world.check_at_rest()
