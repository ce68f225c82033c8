"""The steps of applications and clients of a cluster, for hypothesis and for random histories."""

from __future__ import annotations

import json
from collections.abc import Callable

from hypothesis.stateful import RuleBasedStateMachine

from socketio_eventlog.events import Event, Room
from socketio_eventlog.session_changes import SessionEnd
from socketio_eventstore.core.operation import Operation
from socketio_eventstore.core.operations import CloseRoom, Emit, JoinRoom, LeaveRoom, SaveData
from socketio_eventstore.core.session_operations import EndSession
from socketio_eventstore.core.sessions import Session
from support.cluster_world import NODES, Cluster, Node
from support.simulated_clients import Scene
from support.simulated_network import NAMESPACES, Client, Wire
from support.simulated_server import ROOMS
from support.steps import step


class ClusterSteps(RuleBasedStateMachine):
    """The steps of applications and clients."""

    world: Cluster
    passing: list[tuple[int, Callable[[], None]]]
    steps: int

    # The application --------------------------------------------------------------------------------

    @step(4)
    def emit(self, at: int, kind: str, number: int, room: Room) -> None:
        if (node := self.world.run_node(at)) is not None:
            event = self._event(node, kind, number, room)
            if node.submit(Emit(event)):
                assert self.world.shared.state.events[offset_of(node.result)] == event, "another event there"

    @step(3)
    def emit_at_all_nodes(self, kind: str, number: int, room: Room) -> None:
        """More events than the recent events in memory, and more than a page."""
        for at in (*range(NODES), *range(NODES)):
            self.emit(at, kind, number, room)

    @step(3)
    def join(self, at: int, number: int, room: Room) -> None:
        self._change(at, number, lambda session: [JoinRoom(session, room)])

    @step(2)
    def leave(self, at: int, number: int, room: Room) -> None:
        self._change(at, number, lambda session: [LeaveRoom(session, room)])

    @step()
    def join_emit_and_leave(self, at: int, number: int, room: Room) -> None:
        node = self.world.nodes[at]
        event = self._event(node, "room", number, room)
        self._change(
            at, number, lambda session: [JoinRoom(session, room), Emit(event), LeaveRoom(session, room)]
        )

    @step()
    def close_room(self, at: int, namespace: str, room: Room) -> None:
        if (node := self.world.run_node(at)) is not None:
            node.submit(CloseRoom(namespace, room))

    @step()
    def save(self, at: int, number: int) -> None:
        data = f'{{"saved":{next(self.world.ids)}}}'
        self._change(at, number, lambda session: [SaveData(session, data)])

    @step()
    def end(self, at: int, number: int, farewell: bool) -> None:
        node = self.world.run_node(at)
        if number % 2 and node is not None and (session := self._session(node, number)) is not None:
            self.world.ended.add((session.namespace, session.sid))
            reason = SessionEnd.DISCONNECTED if farewell else SessionEnd.REVOKED
            node.do(node.departures.end(EndSession(session, reason)))

    @step()
    def decide(self, number: int, accept: bool) -> None:
        """The connect handler of a client returns."""
        self._decide(self.world.clients[number], accept=accept)

    @step(2)
    def decide_about_a_zombie(self, number: int, accept: bool) -> None:
        for wire in self.world.zombies[number : number + 1]:
            if wire.decision is not None and not wire.decision.done():
                wire.decision.set_result(accept)
        self.world.loop.run_until_idle()

    # The network ------------------------------------------------------------------------------------

    @step()
    def connect(self, number: int, at: int) -> None:
        client, node = self.world.clients[number], self.world.run_node(at)
        if client.wire is None and node is not None:
            self.world.connect(client, node)

    @step(3)
    def reconnect_at_once(self, number: int, at: int) -> None:
        """The usual reconnection: connect, be accepted, take the first packet."""
        self._reconnect(number, at)

    @step(3)
    def reconnect_all(self, at: int) -> None:
        for number in range(len(NAMESPACES)):
            self._reconnect(number, (at + number) % NODES)

    @step(4)
    def move(self, number: int, at: int, how: Callable[[Scene, Client], None]) -> None:
        """A client goes to another node; the former transport may be half open."""
        how(self.world, self.world.clients[number])
        self._reconnect(number, at)

    @step(3)
    def deliver_everything(self) -> None:
        for client in self.world.clients:
            self.world.deliver(client, 1_000)

    @step(3)
    def deliver_some(self, number: int, count: int) -> None:
        self.world.deliver(self.world.clients[number], count)

    @step(4)
    def disconnect(self, number: int, how: Callable[[Scene, Client], None]) -> None:
        how(self.world, self.world.clients[number])

    @step(2)
    def notice_a_dead_transport(self) -> None:
        self.world.notice()

    @step(2)
    def ping_and_deliver(self, number: int) -> None:
        self.world.ping(self.world.clients[number])
        self.world.deliver(self.world.clients[number], 1_000)

    @step()
    def ping_all(self) -> None:
        for number in range(len(NAMESPACES)):
            self.ping_and_deliver(number)

    # ------------------------------------------------------------------------------------------------

    def _until(self, steps: int, end: Callable[[], None]) -> None:
        """Call a function after so many more steps."""
        self.passing.append((self.steps + 1 + steps, end))

    def _reconnect(self, number: int, at: int) -> None:
        client, node = self.world.clients[number], self.world.run_node(at)
        if client.wire is None and node is not None:
            self.world.connect(client, node)
        self._decide(client, accept=True)
        self.world.deliver(client, 1)
        self._decide(client, accept=True)

    def _decide(self, client: Client, *, accept: bool) -> None:
        if client.wire is not None and (decision := client.wire.decision) is not None:
            if not decision.done():
                decision.set_result(accept)
                if not accept:
                    self.world.refused.add(client.wire.id)
            self.world.loop.run_until_idle()

    def _accept(self, wire: Wire | None) -> None:
        """Let the connect handler accept a transport, perhaps after the client's end."""
        if wire is not None and wire.decision is not None and not wire.decision.done():
            wire.decision.set_result(True)

    def _change(self, at: int, number: int, operations: Callable[[Session], list[Operation]]) -> None:
        node = self.world.run_node(at)
        if node is not None and (session := self._session(node, number)) is not None:
            node.submit(*operations(session))

    def _session(self, node: Node, number: int) -> Session | None:
        """The session of a client on a node."""
        client = self.world.clients[number]
        return node.registry.get(client.namespace, client.sid)

    def _event(self, node: Node, kind: str, number: int, room: Room) -> Event:
        sid, namespace = self.world.clients[number].sid, NAMESPACES[number]
        rooms: dict[str, tuple[Room, ...] | None] = {"all": None, "skip": None, "to": (sid,)}
        rooms["room"] = rooms["skip room"] = (room,)
        rooms["rooms"] = (*ROOMS[:2], sid)
        skip = (sid,) if kind.startswith("skip") else ()
        payload = json.dumps(["e", f"event {next(self.world.ids)} of {node.handle.node}"])
        return Event(namespace, "e", payload, (), rooms[kind], skip, self.world.seconds)


def offset_of(text: object) -> int:
    """The sequence of an offset from an emit."""
    assert isinstance(text, str)
    return int(text.rpartition(".")[2])
